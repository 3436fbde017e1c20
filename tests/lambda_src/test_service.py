"""Every kind of event gets the answer that its sender expects, and one log line."""

from __future__ import annotations

import base64
import json
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from lambda_src.errors import FaultError, ModelError, QueuedEventError
from lambda_src.inference.download import sha256_of
from lambda_src.inference.metadata import Metadata
from lambda_src.s3.objects import StorageError
from lambda_src.service import Service, parse_event
from lambda_src.settings import MAX_IMAGE_BYTES, Settings

from .. import models
from ..conftest import Bucket
from ..pictures import encoded, plain
from ..servers.http import Answer, Request, serve

EVENTS = Path(__file__).parents[1] / "data" / "events"
RED = encoded(plain((255, 0, 0)), "JPEG")
HTTP_POSTS = ("function_url", "api_gateway_v1", "api_gateway_v2", "load_balancer", "load_balancer_multi_value")


def sample(name: str, image: bytes = RED) -> dict[str, Any]:
    """Return AWS's documented event with this image in it."""
    text = (EVENTS / f"{name}.json").read_text()
    event: dict[str, Any] = json.loads(text.replace("<IMAGE>", base64.b64encode(image).decode()))
    return event


def with_body(body: object, content_type: str = "application/json", *, encoded: bool = False) -> dict[str, Any]:
    """Return a function URL's event with another body."""
    event = sample("function_url") | {"body": body, "isBase64Encoded": encoded}
    event["headers"]["content-type"] = content_type
    return event


def body_of(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the body of any answer; an HTTP body is JSON text."""
    body = answer["body"]
    parsed: dict[str, Any] = json.loads(body) if isinstance(body, str) else body
    return parsed


class Log(list[str]):
    """The log lines of a service."""

    def last(self) -> dict[str, Any]:
        """Return the last line as JSON."""
        line: dict[str, Any] = json.loads(self[-1])
        return line


@pytest.fixture
def log() -> Log:
    """Return an empty log."""
    return Log()


@pytest.fixture
def service(tiny_model: Path, log: Log) -> Service:
    """Return a service of the colour model."""
    return Service(Settings(str(tiny_model)), log.append)


# Answers


def test_direct_invocation(service: Service, tiny_model: Path) -> None:
    """A direct invocation gets the documented answer, with its keys in order."""
    answer = service.answer(sample("direct"))
    body = answer["body"]
    assert answer == {"statusCode": 200, "body": body}
    assert list(body) == ["pred_index", "label", "score", "predictions", "model", "cold_start", "timings"]
    assert (body["pred_index"], body["label"]) == (0, "red")
    assert [p["label"] for p in body["predictions"]] == ["red", "black"]
    assert body["predictions"][0] == {"index": 0, "label": "red", "score": body["score"]}
    assert 0.9 < body["score"] <= 1
    assert body["model"] == {"name": "tiny", "sha256": sha256_of(tiny_model)}
    assert list(body["timings"]) == ["model_load_s", "preprocess_s", "inference_s"]


def test_scores_are_the_softmax_of_the_logits(service: Service) -> None:
    """Scores are the softmax of the logits and sum to 1 over all classes."""
    body = service.answer({"image": base64.b64encode(encoded(plain((255, 0, 0)), "PNG")).decode(), "top_k": 5})["body"]
    logits = np.array([10, -10, -10, -10, 0.0])  # of pure red, from the colours in models.py
    expected = np.exp(logits) / np.exp(logits).sum()
    for prediction in body["predictions"]:
        assert prediction["score"] == pytest.approx(expected[prediction["index"]], abs=1e-6)
    assert sum(p["score"] for p in body["predictions"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", HTTP_POSTS)
def test_http_events_with_a_raw_image(service: Service, name: str) -> None:
    """Each HTTP sender's sample with a raw image gets a JSON string; top_k comes from the query."""
    answer = service.answer(sample(name))
    assert answer["statusCode"] == 200
    assert answer["isBase64Encoded"] is False
    body = json.loads(answer["body"])
    assert body["label"] == "red"
    assert len(body["predictions"]) == 2


@pytest.mark.parametrize("name", HTTP_POSTS)
def test_http_answers_name_their_media_type(service: Service, name: str) -> None:
    """The answer names JSON in the header field that its sender reads."""
    answer = service.answer(sample(name))
    if name == "load_balancer_multi_value":
        assert answer["multiValueHeaders"] == {"content-type": ["application/json"]}
        assert "headers" not in answer
    else:
        assert answer["headers"] == {"content-type": "application/json"}


@pytest.mark.parametrize("encoded_body", [False, True])
def test_http_event_with_json(service: Service, encoded_body: bool) -> None:
    """A JSON body works as text or base64, and its top_k takes precedence over the query's."""
    text = json.dumps(sample("direct") | {"top_k": 3})
    body = base64.b64encode(text.encode()).decode() if encoded_body else text
    answer = service.answer(with_body(body, "application/json; charset=utf-8", encoded=encoded_body))
    assert len(body_of(answer)["predictions"]) == 3


def test_http_event_without_a_media_type(service: Service) -> None:
    """A body without a media type is treated as bytes (RFC 9110)."""
    event = sample("function_url")
    del event["headers"]["content-type"]
    assert body_of(service.answer(event))["label"] == "red"


@pytest.mark.parametrize("name", ["function_url_get", "load_balancer_health"])
def test_health_document(service: Service, name: str, tiny_model: Path) -> None:
    """GET returns the model's name, hash and number of labels."""
    answer = service.answer(sample(name))
    assert answer["statusCode"] == 200
    assert json.loads(answer["body"]) == {
        "status": "ok",
        "model": {"name": "tiny", "sha256": sha256_of(tiny_model), "labels": 5},
    }


# One byte more or less: its base64 ends with each kind of padding. What follows the end of a JPEG is not read.
PADDED = [RED + bytes(n) for n in range(3)]
SPELLINGS: dict[str, Callable[[str], str]] = {
    "in lines of 76": lambda text: "\n".join(text[i : i + 76] for i in range(0, len(text), 76)) + "\n",
    "in indented lines": lambda text: "\r\n".join("  " + text[i : i + 64] + "\t" for i in range(0, len(text), 64)),
    "url-safe": lambda text: text.translate(str.maketrans("+/", "-_")),
    "with space around it": lambda text: f" \n{text}\t\n ",
    "data url with space around it": lambda text: f"\n data:image/jpeg;base64, {text} \n",
    "unpadded": lambda text: text.rstrip("="),
    "url-safe and unpadded": lambda text: text.translate(str.maketrans("+/", "-_")).rstrip("="),
    "data url": lambda text: f"data:image/jpeg;base64,{text}",
    "data url of no type": lambda text: f"data:;base64,{text}",
    "data url with a parameter": lambda text: f"DATA:image/jpeg;name=red.jpg;BASE64,{text}",
    "data url, url-safe, unpadded, in lines": lambda text: (
        "data:image/jpeg;base64,\n" + text.translate(str.maketrans("+/", "-_")).rstrip("=").replace("A", "A\n")
    ),
}


@pytest.mark.parametrize("image", PADDED, ids=["0", "1", "2"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_of_base64(service: Service, spelling: str, image: bytes) -> None:
    """Base64 with line breaks, URL-safe, unpadded or in a `data:` URL decodes to the same bytes."""
    text = base64.b64encode(image).decode()
    assert {"+", "/"} <= set(text)
    assert parse_event({"image": SPELLINGS[spelling](text)}) == parse_event({"image": text})
    assert service.answer({"image": SPELLINGS[spelling](text)})["body"]["label"] == "red"


def test_json_body_with_a_data_url(service: Service) -> None:
    """A `data:` URL, as browsers produce it, works in a JSON body over HTTP."""
    body = json.dumps({"image": "data:image/jpeg;base64," + base64.b64encode(RED).decode()})
    assert body_of(service.answer(with_body(body)))["label"] == "red"


def test_top_k_defaults_to_five_and_ends_with_the_labels(service: Service) -> None:
    """top_k defaults to 5; a top_k above the number of labels gives all of them."""
    image = base64.b64encode(RED).decode()
    assert len(service.answer({"image": image})["body"]["predictions"]) == 5
    assert len(service.answer({"image": image, "top_k": 900})["body"]["predictions"]) == 5


def test_only_the_first_answer_is_cold(service: Service) -> None:
    """The first answer is cold and includes the load time; later ones do not."""
    first, second = (service.answer(sample("direct"))["body"] for _ in range(2))
    assert (first["cold_start"], second["cold_start"]) == (True, False)
    assert first["timings"]["model_load_s"] > 0
    assert second["timings"]["model_load_s"] == 0.0


# The caller's mistakes

IMAGE = base64.b64encode(RED).decode()
MISTAKES: list[tuple[object, int, str]] = [
    ({}, 400, "missing_image"),
    ({"image": None}, 400, "missing_image"),
    ([], 400, "invalid_json"),
    ("cat.jpg", 400, "invalid_json"),
    (None, 400, "invalid_json"),
    ({"image": IMAGE, "s3": "s3://a/b"}, 400, "invalid_json"),
    ({"image": 7}, 400, "invalid_base64"),
    ({"image": "not base64!"}, 400, "invalid_base64"),
    ({"image": IMAGE + "="}, 400, "invalid_base64"),
    ({"image": "A" * 401}, 400, "invalid_base64"),
    ({"image": "AB="}, 400, "invalid_base64"),
    ({"image": "-_+/" + IMAGE}, 400, "invalid_base64"),
    ({"image": IMAGE.replace("+", "-")}, 400, "invalid_base64"),
    ({"image": IMAGE.replace("+", " ")}, 400, "invalid_base64"),
    ({"image": IMAGE.replace("A", "A\u2028")}, 400, "invalid_base64"),
    ({"image": IMAGE.replace("/", "%2F")}, 400, "invalid_base64"),
    ({"image": "data:image/jpeg," + IMAGE}, 400, "invalid_base64"),
    ({"image": "data:image/jpeg;base64"}, 400, "invalid_base64"),
    ({"image": "data:image/jpeg;base64," + IMAGE + "!"}, 400, "invalid_base64"),
    ({"image": "\ud800"}, 400, "invalid_base64"),
    ({"image": ""}, 400, "invalid_image"),
    ({"image": base64.b64encode(b"hello").decode()}, 400, "invalid_image"),
    ({"image": base64.b64encode(RED[: len(RED) // 2]).decode()}, 400, "invalid_image"),
    ({"image": IMAGE, "top_k": 0}, 400, "invalid_top_k"),
    ({"image": IMAGE, "top_k": "5"}, 400, "invalid_top_k"),
    ({"image": IMAGE, "top_k": 1.5}, 400, "invalid_top_k"),
    ({"image": IMAGE, "top_k": True}, 400, "invalid_top_k"),
    ({"image": "A" * (MAX_IMAGE_BYTES * 4 // 3 + 8)}, 413, "image_too_large"),
    ({"s3": 5}, 400, "invalid_json"),
    ({"s3": "http://bucket/key"}, 400, "invalid_json"),
    ({"s3": "s3://bucket/key"}, 403, "s3_forbidden"),
    (with_body("{", "application/json"), 400, "invalid_json"),
    (with_body("[" * 100_000, "application/json"), 400, "invalid_json"),
    (with_body('{"top_k": ' + "9" * 5000 + "}", "application/json"), 400, "invalid_json"),
    (with_body("", "image/jpeg"), 400, "missing_image"),
    (with_body(None, "image/jpeg"), 400, "missing_image"),
    (with_body("raw bytes as text", "image/jpeg"), 400, "invalid_base64"),
    (with_body(IMAGE, "application/x-www-form-urlencoded", encoded=True), 415, "unsupported_media_type"),
    (sample("function_url") | {"queryStringParameters": {"top_k": "many"}}, 400, "invalid_top_k"),
    (sample("load_balancer") | {"httpMethod": "DELETE"}, 405, "method_not_allowed"),
]


@pytest.mark.parametrize(("event", "status", "code"), MISTAKES, ids=[f"{n}-{m[2]}" for n, m in enumerate(MISTAKES)])
def test_mistakes_are_answered(service: Service, log: Log, event: object, status: int, code: str) -> None:
    """A caller's mistake gets its status, code and message, and one log line."""
    answer = service.answer(event)
    error = body_of(answer)["error"]
    assert (answer["statusCode"], error["code"]) == (status, code)
    assert list(error) == ["code", "message"]
    assert len(error["message"]) > 10
    assert error["message"].isprintable()
    assert len(log) == 1
    assert log.last()["outcome"] == code


def test_a_mistake_does_not_load_the_model(tmp_path: Path, log: Log) -> None:
    """A bad request is answered even if the model is unavailable."""
    service = Service(Settings(str(tmp_path / "none.onnx")), log.append)
    assert service.answer({})["statusCode"] == 400


def test_pixels_over_the_limit(tiny_model: Path, log: Log) -> None:
    """An image over the pixel limit gets 413 from its header."""
    service = Service(Settings(str(tiny_model), max_pixels=319), log.append)
    error = service.answer({"image": base64.b64encode(encoded(plain(size=(20, 16)), "PNG")).decode()})["body"]["error"]
    assert error == {"code": "image_too_large", "message": "the image has more than 319 pixels"}


def test_pixels_at_the_limit(tiny_model: Path, log: Log) -> None:
    """An image at exactly the pixel limit is classified."""
    service = Service(Settings(str(tiny_model), max_pixels=320), log.append)
    assert (
        service.answer({"image": base64.b64encode(encoded(plain(size=(20, 16)), "PNG")).decode()})["statusCode"] == 200
    )


# Events from queues

QUEUED = sorted(path.stem for path in (EVENTS / "queued").glob("*.json"))


@pytest.mark.parametrize("name", [name for name in QUEUED if not name.startswith("test_")])
def test_queued_events_are_not_answered(service: Service, log: Log, name: str) -> None:
    """An event from S3, SQS, SNS, EventBridge or a stream raises: its sender takes any answer as success."""
    with pytest.raises(QueuedEventError):
        service.answer(sample(f"queued/{name}"))
    assert len(log) == 1
    assert (log.last()["outcome"], log.last()["error"]) == ("fault", "QueuedEventError")


@pytest.mark.parametrize("name", [name for name in QUEUED if name.startswith("test_")])
def test_s3_test_event_is_accepted(tmp_path: Path, log: Log, name: str) -> None:
    """The test event of S3 is accepted without a model, directly and through SQS and SNS."""
    answer = Service(Settings(str(tmp_path / "none.onnx")), log.append).answer(sample(f"queued/{name}"))
    assert answer["statusCode"] == 200
    assert len(log) == 1


def test_queued_events_over_http_are_mistakes(service: Service) -> None:
    """Over HTTP, the JSON of a queued event is a request without an image."""
    answer = service.answer(with_body(json.dumps(sample("queued/s3"))))
    assert (answer["statusCode"], body_of(answer)["error"]["code"]) == (400, "missing_image")


# The log


def test_log_line(service: Service, log: Log) -> None:
    """An invocation writes one JSON line: request id, cold or warm, outcome, top label, timings."""

    class Context:
        aws_request_id = "79b4f56e-95b1-4643-9700-2807f4e68189"

    body = service.answer(sample("function_url"), Context())
    assert len(log) == 1
    line = log.last()
    assert line["request_id"] == Context.aws_request_id
    assert (line["outcome"], line["label"], line["cold_start"]) == ("ok", "red", True)
    assert line["timings"] == body_of(body)["timings"]
    assert "\n" not in log[0]


def test_log_line_of_a_load(service: Service, log: Log) -> None:
    """The log line of the invocation that loaded the model has the load's parts; the next one does not."""
    service.answer(sample("direct"))
    line = log.last()
    assert list(line["load"]) == ["imports_s", "fetch_wait_s", "session_s"]
    assert sum(line["load"].values()) == pytest.approx(line["timings"]["model_load_s"], abs=2e-6)
    service.answer(sample("direct"))
    assert "load" not in log.last()


# Errors of the function


def test_fault_raises_and_the_next_invocation_recovers(tmp_path: Path, tiny_model: Path, log: Log) -> None:
    """Without its model the service raises, and answers as soon as the model is available."""
    path = tmp_path / "late.onnx"
    service = Service(Settings(str(path)), log.append)
    with pytest.raises(ModelError, match=r"late\.onnx does not exist"):
        service.answer(sample("direct"))
    assert log.last()["outcome"] == "fault"
    path.write_bytes(tiny_model.read_bytes())
    assert service.answer(sample("direct"))["statusCode"] == 200
    assert [json.loads(line)["outcome"] for line in log] == ["fault", "ok"]


def test_wrong_hash_is_never_used(tiny_model: Path, log: Log) -> None:
    """A model file with the wrong hash raises."""
    service = Service(Settings(str(tiny_model), model_sha256="0" * 64), log.append)
    with pytest.raises(ModelError, match=f"expected {'0' * 64}"):
        service.answer(sample("direct"))


def test_file_that_is_not_a_model(tmp_path: Path, log: Log) -> None:
    """A file that onnxruntime cannot load raises, with the reason in the log line."""
    path = tmp_path / "text.onnx"
    path.write_text("not a model")
    with pytest.raises(ModelError, match="cannot load the model"):
        Service(Settings(str(path)), log.append).answer(sample("direct"))
    assert log.last()["error"] == "ModelError"


def test_model_without_metadata(tmp_path: Path, log: Log) -> None:
    """A model without labels and pre-processing raises."""
    node = helper.make_node("GlobalAveragePool", ["image"], ["logits"])
    path = models.write(tmp_path / "bare.onnx", [node], [], ["N", 3, 8, 8], None)
    with pytest.raises(ModelError, match="no mlinfer metadata"):
        Service(Settings(str(path)), log.append).answer(sample("direct"))


def test_model_with_more_outputs_than_labels(tmp_path: Path, log: Log) -> None:
    """A model with more scores than labels raises."""
    path = _constant_model(tmp_path, [1.0, 2.0, 3.0])
    with pytest.raises(ModelError, match=r"returns shape \(1, 3\)"):
        Service(Settings(str(path)), log.append).answer(sample("direct"))


def test_model_that_answers_nan(tmp_path: Path, log: Log) -> None:
    """NaN from the model raises."""
    path = _constant_model(tmp_path, [float("nan"), 1.0])
    with pytest.raises(ModelError, match="NaN"):
        Service(Settings(str(path)), log.append).answer(sample("direct"))


def test_probabilities_are_not_softmaxed_again(tmp_path: Path, log: Log) -> None:
    """The scores of a model with output `probabilities` are returned unchanged."""
    path = _constant_model(tmp_path, [0.25, 0.75], output="probabilities")
    body = Service(Settings(str(path)), log.append).answer(sample("direct"))["body"]
    assert [(p["label"], p["score"]) for p in body["predictions"]] == [("b", 0.75), ("a", 0.25)]


def test_equal_scores_keep_the_order_of_the_labels(tmp_path: Path, log: Log) -> None:
    """Ties are ordered by class index, so that every target gives the same order."""
    path = _constant_model(tmp_path, [0.5, 0.5], output="probabilities")
    body = Service(Settings(str(path)), log.append).answer(sample("direct"))["body"]
    assert [p["index"] for p in body["predictions"]] == [0, 1]


def _constant_model(folder: Path, values: list[float], output: Any = "logits") -> Path:
    """Write a model with labels a and b that gives constant values."""
    nodes = [
        helper.make_node("ReduceSum", ["image"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Add", ["values", "nothing"], ["logits"]),
    ]
    initializers = [
        numpy_helper.from_array(np.array([values], np.float32), "values"),
        numpy_helper.from_array(np.array(0, np.float32), "zero"),
    ]
    metadata = Metadata("constant", ("a", "b"), models.pre_processing(), output)
    return models.write(folder / "constant.onnx", nodes, initializers, ["N", 3, 8, 8], metadata)


# The model from S3


def from_s3(bucket: Bucket, model: Path, cache: Path) -> Settings:
    """Return the settings of a function whose model is in the bucket."""
    sha256 = sha256_of(model)
    return Settings(bucket.put(f"models/{sha256}.onnx", model.read_bytes()), sha256, cache=cache)


def test_model_from_s3(bucket: Bucket, tiny_model: Path, tmp_path: Path, log: Log) -> None:
    """A model in S3 is downloaded, verified and stored under its hash, without partial files."""
    settings = from_s3(bucket, tiny_model, tmp_path / "cache")
    body = Service(settings, log.append).answer(sample("direct"))["body"]
    assert (body["label"], body["model"]["sha256"]) == ("red", sha256_of(tiny_model))
    assert [p.name for p in settings.cache.iterdir()] == [f"{settings.model_sha256}.onnx"]


@pytest.mark.slow
def test_warm_cache_is_used_without_s3(bucket: Bucket, tiny_model: Path, tmp_path: Path, log: Log) -> None:
    """A model in /tmp with the right hash is used without S3."""
    settings = from_s3(bucket, tiny_model, tmp_path / "cache")
    Service(settings, log.append).load()
    bucket.remove(f"models/{settings.model_sha256}.onnx")
    assert Service(settings, log.append).answer(sample("direct"))["statusCode"] == 200


def test_damaged_cache_is_replaced(bucket: Bucket, tiny_model: Path, tmp_path: Path, log: Log) -> None:
    """A damaged file in /tmp is detected by its hash and downloaded again."""
    settings = from_s3(bucket, tiny_model, tmp_path / "cache")
    settings.cache.mkdir()
    cached = settings.cache / f"{settings.model_sha256}.onnx"
    cached.write_bytes(tiny_model.read_bytes()[:-1])
    assert Service(settings, log.append).answer(sample("direct"))["statusCode"] == 200
    assert cached.read_bytes() == tiny_model.read_bytes()


def test_object_with_another_hash(bucket: Bucket, tiny_model: Path, tmp_path: Path, log: Log) -> None:
    """An object with another hash raises and leaves nothing in /tmp; once corrected, the next call answers."""
    settings = from_s3(bucket, tiny_model, tmp_path / "cache")
    key = f"models/{settings.model_sha256}.onnx"
    bucket.put(key, b"something else")
    service = Service(settings, log.append)
    with pytest.raises(ModelError, match=f"expected {settings.model_sha256}"):
        service.answer(sample("direct"))
    assert list(settings.cache.iterdir()) == []
    bucket.put(key, tiny_model.read_bytes())
    assert service.answer(sample("direct"))["statusCode"] == 200


def test_missing_object(bucket: Bucket, tmp_path: Path, log: Log) -> None:
    """A missing model object raises with the URI and what to do."""
    settings = Settings(f"s3://{bucket.name}/none.onnx", "0" * 64, cache=tmp_path / "cache")
    with pytest.raises(ModelError, match=r"s3://pictures/none\.onnx does not exist"):
        Service(settings, log.append).answer(sample("direct"))


def test_cache_that_cannot_be_written(bucket: Bucket, tiny_model: Path, tmp_path: Path, log: Log) -> None:
    """If /tmp cannot be written, the error says so."""
    (tmp_path / "cache").write_text("a file in the folder's place")
    settings = from_s3(bucket, tiny_model, tmp_path / "cache")
    with pytest.raises(ModelError, match="cache"):
        Service(settings, log.append).answer(sample("direct"))


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """Limit the size of files that this process can write, so that a write is cut as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("missing", [1, 4096, 3 * 2**20])
def test_short_write(bucket: Bucket, tmp_path: Path, log: Log, missing: int) -> None:
    """If /tmp is too small for the model, the error says so and no file stays; with room, it works."""
    model = models.heavy(tmp_path / "heavy.onnx", 4)
    settings = from_s3(bucket, model, tmp_path / "cache")
    service = Service(settings, log.append)
    with disk_of(model.stat().st_size - missing), pytest.raises(ModelError, match="cannot write the model"):
        service.answer(sample("direct"))
    assert list(settings.cache.iterdir()) == []
    with disk_of(model.stat().st_size):
        assert service.answer(sample("direct"))["statusCode"] == 200


@pytest.fixture
def broken_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Request]]:
    """Point the environment to an S3 that breaks connections in the middle of the object; return its requests."""
    requests: list[Request] = []
    half = {"content-length": "1000", "last-modified": "Wed, 21 Oct 2015 07:28:00 GMT", "etag": '"1"'}

    def answer(request: Request) -> Answer:
        requests.append(request)
        return Answer(200, half, b"x" * 500)

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, f"the {name}")
    with serve(answer) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
        yield requests


def test_download_that_breaks_off(tmp_path: Path, log: Log, broken_s3: list[Request]) -> None:
    """An interrupted download is an error and leaves no file; it used Lambda's session token."""
    settings = Settings("s3://broken/model.onnx", "0" * 64, cache=tmp_path / "cache")
    with pytest.raises(StorageError, match="500 of 1,000 bytes"):
        Service(settings, log.append).answer(sample("direct"))
    assert list(settings.cache.iterdir()) == []
    assert log.last()["outcome"] == "fault"
    assert "Credential=the AWS_ACCESS_KEY_ID/" in broken_s3[0].headers["authorization"]
    assert broken_s3[0].headers["x-amz-security-token"] == "the AWS_SESSION_TOKEN"


# Images from S3


@pytest.fixture
def reading_service(bucket: Bucket, tiny_model: Path, log: Log) -> Service:
    """Return a service that may read s3://pictures/in/."""
    return Service(Settings(str(tiny_model), input_prefixes=(f"s3://{bucket.name}/in/",)), log.append)


@pytest.mark.parametrize("key", ["in/red.jpg", "in/a b/ü#1%.jpg", "in/x=1&y=+.jpg"])
def test_image_from_s3(bucket: Bucket, reading_service: Service, key: str) -> None:
    """An image under a configured prefix is classified by reference, whatever characters its key has."""
    assert reading_service.answer({"s3": bucket.put(key, RED)})["body"]["label"] == "red"


KEYS = [
    "in/red.png",
    "in/a b.png",
    "in/a+b.png",
    "in/a%20b.png",
    "in/%2Fred.png",
    "in/ü.png",
    "in/u\u0308.png",
    "in/日本.png",
]
KEYS += [
    "in/a?b#c&d=e.png",
    "in/...png",
    "in/ red.png ",
    "in/[x]{y}|^`~.png",
    "in/a\"'\\b.png",
    "in/a:b;c,d@e$*!().png",
]
KEYS += ["in//red.png", "in/red.png/", "in/", "in/./red.png", "in/../in/red.png", "in/..", "in/\t.png"]
KEYS += ["/in/red.png", "//in/red.png", "in/red.png//"]


@pytest.mark.slow
def test_exactly_the_object_that_is_named(bucket: Bucket, tiny_model: Path, log: Log) -> None:
    """Each of many similar keys gets its own object, whatever S3 allows in it."""
    service = Service(Settings(str(tiny_model), input_prefixes=("s3://pictures",)), log.append)
    colours = {key: (i * 3 % 256, i * 7 % 256, 255 - i) for i, key in enumerate(KEYS)}
    for key, colour in colours.items():
        bucket.put(key, encoded(plain(colour), "PNG"))
    for key in KEYS:
        text = base64.b64encode(encoded(plain(colours[key]), "PNG")).decode()
        (here, there) = (service.answer(e)["body"] for e in ({"image": text}, {"s3": f"s3://pictures/{key}"}))
        assert here["predictions"] == there.get("predictions"), key


@pytest.mark.parametrize("prefix", ["s3://pictures/inputs", "s3://pictures/inputs/"])
def test_a_prefix_covers_whole_segments(bucket: Bucket, tiny_model: Path, log: Log, prefix: str) -> None:
    """A prefix does not cover a folder whose name only starts with it, or an object with its name."""
    service = Service(Settings(str(tiny_model), input_prefixes=(prefix,)), log.append)
    assert service.answer({"s3": bucket.put("inputs/red.jpg", RED)})["statusCode"] == 200
    for key in ("inputs-private/red.jpg", "inputs.jpg", "inputs"):
        assert service.answer({"s3": bucket.put(key, RED)})["statusCode"] == 403


@pytest.mark.parametrize("key", ["out/red.jpg", "in", "red.jpg"])
def test_image_outside_the_prefixes(bucket: Bucket, reading_service: Service, key: str) -> None:
    """An object outside the prefixes is refused even if the credentials could read it."""
    answer = reading_service.answer({"s3": bucket.put(key, RED)})
    assert (answer["statusCode"], answer["body"]["error"]["code"]) == (403, "s3_forbidden")


@pytest.mark.parametrize("uri", ["s3://pictures-evil/in/red.jpg", "s3://pictures/in/../out/red.jpg"])
def test_tricks_with_the_prefix(bucket: Bucket, reading_service: Service, uri: str) -> None:
    """A bucket name that only starts alike, or dots in the key, give no access."""
    bucket.put("out/red.jpg", RED)
    assert reading_service.answer({"s3": uri})["statusCode"] in (403, 404)


def test_missing_image_object(bucket: Bucket, reading_service: Service) -> None:
    """A missing key is the caller's mistake: 404."""
    answer = reading_service.answer({"s3": f"s3://{bucket.name}/in/none.jpg"})
    assert (answer["statusCode"], answer["body"]["error"]["code"]) == (404, "s3_not_found")


@pytest.mark.slow
def test_huge_image_object(bucket: Bucket, reading_service: Service) -> None:
    """An object over the byte limit is refused before it is read."""
    answer = reading_service.answer({"s3": bucket.put("in/huge.jpg", bytes(MAX_IMAGE_BYTES + 1))})
    assert (answer["statusCode"], answer["body"]["error"]["code"]) == (413, "image_too_large")


def test_an_unreachable_s3_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    """An unreachable S3 is an error of one line, without the library's debug output."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        lines: list[str] = []
        service = Service(Settings(str(tiny_model), input_prefixes=("s3://elsewhere/",)), lines.append)
        with pytest.raises(FaultError) as caught:
            service.answer({"s3": "s3://elsewhere/cat.jpg"})
    assert "http://127.0.0.1" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert json.loads(lines[-1])["outcome"] == "fault"
