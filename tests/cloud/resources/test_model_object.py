"""Uploading a model to an S3 on loopback that verifies checksums and fails as S3 does."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from lambda_src.inference.download import sha256_of

from ... import models
from ...conftest import Run
from ...servers.http import Answer, Forward, LoopbackS3, Request, error, loopback_s3, sha256

MlInfer = Callable[..., Run]
BUCKET = "my-models"
SECRET, TOKEN = "s3cr3t/Key+Of/The+Tests", "s3ssion-t0ken-of-the-tests"
MB = 2**20

pytestmark = pytest.mark.usefixtures("s3")


@pytest.fixture
def s3(moto_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackS3]:
    """Return an empty S3 that the environment points to, with invented credentials."""
    urllib.request.urlopen(f"{moto_endpoint}/moto-api/reset", data=b"").close()  # noqa: S310
    with loopback_s3(moto_endpoint) as proxy:
        environment = {
            "AWS_ACCESS_KEY_ID": "AKIATESTS",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_SESSION_TOKEN": TOKEN,
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_ENDPOINT_URL": proxy.url,
            "AWS_MAX_ATTEMPTS": "2",
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield proxy


@pytest.fixture
def moto(moto_endpoint: str) -> Iterator[Any]:
    """Return a client that sees what is stored, past the proxy."""
    with closing(boto3.client("s3", endpoint_url=moto_endpoint)) as client:
        yield client


@pytest.fixture
def bucket(moto: Any) -> str:
    """Return the name of an empty bucket."""
    moto.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    return BUCKET


@pytest.fixture(scope="session")
def parts_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model of five parts; the last one is short."""
    return models.large_model(tmp_path_factory.mktemp("models") / "large.onnx", 35 * MB)


@pytest.fixture(params=["one request", pytest.param("several parts", marks=pytest.mark.slow)])
def any_model(request: pytest.FixtureRequest, tiny_model: Path, parts_model: Path) -> Path:
    """Return first a small model, then a large one."""
    return tiny_model if request.param == "one request" else parts_model


def key_of(model: Path) -> str:
    """Return the S3 key of a test model."""
    return f"models/{model.stem}/{sha256_of(model)}.onnx"


def stored(moto: Any, bucket: str = BUCKET) -> dict[str, bytes]:
    """Return every object of a bucket."""
    found = moto.list_objects_v2(Bucket=bucket).get("Contents", [])
    return {item["Key"]: moto.get_object(Bucket=bucket, Key=item["Key"])["Body"].read() for item in found}


def unfinished(moto: Any, bucket: str = BUCKET) -> list[Any]:
    """Return the multipart uploads that cost money without being an object."""
    return list(moto.list_multipart_uploads(Bucket=bucket).get("Uploads", []))


def code_of(run: Run) -> str:
    """Return the code of the error that --json shows."""
    return str(json.loads(run.out)["error"]["code"])


# What it does


@pytest.mark.slow
def test_a_model_is_stored_under_its_hash(mlinfer: MlInfer, moto: Any, bucket: str, any_model: Path) -> None:
    """The object is the file, byte for byte, at PREFIX/NAME/SHA256.onnx, and stdout is its URI only."""
    run = mlinfer("upload", any_model, "--bucket", bucket)
    assert run.code == 0, run.err
    assert run.out == f"s3://{bucket}/{key_of(any_model)}\n"
    assert stored(moto) == {key_of(any_model): any_model.read_bytes()}
    assert unfinished(moto) == []


def test_json(mlinfer: MlInfer, bucket: str, tiny_model: Path) -> None:
    """--json gives the URI, the hash, the size and the outcome."""
    run = mlinfer("upload", tiny_model, "--bucket", bucket, "--json")
    uri = f"s3://{bucket}/{key_of(tiny_model)}"
    size = tiny_model.stat().st_size
    assert json.loads(run.out) == {"uri": uri, "sha256": sha256_of(tiny_model), "bytes": size, "outcome": "uploaded"}


def test_nothing_is_sent_twice(mlinfer: MlInfer, s3: LoopbackS3, bucket: str, any_model: Path) -> None:
    """A second upload finds the object by its checksum in S3, and sends nothing."""
    assert mlinfer("upload", any_model, "--bucket", bucket).code == 0
    s3.requests.clear()
    run = mlinfer("upload", any_model, "--bucket", bucket, "--json")
    assert json.loads(run.out)["outcome"] == "unchanged"
    assert s3.operations == ["HeadBucket", "HeadObject"]


@pytest.mark.parametrize("extra", [{}, {"ChecksumAlgorithm": "SHA256"}])
def test_another_content_under_the_key_is_replaced(
    mlinfer: MlInfer, moto: Any, bucket: str, any_model: Path, extra: dict[str, str]
) -> None:
    """An object of the right name and size but with other or unverified content is replaced."""
    moto.put_object(Bucket=bucket, Key=key_of(any_model), Body=b"\0" * any_model.stat().st_size, **extra)
    run = mlinfer("upload", any_model, "--bucket", bucket, "--json")
    assert json.loads(run.out)["outcome"] == "uploaded"
    assert stored(moto) == {key_of(any_model): any_model.read_bytes()}


def test_a_kms_key_encrypts_bucket_and_model(
    mlinfer: MlInfer, moto: Any, any_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With kms_key, bucket and model are encrypted with that key, in one request or in parts."""
    key = "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    monkeypatch.setenv("MLINFER_KMS_KEY", key)
    assert mlinfer("upload", any_model, "--bucket", BUCKET, "--create-bucket").code == 0
    (rule,) = moto.get_bucket_encryption(Bucket=BUCKET)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key}
    assert rule["BucketKeyEnabled"]
    head = moto.head_object(Bucket=BUCKET, Key=key_of(any_model))
    assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", key)


@pytest.mark.parametrize(
    ("status", "answer", "said", "code", "told"),
    [
        (403, "AccessDenied", "User: x is not authorized to perform: kms:GenerateDataKey on resource: arn:aws:kms:y",
         "access_denied", "kms:GenerateDataKey"),
        (400, "KMS.DisabledException", "arn:aws:kms:y is disabled.", "key_not_usable", "arn:aws:kms:y is disabled"),
    ],
)  # fmt: skip
def test_errors_of_kms_are_reported(
    mlinfer: MlInfer,
    s3: LoopbackS3,
    bucket: str,
    tiny_model: Path,
    *,
    status: int,
    answer: str,
    said: str,
    code: str,
    told: str,
) -> None:
    """If S3 refuses the key, the error has S3's words and a hint about the key."""
    s3.fail("PutObject", lambda *_: error(status, answer, said))
    run = mlinfer("upload", tiny_model, "--bucket", bucket, "--json")
    shown = json.loads(run.out)["error"]
    assert (run.code, shown["code"]) == (4, code)
    assert told in shown["message"]
    assert "kms_key" in shown["hint"]


@pytest.mark.slow
def test_an_upload_of_another_tool_counts(mlinfer: MlInfer, moto: Any, bucket: str, parts_model: Path) -> None:
    """A large file that another tool uploaded in one request counts if S3 has its SHA-256."""
    content = parts_model.read_bytes()
    moto.put_object(Bucket=bucket, Key=key_of(parts_model), Body=content, ChecksumAlgorithm="SHA256")
    assert json.loads(mlinfer("upload", parts_model, "--bucket", bucket, "--json").out)["outcome"] == "unchanged"


def test_the_configuration_names_bucket_prefix_and_model(
    mlinfer: MlInfer, moto: Any, bucket: str, tiny_model: Path
) -> None:
    """mlinfer.toml names model, bucket and prefix; slashes around the prefix are ignored."""
    toml = f'model = "{tiny_model}"\nbucket = "{bucket}"\nprefix = "/team/a/"\n'
    Path("mlinfer.toml").write_text(toml)
    run = mlinfer("upload")
    assert run.out == f"s3://{bucket}/team/a/tiny/{sha256_of(tiny_model)}.onnx\n"
    assert list(stored(moto)) == [f"team/a/tiny/{sha256_of(tiny_model)}.onnx"]


def test_a_strange_name_becomes_a_plain_key(mlinfer: MlInfer, bucket: str, tmp_path: Path) -> None:
    """In the key, the model's name has only letters, digits, dots, hyphens and underscores."""

    path = models.mean_colour(tmp_path / "x.onnx", name="../my résumé (v1.2)/ü")
    assert f"/models/my-r-sum-v1.2/{sha256_of(path)}.onnx" in mlinfer("upload", path, "--bucket", bucket).out


def test_an_endpoint_of_s3_alone_comes_first(
    mlinfer: MlInfer, s3: LoopbackS3, bucket: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS_ENDPOINT_URL_S3 takes precedence over AWS_ENDPOINT_URL."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert mlinfer("upload", tiny_model, "--bucket", bucket).code == 0


def test_a_profile_brings_its_credentials_and_region(
    mlinfer: MlInfer, s3: LoopbackS3, bucket: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--profile uses the credentials and the Region of that profile."""
    Path(os.environ["AWS_SHARED_CREDENTIALS_FILE"]).write_text(
        "[work]\naws_access_key_id = AKIAWORK\naws_secret_access_key = x\nregion = eu-central-1\n"
    )
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert mlinfer("upload", tiny_model, "--bucket", bucket, "--profile", "work").code == 0
    assert all("Credential=AKIAWORK/" in r.headers["authorization"] for r in s3.requests)
    assert all("/eu-central-1/s3/" in r.headers["authorization"] for r in s3.requests)


def test_quiet(mlinfer: MlInfer, bucket: str, tiny_model: Path) -> None:
    """--quiet prints only the URI."""
    run = mlinfer("upload", tiny_model, "--bucket", bucket, "--quiet")
    assert run.err == ""
    assert run.out.startswith("s3://")


@pytest.mark.slow
def test_a_terminal_shows_the_progress(bucket: str, parts_model: Path) -> None:
    """In a terminal, a progress bar counts the bytes."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "mlinfer", "upload", str(parts_model), "--bucket", bucket]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        while chunk := _read(ours):
            seen += chunk
    os.close(ours)
    assert process.returncode == 0
    assert b"Uploading" in seen
    assert b"/36.7 MB" in seen


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux reports the closed other end like this
        return b""


# What S3 is asked to check, and what is checked of its answer


def test_each_request_carries_the_hash_of_its_content(
    mlinfer: MlInfer, s3: LoopbackS3, bucket: str, any_model: Path
) -> None:
    """Each request sends its SHA-256, and the parts add up to the file."""
    mlinfer("upload", any_model, "--bucket", bucket)
    sent = [r for r in s3.requests if r.operation in ("PutObject", "UploadPart")]
    assert all(r.headers["x-amz-checksum-sha256"] == sha256(r.body) for r in sent)
    sent.sort(key=lambda r: int(r.query.get("partNumber", 1)))
    assert b"".join(r.body for r in sent) == any_model.read_bytes()
    assert len(sent) == (5 if "CompleteMultipartUpload" in s3.operations else 1)


def test_damage_on_the_way_is_refused(
    mlinfer: MlInfer, s3: LoopbackS3, moto: Any, bucket: str, any_model: Path
) -> None:
    """If a byte changes on the way, the upload fails and leaves nothing."""

    def damage(request: Request, forward: Forward) -> Answer:
        return forward(replace(request, body=bytes([request.body[0] ^ 1]) + request.body[1:]))

    s3.fail("PutObject", damage)
    s3.fail("UploadPart", damage)
    run = mlinfer("upload", any_model, "--bucket", bucket, "--json")
    assert (run.code, code_of(run)) == (4, "checksum_mismatch")
    assert stored(moto) == {}
    assert unfinished(moto) == []


@pytest.mark.parametrize("confirmed", ["", sha256(b"another content"), sha256(b"another content") + "-5"])
def test_the_answer_of_s3_is_compared(
    mlinfer: MlInfer, s3: LoopbackS3, bucket: str, any_model: Path, confirmed: str
) -> None:
    """The upload fails unless S3 confirms the file's SHA-256."""

    def forget(request: Request, forward: Forward) -> Answer:
        answer = forward(request)
        kept = {k: v for k, v in answer.headers.items() if not k.startswith("x-amz-checksum")}
        return replace(answer, headers=kept | ({"x-amz-checksum-sha256": confirmed} if confirmed else {}))

    s3.fail("HeadObject", forget)
    run = mlinfer("upload", any_model, "--bucket", bucket, "--json")
    assert (run.code, code_of(run)) == (4, "not_confirmed")


@pytest.mark.parametrize(
    ("size", "during", "failure"),
    [
        (MB, "HeadObject", (4, "checksum_mismatch")),
        (33 * MB, "HeadObject", (2, "model_changed")),
        (33 * MB, "CreateMultipartUpload", (4, "checksum_mismatch")),
    ],
)
@pytest.mark.slow
def test_a_file_that_changes_during_the_upload_is_rejected(
    mlinfer: MlInfer,
    s3: LoopbackS3,
    moto: Any,
    bucket: str,
    tmp_path: Path,
    size: int,
    during: str,
    failure: tuple[int, str],
) -> None:
    """A file that changes during the upload is refused: the key must match its content."""
    model = models.large_model(tmp_path / "m.onnx", size)

    def change(request: Request, forward: Forward) -> Answer:
        with model.open("r+b") as file:
            file.seek(size // 2)
            file.write(b"something else")
        return forward(request)

    s3.fail(during, change, times=1)
    run = mlinfer("upload", model, "--bucket", bucket, "--json")
    assert (run.code, code_of(run)) == failure
    assert stored(moto) == {}
    assert unfinished(moto) == []


# Broken connections and interruptions


def test_a_broken_connection_is_tried_again(
    mlinfer: MlInfer, s3: LoopbackS3, moto: Any, bucket: str, any_model: Path
) -> None:
    """After a broken connection, only that request is repeated."""
    s3.cut("PutObject", after=100, times=1)
    s3.cut("UploadPart", after=3 * MB, times=1)
    run = mlinfer("upload", any_model, "--bucket", bucket)
    assert run.code == 0, run.err
    assert stored(moto) == {key_of(any_model): any_model.read_bytes()}


def test_a_connection_that_stays_broken(
    mlinfer: MlInfer, s3: LoopbackS3, moto: Any, bucket: str, any_model: Path
) -> None:
    """After a limited number of attempts, the upload fails and leaves no object and no part."""
    s3.cut("PutObject", after=100)
    s3.cut("UploadPart", after=3 * MB)
    run = mlinfer("upload", any_model, "--bucket", bucket, "--json")
    assert (run.code, code_of(run)) == (4, "connection_failed")
    assert stored(moto) == {}
    assert unfinished(moto) == []


@pytest.mark.slow
def test_a_lost_answer_to_the_last_request(
    mlinfer: MlInfer, s3: LoopbackS3, moto: Any, bucket: str, parts_model: Path
) -> None:
    """If the answer to the last request is lost but the object exists, the upload succeeds."""

    def lose(request: Request, forward: Forward) -> None:
        forward(request)

    s3.fail("CompleteMultipartUpload", lose, times=1)
    run = mlinfer("upload", parts_model, "--bucket", bucket)
    assert run.code == 0, run.err
    assert stored(moto) == {key_of(parts_model): parts_model.read_bytes()}


@pytest.mark.slow
def test_two_uploads_of_one_model_at_once(
    mlinfer: MlInfer, s3: LoopbackS3, moto: Any, bucket: str, parts_model: Path
) -> None:
    """Two uploads of one model at once both succeed, even if one removes the other's parts."""

    def overtake(*_: object) -> Answer:
        content = parts_model.read_bytes()
        moto.put_object(Bucket=bucket, Key=key_of(parts_model), Body=content, ChecksumAlgorithm="SHA256")
        return error(404, "NoSuchUpload", "The specified multipart upload does not exist.")

    s3.fail("CompleteMultipartUpload", overtake, times=1)
    run = mlinfer("upload", parts_model, "--bucket", bucket)
    assert run.code == 0, run.err
    assert stored(moto) == {key_of(parts_model): parts_model.read_bytes()}


@pytest.mark.slow
def test_two_first_uploads_store_one_version(
    mlinfer: MlInfer, s3: LoopbackS3, moto: Any, bucket: str, any_model: Path
) -> None:
    """Two first uploads at once both succeed, and S3 keeps one version."""
    moto.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})

    def comes_first(request: Request, forward: Forward) -> Answer:
        content = any_model.read_bytes()
        moto.put_object(Bucket=bucket, Key=key_of(any_model), Body=content, ChecksumAlgorithm="SHA256")
        return forward(request)

    for operation in ("PutObject", "CompleteMultipartUpload"):
        s3.fail(operation, comes_first, times=1)
    run = mlinfer("upload", any_model, "--bucket", bucket)
    assert run.code == 0, run.err
    assert len(moto.list_object_versions(Bucket=bucket)["Versions"]) == 1
    assert unfinished(moto) == []


def test_a_service_without_conditional_writes(
    mlinfer: MlInfer, s3: LoopbackS3, moto: Any, bucket: str, any_model: Path
) -> None:
    """If the service does not support If-None-Match, the model is stored without it."""

    def refuses(request: Request, forward: Forward) -> Answer:
        if "if-none-match" in request.headers:
            return error(501, "NotImplemented", "A header you provided implies functionality that is not implemented")
        return forward(request)

    for operation in ("PutObject", "CompleteMultipartUpload"):
        s3.fail(operation, refuses)
    run = mlinfer("upload", any_model, "--bucket", bucket)
    assert run.code == 0, run.err
    assert list(stored(moto)) == [key_of(any_model)]


def test_an_upload_that_vanished(mlinfer: MlInfer, s3: LoopbackS3, bucket: str, parts_model: Path) -> None:
    """If S3 no longer knows the upload, and the object does not exist, the upload fails."""
    gone = error(404, "NoSuchUpload", "The specified multipart upload does not exist.")
    s3.fail("UploadPart", lambda *_: gone)
    run = mlinfer("upload", parts_model, "--bucket", bucket, "--json")
    assert (run.code, code_of(run)) == (4, "not_confirmed")


@pytest.mark.slow
def test_the_parts_of_a_killed_attempt_are_dropped(mlinfer: MlInfer, moto: Any, bucket: str, parts_model: Path) -> None:
    """The next successful upload removes the parts of a killed one."""
    moto.create_multipart_upload(Bucket=bucket, Key=key_of(parts_model))
    other = moto.create_multipart_upload(Bucket=bucket, Key="of-another-tool")["UploadId"]
    assert mlinfer("upload", parts_model, "--bucket", bucket).code == 0
    assert [upload["UploadId"] for upload in unfinished(moto)] == [other]


@pytest.mark.slow
def test_ctrl_c_leaves_nothing(s3: LoopbackS3, moto: Any, bucket: str, parts_model: Path) -> None:
    """Ctrl-C during an upload exits with 130 and leaves no object and no part."""
    asked = threading.Event()

    def interrupt(request: Request, forward: Forward) -> Answer:
        asked.wait(30)
        process.send_signal(signal.SIGINT)
        return forward(request)

    s3.fail("UploadPart", interrupt, times=1)
    process = subprocess.Popen([sys.executable, "-m", "mlinfer", "upload", str(parts_model), "--bucket", bucket])
    asked.set()  # the process has its name here
    assert process.wait(60) == 130
    assert stored(moto) == {}
    assert unfinished(moto) == []


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process's memory is read from Linux")
@pytest.mark.slow
def test_a_large_model_passes_in_bounded_memory(s3: LoopbackS3, bucket: str, tmp_path: Path) -> None:
    """A model of 1 GB is uploaded with less than 200 MB of memory."""
    model = models.large_model(tmp_path / "huge.onnx", 2**30, sparse=True)
    hashes: dict[int, str] = {}

    def keep_hash(request: Request, _: Forward) -> Answer:
        hashes[int(request.query["partNumber"])] = sha256(request.body)
        s3.requests.clear()
        return Answer(200, {"etag": '"x"', "x-amz-checksum-sha256": hashes[int(request.query["partNumber"])]})

    def complete(*_: object) -> Answer:
        return Answer(200, {}, b"<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>")

    def head(*_: object) -> Answer:
        if not hashes:
            return Answer(404)
        digests = b"".join(base64.b64decode(hashes[n]) for n in sorted(hashes))
        composite = f"{base64.b64encode(hashlib.sha256(digests).digest()).decode()}-{len(hashes)}"
        return Answer(200, {"content-length": str(model.stat().st_size), "x-amz-checksum-sha256": composite})

    s3.fail("UploadPart", keep_hash)
    s3.fail("CompleteMultipartUpload", complete)
    s3.fail("HeadObject", head)
    script = """
import sys
from mlinfer.cli import main
code = main(["upload", sys.argv[1], "--bucket", sys.argv[2], "--json"])
(peak,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(code, int(peak) // 1024)
"""  # not getrusage: its figure begins with that of the process that started this one
    command = [sys.executable, "-c", script, str(model), bucket]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    code, peak_mb = result.stdout.split()[-2:]
    assert code == "0", result.stderr
    assert len(hashes) == 129
    assert int(peak_mb) < 200


# What goes wrong, and what to do about it

REFUSALS = {
    "expired_credentials": error(400, "ExpiredToken", "The provided token has expired.", Token_0=TOKEN),
    "invalid_credentials": error(403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist."),
    "clock_skewed": error(403, "RequestTimeTooSkewed", "The difference between the request time and ... is too large."),
    "access_denied": error(
        403, "AccessDenied", "User: arn:aws:iam::1:user/x is not authorized to perform: s3:PutObject"
    ),
    "no_such_bucket": error(404, "NoSuchBucket", "The specified bucket does not exist", BucketName=BUCKET),
    "wrong_region": error(301, "PermanentRedirect", "The bucket you are attempting to access must be addressed ..."),
    "service_failed": error(500, "InternalError", "We encountered an internal error. Please try again."),
    "connection_failed": error(400, "RequestTimeout", "Your socket connection to the server was not read from ..."),
    "throttled": error(503, "SlowDown", "Please reduce your request rate."),
    "aws_refused": error(400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed size"),
}


@pytest.mark.parametrize("code", REFUSALS)
def test_errors_of_s3_have_a_hint(mlinfer: MlInfer, s3: LoopbackS3, bucket: str, any_model: Path, code: str) -> None:
    """Each error of S3 has its own code, with exit code 4 and a hint."""
    status = REFUSALS[code].status
    s3.fail("HeadObject", lambda *_: Answer(status if status in (400, 403) else 404))
    s3.fail("HeadBucket", lambda *_: Answer(status if status in (400, 403) else 200))
    for operation in ("PutObject", "CreateMultipartUpload"):
        s3.fail(operation, lambda *_: REFUSALS[code])
    run = mlinfer("upload", any_model, "--bucket", bucket, "--json")
    failure = json.loads(run.out)["error"]
    assert (run.code, failure["code"]) == (4, code)
    assert bucket in failure["message"]
    assert failure["hint"]


def test_a_refusal_names_the_permission(mlinfer: MlInfer, s3: LoopbackS3, bucket: str, tiny_model: Path) -> None:
    """Without permission, the error has S3's words and the missing permission."""
    s3.fail("PutObject", lambda *_: REFUSALS["access_denied"])
    run = mlinfer("upload", tiny_model, "--bucket", bucket, "--json")
    failure = json.loads(run.out)["error"]
    assert (run.code, failure["code"]) == (4, "access_denied")
    assert "s3:PutObject" in failure["message"]
    assert {"s3:PutObject", "s3:GetObject", "s3:ListBucket"} <= set(re.findall(r"s3:\w+", failure["hint"]))


def test_listing_is_not_needed_to_upload(
    mlinfer: MlInfer, s3: LoopbackS3, moto: Any, bucket: str, tiny_model: Path
) -> None:
    """Without s3:ListBucket, S3 answers 403 for a missing object: the upload still works."""
    s3.fail("HeadBucket", lambda *_: Answer(403))
    s3.fail("HeadObject", lambda *_: Answer(403), times=1)
    assert mlinfer("upload", tiny_model, "--bucket", bucket).code == 0
    assert list(stored(moto)) == [key_of(tiny_model)]


def test_a_bucket_in_another_region(mlinfer: MlInfer, moto: Any, bucket: str, tiny_model: Path) -> None:
    """A bucket in another Region is refused, and the error names both Regions."""
    run = mlinfer("upload", tiny_model, "--bucket", bucket, "--region", "us-west-2", "--json")
    failure = json.loads(run.out)["error"]
    assert (run.code, failure["code"]) == (4, "wrong_region")
    assert "eu-central-1" in failure["message"]
    assert "us-west-2" in failure["message"]
    assert "--region eu-central-1" in failure["hint"]
    assert stored(moto) == {}


def test_a_missing_bucket(mlinfer: MlInfer, tiny_model: Path) -> None:
    """A bucket that is not there is an error that names --create-bucket."""
    run = mlinfer("upload", tiny_model, "--bucket", "no-such-bucket", "--json")
    failure = json.loads(run.out)["error"]
    assert (run.code, failure["code"]) == (4, "no_such_bucket")
    assert "no-such-bucket" in failure["message"]
    assert "--create-bucket" in failure["hint"]


def test_no_connection(mlinfer: MlInfer, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that does not answer is an error that names its host."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    run = mlinfer("upload", tiny_model, "--bucket", BUCKET, "--json")
    assert (run.code, code_of(run)) == (4, "connection_failed")
    assert "127.0.0.1" in json.loads(run.out)["error"]["message"]


def test_no_credentials(mlinfer: MlInfer, s3: LoopbackS3, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials, nothing is sent, and the exit code is 3."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    run = mlinfer("upload", tiny_model, "--bucket", BUCKET, "--json")
    assert (run.code, code_of(run)) == (3, "no_credentials")
    assert s3.requests == []


def test_half_credentials(mlinfer: MlInfer, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key without its secret counts as no credentials."""
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    run = mlinfer("upload", tiny_model, "--bucket", BUCKET, "--json")
    assert (run.code, code_of(run)) == (3, "no_credentials")


def test_a_credentials_program_that_fails(mlinfer: MlInfer, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output of a failing credential_process is not repeated: it can contain a secret."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    Path(os.environ["AWS_CONFIG_FILE"]).write_text(
        f'[profile tool]\nregion = eu-central-1\ncredential_process = sh -c "echo {TOKEN} >&2; exit 1"\n'
    )
    run = mlinfer("upload", tiny_model, "--bucket", BUCKET, "--profile", "tool", "--verbose", "--json")
    assert (run.code, code_of(run)) == (3, "no_credentials")
    assert "custom-process" in json.loads(run.out)["error"]["message"]
    assert TOKEN not in run.err + run.out


def test_a_login_that_expired(mlinfer: MlInfer, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For an expired IAM Identity Center login, the hint is the login command."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("HOME", str(Path.cwd()))
    Path(os.environ["AWS_CONFIG_FILE"]).write_text(
        "[profile sso]\nregion = eu-central-1\nsso_session = us\nsso_account_id = 123456789012\nsso_role_name = dev\n"
        "[sso-session us]\nsso_region = us-east-1\nsso_start_url = http://127.0.0.1:1/start\n"
    )
    run = mlinfer("upload", tiny_model, "--bucket", BUCKET, "--profile", "sso", "--json")
    assert (run.code, code_of(run)) == (4, "expired_credentials")
    assert "aws sso login" in run.out


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AWS_PROFILE", "nobody"),
        ("AWS_DEFAULT_REGION", "not a region"),
        ("AWS_ENDPOINT_URL", "localhost:4566"),
        ("AWS_ENDPOINT_URL", f"ftp://me:{SECRET}@127.0.0.1/"),
        ("AWS_MAX_ATTEMPTS", "often"),
    ],
)
def test_wrong_aws_settings(
    mlinfer: MlInfer,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
) -> None:
    """A setting that boto3 cannot use is wrong configuration, exit code 2."""
    monkeypatch.setenv(variable, value)
    run = mlinfer("upload", tiny_model, "--bucket", BUCKET, "--json")
    assert (run.code, code_of(run)) == (2, "invalid_aws_setting")
    assert SECRET not in run.out


@pytest.mark.parametrize(
    ("arguments", "code", "name"),
    [
        ([], 2, "no_bucket"),
        (["--bucket", "s3://my-models"], 2, "invalid_value"),
        (["--bucket", BUCKET, "--prefix", "../up"], 2, "invalid_value"),
        (["--bucket", BUCKET, "--prefix", "a//b"], 2, "invalid_value"),
        (["--bucket", BUCKET, "--prefix", "a b"], 2, "invalid_value"),
        (["--bucket", BUCKET, "nowhere.onnx"], 3, "model_not_found"),
    ],
)
def test_wrong_usage(mlinfer: MlInfer, s3: LoopbackS3, arguments: list[str], code: int, name: str) -> None:
    """Wrong usage is reported before anything is sent."""
    run = mlinfer("upload", *arguments, "--json")
    assert (run.code, code_of(run)) == (code, name)
    assert s3.requests == []


def test_a_model_that_cannot_serve_is_not_uploaded(mlinfer: MlInfer, s3: LoopbackS3, tmp_path: Path) -> None:
    """A file without mlinfer's metadata is refused, with the command that adds it."""
    from onnx import numpy_helper

    weights = numpy_helper.from_array(models._COLOURS, "logits")
    path = models.write(tmp_path / "plain.onnx", [], [weights], ["N", 3, 8, 8], None)
    run = mlinfer("upload", path, "--bucket", BUCKET, "--json")
    assert (run.code, code_of(run)) == (2, "no_metadata")
    assert f"mlinfer export {path}" in run.out
    assert s3.requests == []


@pytest.mark.parametrize("code", [*REFUSALS, "checksum_mismatch", "cut_off", "no_such_endpoint"])
def test_secrets_stay_secret(
    mlinfer: MlInfer,
    s3: LoopbackS3,
    bucket: str,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
) -> None:
    """No message or traceback contains a key, a token or the password of an endpoint's URL."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url.replace("//", "//me:p4ssw0rd@"))
    if code == "no_such_endpoint":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:p4ssw0rd@127.0.0.1:1")
    elif code == "cut_off":
        s3.cut("PutObject", after=100)
    else:
        s3.fail("PutObject", lambda *_: REFUSALS.get(code, error(400, "BadDigest")))
    run = mlinfer("upload", tiny_model, "--bucket", bucket, "--verbose")
    assert run.code == 4
    assert "Traceback" in run.err
    for secret in (SECRET, TOKEN, "p4ssw0rd", "Signature="):
        assert secret not in run.out + run.err


# The bucket


def test_a_new_bucket_is_private_encrypted_and_versioned(mlinfer: MlInfer, moto: Any, tiny_model: Path) -> None:
    """--create-bucket creates a private, encrypted, versioned, tagged bucket that removes abandoned parts."""
    Path("mlinfer.toml").write_text('project = "cats"\n')
    run = mlinfer("upload", tiny_model, "--bucket", BUCKET, "--create-bucket")
    assert run.code == 0, run.err
    assert f"Created bucket {BUCKET} (eu-central-1)" in run.err
    assert list(stored(moto)) == [key_of(tiny_model)]
    assert moto.get_bucket_location(Bucket=BUCKET)["LocationConstraint"] == "eu-central-1"
    block = moto.get_public_access_block(Bucket=BUCKET)["PublicAccessBlockConfiguration"]
    assert list(block.values()) == [True] * 4
    (rule,) = moto.get_bucket_encryption(Bucket=BUCKET)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    assert moto.get_bucket_versioning(Bucket=BUCKET)["Status"] == "Enabled"
    assert moto.get_bucket_tagging(Bucket=BUCKET)["TagSet"] == [{"Key": "mlinfer:project", "Value": "cats"}]
    (rule,) = moto.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}


def test_a_bucket_belongs_to_the_project_from_its_first_moment(
    mlinfer: MlInfer, s3: LoopbackS3, tiny_model: Path
) -> None:
    """CreateBucket sets the tag, so that no failure leaves a bucket without an owner."""
    mlinfer("upload", tiny_model, "--bucket", BUCKET, "--create-bucket")
    (request,) = [r for r in s3.requests if r.operation == "CreateBucket"]
    assert b"<Tag><Key>mlinfer:project</Key><Value>work</Value></Tag>" in request.body  # the folder's name


def test_the_first_region_has_no_name(mlinfer: MlInfer, tiny_model: Path) -> None:
    """A bucket can be created in us-east-1, whose name S3 does not accept as a location."""
    run = mlinfer("upload", tiny_model, "--bucket", BUCKET, "--create-bucket", "--region", "us-east-1")
    assert run.code == 0, run.err


def test_an_existing_bucket_is_not_changed(
    mlinfer: MlInfer, s3: LoopbackS3, moto: Any, bucket: str, tiny_model: Path
) -> None:
    """--create-bucket changes no setting of an existing bucket with objects."""
    moto.put_object(Bucket=bucket, Key="theirs.txt", Body=b"x")
    run = mlinfer("upload", tiny_model, "--bucket", bucket, "--create-bucket")
    assert run.code == 0, run.err
    assert "Created bucket" not in run.err
    assert not [name for name in s3.operations if name.startswith(("PutBucket", "CreateBucket"))]


def test_a_bucket_of_ours_keeps_what_its_owner_changed(
    mlinfer: MlInfer, s3: LoopbackS3, moto: Any, tiny_model: Path
) -> None:
    """A second --create-bucket changes nothing, even if the owner suspended versioning."""
    mlinfer("upload", tiny_model, "--bucket", BUCKET, "--create-bucket")
    moto.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Suspended"})
    s3.requests.clear()
    run = mlinfer("upload", tiny_model, "--bucket", BUCKET, "--create-bucket", "--json")
    assert json.loads(run.out)["outcome"] == "unchanged"
    assert not [name for name in s3.operations if name.startswith("PutBucket")]


def test_an_interrupted_bucket_creation_is_finished(
    mlinfer: MlInfer, s3: LoopbackS3, moto: Any, tiny_model: Path
) -> None:
    """If a setting fails, the command fails, and the next one continues there."""
    s3.fail("PutBucketencryption", lambda *_: REFUSALS["access_denied"], times=1)
    run = mlinfer("upload", tiny_model, "--bucket", BUCKET, "--create-bucket", "--json")
    assert (run.code, code_of(run)) == (4, "access_denied")
    assert "PutBucketEncryption" in run.out
    assert mlinfer("upload", tiny_model, "--bucket", BUCKET, "--create-bucket").code == 0
    assert moto.get_bucket_encryption(Bucket=BUCKET)
    assert moto.get_bucket_versioning(Bucket=BUCKET)["Status"] == "Enabled"


def test_a_bucket_that_was_not_tagged_yet_is_finished(
    mlinfer: MlInfer, s3: LoopbackS3, moto: Any, tiny_model: Path
) -> None:
    """If a killed run left the bucket without its tag, the next one adds it and continues."""
    s3.fail("PutBuckettagging", lambda *_: None)
    assert mlinfer("upload", tiny_model, "--bucket", BUCKET, "--create-bucket").code == 4
    s3.fail("PutBuckettagging", lambda request, forward: forward(request))
    run = mlinfer("upload", tiny_model, "--bucket", BUCKET, "--create-bucket")
    assert run.code == 0, run.err
    assert moto.get_bucket_tagging(Bucket=BUCKET)["TagSet"] == [{"Key": "mlinfer:project", "Value": "work"}]
    assert moto.get_bucket_versioning(Bucket=BUCKET)["Status"] == "Enabled"


@pytest.mark.parametrize("region", ["eu-central-1", "us-east-1"])
def test_a_lost_answer_to_create_bucket(
    mlinfer: MlInfer, s3: LoopbackS3, moto: Any, tiny_model: Path, region: str
) -> None:
    """If the answer to CreateBucket is lost, the repetition gets BucketAlreadyOwnedByYou, and the run continues."""

    def forgets(request: Request, forward: Forward) -> None:
        forward(request)

    s3.fail("CreateBucket", forgets, times=1)
    run = mlinfer("upload", tiny_model, "--bucket", BUCKET, "--create-bucket", "--region", region)
    assert run.code == 0, run.err
    assert s3.operations.count("CreateBucket") == 2
    assert moto.get_bucket_versioning(Bucket=BUCKET)["Status"] == "Enabled"


def test_a_bucket_name_of_another_account(mlinfer: MlInfer, s3: LoopbackS3, tiny_model: Path) -> None:
    """A bucket name that another account has is refused with a hint to choose another name."""
    taken = error(409, "BucketAlreadyExists", "The requested bucket name is not available.", BucketName=BUCKET)
    s3.fail("CreateBucket", lambda *_: taken)
    run = mlinfer("upload", tiny_model, "--bucket", BUCKET, "--create-bucket", "--json")
    assert (run.code, code_of(run)) == (4, "bucket_taken")
    assert "--bucket" in run.out


def test_a_bucket_without_access(mlinfer: MlInfer, s3: LoopbackS3, bucket: str, tiny_model: Path) -> None:
    """S3 answers 403 for another account's bucket: --create-bucket reports that before it sends anything."""
    s3.fail("HeadBucket", lambda *_: Answer(403))
    s3.fail("GET tagging", lambda *_: error(403, "AccessDenied", "Access Denied"))
    run = mlinfer("upload", tiny_model, "--bucket", bucket, "--create-bucket", "--json")
    assert (run.code, code_of(run)) == (4, "bucket_taken")
    assert s3.operations == ["HeadBucket", "GET tagging"]


def test_wrong_credentials_are_not_taken_for_a_foreign_bucket(
    mlinfer: MlInfer, s3: LoopbackS3, bucket: str, tiny_model: Path
) -> None:
    """If the credentials are wrong, --create-bucket reports them, not a foreign bucket."""
    s3.fail("HeadBucket", lambda *_: Answer(403))
    s3.fail("GET tagging", lambda *_: REFUSALS["invalid_credentials"])
    run = mlinfer("upload", tiny_model, "--bucket", bucket, "--create-bucket", "--json")
    assert (run.code, code_of(run)) == (4, "invalid_credentials")


def test_a_bucket_needs_a_region(
    mlinfer: MlInfer, s3: LoopbackS3, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Creating a bucket without a Region exits with 3."""
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    run = mlinfer("upload", tiny_model, "--bucket", BUCKET, "--create-bucket", "--json")
    assert (run.code, code_of(run)) == (3, "no_region")
    assert s3.requests == []
