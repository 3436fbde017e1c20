"""`predict --target aws`: the alias, the failures of a function, and images over 6 MB."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lambda_src.service import Service
from lambda_src.settings import Settings
from mlinfer.clients.invocation import MAX_REQUEST_BYTES, read_answer
from mlinfer.errors import ImageError, InvocationError
from mlinfer.model.path import STARTER
from mlinfer.targets.payload import reduce

from ..conftest import CAT, Bucket, Run
from ..pictures import encoded, plain
from ..servers.functions import LOST, LoopbackLambda, error, failed, serving
from ..servers.http import Answer, loopback_s3
from ..servers.http import error as s3_error

MlInfer = Callable[..., Run]


@pytest.fixture
def api(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackLambda]:
    """Return a deployed function: the starter behind an alias, with access to the staging prefix."""
    settings = Settings(str(STARTER), input_prefixes=(f"s3://{bucket.name}/mlinfer-staging/work/",))
    with serving(Service(settings, log=lambda _: None)) as (api, address):
        api.url = f"{address}/function-url-call"
        monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", address)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield api


def noise(side: int) -> bytes:
    """Return a PNG that cannot be made smaller without loss."""
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), "PNG")


@pytest.fixture
def large() -> Path:
    """Return an image over Lambda's 6 MB."""
    path = Path("large.png")
    path.write_bytes(noise(1500))
    assert path.stat().st_size > 6_000_000
    return path


def test_the_same_answer_as_here(mlinfer: MlInfer, api: LoopbackLambda) -> None:
    """Target aws calls the alias and answers as the embedded target does, and names the model."""
    there = mlinfer("predict", CAT, "--target", "aws", "--json")
    here = mlinfer("predict", CAT, "--json")
    assert (there.code, json.loads(there.out)["predictions"]) == (0, json.loads(here.out)["predictions"])
    assert "target aws" in there.err
    assert "CIFAR-10" in there.err
    query, headers = api.invocations()[0].query, api.invocations()[0].headers
    assert query == {"Qualifier": "live"}
    assert "x-amz-log-type" not in headers


def test_another_model_is_not_taken_for_the_starter(mlinfer: MlInfer, api: LoopbackLambda, tiny_model: Path) -> None:
    """The note about the starter's classes is shown only if the starter answered."""
    api.service = Service(Settings(str(tiny_model)), log=lambda _: None)
    run = mlinfer("predict", CAT, "--target", "aws")
    assert "Answered by tiny" in run.err
    assert "CIFAR-10" not in run.err


def test_verbose_shows_the_functions_log(mlinfer: MlInfer, api: LoopbackLambda) -> None:
    """--verbose shows the end of the function's log, and no credentials."""
    run = mlinfer("predict", CAT, "--target", "aws", "--verbose")
    assert "the handler's own line" in run.err
    assert "testing" not in run.err
    assert api.invocations()[0].headers["x-amz-log-type"] == "Tail"


@pytest.mark.parametrize(
    ("answer", "code", "sentence"),
    [
        (failed("Sandbox.Timedout", "RequestId: 1 Error: Task timed out after 3.00 seconds"), "function_timeout", "3.00 s"),
        (failed("Runtime.OutOfMemory", "RequestId: 1 Error: signal: killed"), "out_of_memory", "out of memory"),
        (failed("Runtime.ExitError", "RequestId: 1 Error: Runtime exited with error: exit status 1"), "function_crashed", "exit"),
        (failed("ModelError", "the model's hash is wrong"), "function_failed", "hash is wrong"),
        (failed("Runtime.ImportModuleError", "Unable to import module"), "function_not_loaded", "Unable"),
        (error(403, "AccessDeniedException", "not you"), "access_denied", "denied"),
        (error(500, "ServiceException", "oops"), "service_failed", "internal error"),
    ],
)  # fmt: skip
def test_each_failure_has_its_message(
    mlinfer: MlInfer, api: LoopbackLambda, answer: Answer | None, code: str, sentence: str
) -> None:
    """A timeout, out of memory, a crash, an exception and a refusal have their own codes, and are not repeated."""
    api.script = [answer]
    run = mlinfer("predict", CAT, "--target", "aws", "--json")
    assert run.code == 4
    assert json.loads(run.out)["error"]["code"] == code
    assert sentence in run.err
    assert len(api.invocations()) == 1


@pytest.mark.parametrize(
    ("refusal", "wait"),
    [
        (error(429, "TooManyRequestsException", "Rate Exceeded."), "concurrency limit"),
        (
            error(409, "ResourceConflictException", "The function is currently in the following state: Pending"),
            "activating",
        ),
        (error(502, "ResourceNotReadyException", "The function is inactive"), "activating"),
        (error(503, "ServiceUnavailableException", "Service is unavailable"), "busy"),
    ],
)
@pytest.mark.slow
def test_requests_that_did_not_run_are_repeated(
    mlinfer: MlInfer, api: LoopbackLambda, refusal: Answer, wait: str
) -> None:
    """A throttled request and a starting function are retried, with a note."""
    api.script = [refusal, refusal]
    run = mlinfer("predict", CAT, "--target", "aws", "--json")
    assert (run.code, json.loads(run.out)["label"]) == (0, "cat")
    assert run.err.count("Waiting: ") == 1
    assert wait in run.err
    assert len(api.invocations()) == 3


@pytest.mark.usefixtures("bucket")
@pytest.mark.slow
def test_not_deployed(mlinfer: MlInfer) -> None:
    """If nothing is deployed, the error names the Region."""
    run = mlinfer("predict", CAT, "--target", "aws", "--region", "us-east-1", "--json")
    assert (run.code, json.loads(run.out)["error"]["code"]) == (4, "not_deployed")
    assert "us-east-1" in run.err


@pytest.mark.slow
def test_over_6_mb_by_s3(mlinfer: MlInfer, api: LoopbackLambda, bucket: Bucket, large: Path) -> None:
    """An image over 6 MB goes through S3 unchanged, and its copy is deleted afterwards."""
    Path("mlinfer.toml").write_text(f'bucket = "{bucket.name}"\n')
    run = mlinfer("predict", large, "--target", "aws", "--json")
    here = mlinfer("predict", large, "--json")
    assert json.loads(run.out)["predictions"] == json.loads(here.out)["predictions"]
    assert "6 MB" in run.err
    assert "s3://pictures/mlinfer-staging/work/" in run.err
    event = json.loads(api.invocations()[0].body)
    assert set(event) == {"s3", "top_k"}
    assert "Contents" not in bucket.client.list_objects_v2(Bucket=bucket.name)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_one_image_uploaded_twice(mlinfer: MlInfer, api: LoopbackLambda, bucket: Bucket, large: Path) -> None:
    """Each request has its own object; a versioned bucket keeps none of it."""
    client: Any = bucket.client
    client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
    Path("mlinfer.toml").write_text(f'bucket = "{bucket.name}"\n')
    run = mlinfer("predict", large, large, "--target", "aws", "--json", "--jobs", "2")
    assert run.code == 0, run.err
    assert len({json.loads(request.body)["s3"] for request in api.invocations()}) == 2
    left = client.list_object_versions(Bucket=bucket.name)
    assert not {"Versions", "DeleteMarkers"} & set(left)


@pytest.mark.slow
def test_over_6_mb_reduced(mlinfer: MlInfer, api: LoopbackLambda, large: Path) -> None:
    """Without a bucket, a large image is sent reduced, with a note."""
    run = mlinfer("predict", large, "--target", "aws", "--json")
    assert run.code == 0
    assert "1024 x 1024" in run.err
    assert len(api.invocations()[0].body) <= MAX_REQUEST_BYTES


def test_many_at_once_in_order(mlinfer: MlInfer, api: LoopbackLambda) -> None:
    """Several images are sent in parallel and answered in input order; a bad one does not stop the others."""
    names = [f"{i:02}.png" for i in range(20)]
    for i, name in enumerate(names):
        Path(name).write_bytes(encoded(plain((i * 12, 0, 0)), "PNG"))
    Path(names[3]).write_bytes(b"no picture")
    run = mlinfer("predict", *names, "--target", "aws", "--jobs", "4", "--json")
    lines = [json.loads(line) for line in run.out.splitlines()]
    assert [line["image"] for line in lines] == names
    assert [("error" in line) for line in lines] == [i == 3 for i in range(20)]
    assert run.code == 5
    assert 1 <= api.most_at_once <= 4


BUSY = error(503, "ServiceUnavailableException", "Service is unavailable")
FAILED = error(500, "ServiceException", "oops")


def batch(mlinfer: MlInfer, *words: str) -> tuple[int, list[dict[str, Any]]]:
    """Classify six images with --json; return the exit code and one line per image."""
    for i in range(6):
        Path(f"{i}.png").write_bytes(encoded(plain((i * 40, 0, 0)), "PNG"))
    names = [f"{i}.png" for i in range(6)]
    run = mlinfer("predict", *names, "--target", "aws", "--json", *words)
    lines = [json.loads(line) for line in run.out.splitlines()]
    assert [line["image"] for line in lines] == names
    return run.code, lines


@pytest.mark.parametrize("words", [[], ["--url"]])
@pytest.mark.parametrize(
    ("script", "requests", "code"),
    [
        ([BUSY], 7, None),
        ([LOST], 6, "answer_lost"),
        ([Answer(200, {"content-length": "99"}, b"{")], 6, "answer_lost"),
        ([FAILED], 6, None),
        ([Answer(502, {}, b"<html>Bad Gateway</html>")], 6, None),
    ],
)
def test_a_batch_survives(
    mlinfer: MlInfer,
    api: LoopbackLambda,
    words: list[str],
    script: list[Answer | None],
    requests: int,
    code: str | None,
) -> None:
    """One 503 costs nothing; a lost answer or a 500 costs only that image, which is not repeated."""
    api.script = list(script)
    exit_code, lines = batch(mlinfer, "--jobs", "1", *words)
    failed = [line["error"]["code"] for line in lines if "error" in line]
    assert len([request for request in api.requests if request.method == "POST"]) == requests
    if script == [BUSY]:
        assert (exit_code, failed) == (0, [])
    else:
        assert (exit_code, len(failed)) == (4, 1)
        assert failed == [code or failed[0]]


def test_a_service_that_stays_busy_costs_one_picture(mlinfer: MlInfer, api: LoopbackLambda) -> None:
    """An image that Lambda refuses after several retries fails, and the batch continues."""
    api.script = [BUSY] * 5
    exit_code, lines = batch(mlinfer, "--jobs", "1")
    assert exit_code == 4
    assert [line["error"]["code"] for line in lines if "error" in line] == ["service_failed"]


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_credentials_that_expire_in_a_batch(mlinfer: MlInfer, api: LoopbackLambda, jobs: str) -> None:
    """Expired credentials end the batch: the answers so far are shown, and each missing image has a line with the reason."""
    api.expires_after = 2
    exit_code, lines = batch(mlinfer, "--jobs", jobs)
    assert exit_code == 4
    failed = [line for line in lines if "error" in line]
    assert len(failed) == 4
    assert {line["error"]["code"] for line in failed} == {"expired_credentials"}
    assert len(api.invocations()) <= 2 + int(jobs)


def test_the_table_of_a_batch_that_ended(mlinfer: MlInfer, api: LoopbackLambda) -> None:
    """Without --json, the answers so far are shown, and the reason for the others once."""
    Path("a.png").write_bytes(encoded(plain((9, 9, 9)), "PNG"))
    api.expires_after = 1
    run = mlinfer("predict", "a.png", CAT, CAT, CAT, "--target", "aws", "--jobs", "1")
    assert run.code == 4
    assert run.out.startswith("a.png")
    assert len(run.out.splitlines()) == 1
    assert run.err.count("expired") == 1
    assert "3 of 4" in run.err


@pytest.mark.usefixtures("api")
@pytest.mark.slow
def test_a_copy_that_cannot_be_removed(
    mlinfer: MlInfer, bucket: Bucket, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the S3 copy cannot be deleted, that is a warning; the exit code is 0."""
    Path("mlinfer.toml").write_text(f'bucket = "{bucket.name}"\n')
    with loopback_s3(os.environ["AWS_ENDPOINT_URL"]) as s3:
        s3.fail("DELETE x-id", lambda *_: s3_error(403, "AccessDenied"))
        s3.fail("DELETE", lambda *_: s3_error(403, "AccessDenied"))
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.url)
        monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        s3.forward = s3.pass_on  # type: ignore[method-assign]  # this upload sends no SHA-256
        run = mlinfer("predict", large, CAT, "--target", "aws", "--json")
    assert run.code == 0, run.err
    assert len([line for line in run.out.splitlines() if "predictions" in line]) == 2
    assert "Warning" in run.err


def test_a_batch_ends_if_nothing_responds(mlinfer: MlInfer, api: LoopbackLambda) -> None:
    """A refusal that affects every image ends the batch at once."""
    api.script = [error(403, "AccessDeniedException", "not you")] * 50
    run = mlinfer("predict", *[CAT] * 40, "--target", "aws", "--jobs", "1")
    assert run.code == 4
    assert len(api.invocations()) == 1


def test_flags_of_another_target(mlinfer: MlInfer) -> None:
    """Options of another target are refused: local takes one image at a time, and only aws has a URL."""
    assert mlinfer("predict", CAT, "--target", "local", "--jobs", "2").code == 2
    assert mlinfer("predict", CAT, "--url").code == 2


def test_by_the_url(mlinfer: MlInfer, api: LoopbackLambda) -> None:
    """--url calls the function URL with a signed request and gives the same answer."""
    run = mlinfer("predict", CAT, "--target", "aws", "--url", "--json")
    assert (run.code, json.loads(run.out)["label"]) == (0, "cat")
    request = api.requests[-1]
    assert (request.method, request.target) == ("POST", "/function-url-call")
    assert request.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=testing/")
    assert "/lambda/aws4_request" in request.headers["authorization"]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Answer(403, {}, b'{"Message":"Forbidden"}'), "access_denied"),
        (
            Answer(403, {}, b'{"Message":"The security token included in the request is expired"}'),
            "expired_credentials",
        ),
        (Answer(502, {}, b"Internal Server Error"), "function_failed"),
        (LOST, "answer_lost"),
    ],
)
def test_refused_by_the_url(mlinfer: MlInfer, api: LoopbackLambda, answer: Answer | None, code: str) -> None:
    """Errors of the URL itself differ from the handler's answers, and are not repeated."""
    api.script = [answer]
    run = mlinfer("predict", CAT, "--target", "aws", "--url", "--json")
    assert (run.code, json.loads(run.out)["error"]["code"]) == (4, code)
    assert len([request for request in api.requests if "function-url-call" in request.target]) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_url_requests_that_did_not_run_are_repeated(mlinfer: MlInfer, api: LoopbackLambda, status: int) -> None:
    """A request that the URL did not accept is sent again."""
    api.script = [Answer(status, {}, b'{"Message":"Rate Exceeded."}')]
    assert mlinfer("predict", CAT, "--target", "aws", "--url").code == 0


@pytest.mark.usefixtures("api")
def test_the_handlers_refusal_by_the_url(mlinfer: MlInfer) -> None:
    """A file that is not an image is refused by the handler, also through the URL."""
    Path("cat.jpg").write_text("text")
    run = mlinfer("predict", "cat.jpg", "--target", "aws", "--url", "--json")
    assert (run.code, json.loads(run.out)["error"]["code"]) == (5, "invalid_image")


def test_no_url(mlinfer: MlInfer, api: LoopbackLambda) -> None:
    """A function without a URL is an error with a hint."""
    api.url = ""
    run = mlinfer("predict", CAT, "--target", "aws", "--url")
    assert run.code == 2
    assert "mlinfer deploy --url iam" in run.err


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"Task timed out after 3.00 seconds", "function_timeout"),
        (b'{"errorType":"Runtime.ExitError","errorMessage":"RequestId: 3 Error: Runtime exited with error: signal: killed"}', "out_of_memory"),
        (b'{"errorType":"Runtime.ExitError","errorMessage":"RequestId: 3 Error: Runtime exited with error: exit status 1"}', "function_crashed"),
        (b'{"errorMessage": "boom", "errorType": "ValueError", "requestId": "2", "stackTrace": []}', "function_failed"),
        (b'{"errorType":"Function.ResponseSizeTooLarge","errorMessage":"Response payload size exceeded"}', "answer_too_large"),
        (b"", "function_crashed"),
        (b"null", "function_failed"),
    ],
)  # fmt: skip
def test_quirks_of_the_emulator(payload: bytes, code: str) -> None:
    """The body alone tells what failed, for the emulator and for Lambda."""
    with pytest.raises(InvocationError) as caught:
        read_answer(payload, "the function")
    assert caught.value.code == code


def test_an_answer_is_an_answer() -> None:
    """The handler's document is returned unchanged, also a refusal."""
    document = {"statusCode": 400, "body": {"error": {"code": "missing_image", "message": "has no image"}}}
    assert read_answer(json.dumps(document).encode(), "the function") == document


def test_reduced_without_loss_if_it_fits() -> None:
    """A reduced picture stays lossless where that fits, and keeps its shape."""
    data, size = reduce(encoded(plain((9, 99, 200)).resize((2800, 2100)), "BMP"), 50_000_000, 2**20)
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.size, size) == ("PNG", (1365, 1024), (1365, 1024))
    assert image.getpixel((5, 5)) == (9, 99, 200)


def test_images_that_cannot_be_resized() -> None:
    """A file that is not an image, and an image that stays too large, are errors of the image."""
    with pytest.raises(ImageError):
        reduce(b"text" * 100, 50_000_000, 2**20)
    with pytest.raises(ImageError):
        reduce(noise(300), 50_000_000, 1000)
