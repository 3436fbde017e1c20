"""Answer events with one model: in Lambda, in the local container or in process."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any

from .errors import RequestError, quoted
from .events.direct import Question, answer_direct, has_image, parse_fields
from .events.http import answer_http, is_http, parse_http
from .events.queued import is_s3_test, refuse_queued
from .inference.download import Fetch
from .s3.objects import ObjectForbiddenError, ObjectNotFoundError, open_object, split_uri
from .settings import MAX_IMAGE_BYTES, Settings

if TYPE_CHECKING:
    from .inference.classifier import Classifier


class Service:
    """Answers events, also of several threads at once. `log` receives one JSON line per invocation."""

    def __init__(self, settings: Settings, log: Callable[[str], None]) -> None:
        self._settings = settings
        self._log = log
        self._model: Classifier | None = None
        # Seconds of each part of the load, until one log line has reported them
        self._unreported: dict[str, dict[str, float]] = {}
        self._invocations = count()

    def load(self) -> Classifier:
        """Return the model. The first call fetches and loads it, and a failed call can be repeated. Raises FaultError."""
        if self._model is None:
            started = time.perf_counter()
            fetch = Fetch(self._settings)
            from .inference.classifier import Classifier  # imports numpy, onnxruntime and Pillow during the download

            imported = time.perf_counter()
            path, sha256 = fetch.result()
            fetched = time.perf_counter()
            self._model = Classifier(path, sha256, self._settings.threads)
            session_s = time.perf_counter() - fetched
            load = {"imports_s": imported - started, "fetch_wait_s": fetched - imported, "session_s": session_s}
            self._unreported["load"] = load
        return self._model

    def answer(self, event: object, context: object = None) -> dict[str, Any]:
        """Answer one event of any shape and log one line. Raises FaultError, MemoryError or an error of S3.

        Raises QueuedEventError for an event from a queue, so that the sender keeps the event.
        """
        cold = next(self._invocations) == 0
        line: dict[str, Any] = {"request_id": request_id(context), "cold_start": cold}
        try:
            status, body = 200, self._body(parse_event(event), line)
        except RequestError as error:
            status, body = error.status, {"error": {"code": error.code, "message": str(error)}}
            line |= {"outcome": error.code, "message": str(error)}
        except BaseException as error:
            self._log(fault_line(error, context, cold_start=cold))
            raise
        self._log(json.dumps(line))
        return answer_http(event, status, body) if is_http(event) else answer_direct(status, body)

    def _body(self, question: Question | None, line: dict[str, Any]) -> dict[str, Any]:
        if question is None:
            line["outcome"] = "nothing_to_do"
            return {"status": "ok"}
        image = self._fetched(question.s3) if question.s3 is not None else question.image
        model = self.load()
        load = self._unreported.pop("load", {})
        identity = {"name": model.metadata.name, "sha256": model.sha256}
        line |= {"outcome": "ok", "model": identity}
        if image is None:
            return {"status": "ok", "model": identity | {"labels": len(model.metadata.labels)}}
        predictions, parts = model.predict(image, question.top_k, self._settings.max_pixels)
        best = predictions[0]
        timings = _rounded({"model_load_s": sum(load.values(), 0.0), **parts})
        line |= {"label": best.label, "score": best.score, "timings": timings, "image_bytes": len(image)}
        if load:
            line["load"] = _rounded(load)
        return {
            "pred_index": best.index,
            "label": best.label,
            "score": best.score,
            "predictions": [{"index": p.index, "label": p.label, "score": p.score} for p in predictions],
            "model": identity,
            "cold_start": line["cold_start"],
            "timings": timings,
        }

    def _fetched(self, uri: str) -> bytes:
        """Return the bytes of an S3 object that the function may read. Raises RequestError."""
        try:
            bucket, key = split_uri(uri)
        except ValueError as error:
            raise RequestError(
                400, "invalid_json", f"s3 must have the form s3://bucket/key, got {quoted(uri)}"
            ) from error
        if not any(_covers(prefix, bucket, key) for prefix in self._settings.input_prefixes):
            raise RequestError(403, "s3_forbidden", f"this function is not allowed to read {quoted(uri)}")
        try:
            with open_object(uri) as stored:
                if stored.size > MAX_IMAGE_BYTES:
                    message = f"the image has {stored.size:,} bytes (limit {MAX_IMAGE_BYTES:,})"
                    raise RequestError(413, "image_too_large", message)
                return b"".join(stored)
        except ObjectNotFoundError as error:
            raise RequestError(404, "s3_not_found", f"object {quoted(uri)} does not exist") from error
        except ObjectForbiddenError as error:
            message = f"S3 denied access to {quoted(uri)}, or the object does not exist"
            if "kms:" in str(error):  # S3's message would show any caller the names of the role and the key
                message = f"the function's role needs kms:Decrypt on the KMS key of {quoted(uri)}"
            raise RequestError(403, "s3_forbidden", message) from error


def parse_event(event: object) -> Question | None:
    """Parse an event of any shape. Return None if there is nothing to do. Raises RequestError, QueuedEventError."""
    if is_http(event):
        return parse_http(event)
    if not has_image(event):
        if is_s3_test(event):
            return None
        refuse_queued(event)
    return parse_fields(event)


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds in whole microseconds."""
    return {name: round(value, 6) for name, value in seconds.items()}


def fault_line(error: BaseException, context: object, **more: object) -> str:
    """Return the log line of an invocation that failed because of the function."""
    line = {"request_id": request_id(context), "outcome": "fault", "error": type(error).__name__}
    return json.dumps({**line, "message": str(error)[:500], **more})


def request_id(context: object) -> str | None:
    """Return the request id of Lambda's context object, None in process."""
    return getattr(context, "aws_request_id", None)


def _covers(prefix: str, bucket: str, key: str) -> bool:
    """Tell whether a configured prefix covers an object. `in` covers `in/a`, but not `in-b/a`."""
    return f"s3://{bucket}/{key}".startswith(prefix if prefix.endswith("/") else f"{prefix}/")
