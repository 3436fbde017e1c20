"""Verify that a published version and the local model file give the same predictions, before traffic moves to it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..clients.invocation import read_prediction
from ..clients.waiter import Waiter
from ..errors import MlinferError, VerificationError
from ..model.samples import SamplePicture
from ..names import Names
from ..targets import Target, make_event
from ..targets.aws import explained_invocation, send_until_accepted
from .resources.function import ROLE_LIMIT_S

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient


PICTURES = 3
TOP_K = 5
NETWORK_S = 30  # of an invocation, beside the function's own timeout
_ALL = 10**6  # classes
# Absolute difference of scores in 0..1. Lambda's processors can use other kernels, which sum float32 numbers in another
# order. A wrong model, label list or preprocessing differs by far more; the same container image run locally stays below 1e-5.
TOLERANCE = 1e-3

_MAY_NOT_READ = b"the function's role needs "  # lambda_src.inference.download says so


@dataclass(frozen=True)
class Answered:
    """The response of a version. document: the handler's. log: the last lines of its log."""

    document: dict[str, Any]
    log: str


Ask = Callable[[bytes], Answered]


def version_asker(client: LambdaClient, names: Names, *, version: str, waiter: Waiter) -> Ask:
    """Return a function that sends an image to a published version. client: must not retry requests.

    Raises RemoteError, VerificationError.
    """
    which: dict[str, Any] = {"FunctionName": names.function, "Qualifier": version}
    subject = f"version {version} of function {names.function}"

    def invoke(data: bytes) -> tuple[bytes, str]:
        payload = json.dumps(make_event(data, TOP_K)).encode()
        with explained_invocation(subject, "lambda:InvokeFunction on the function"):
            answer = send_until_accepted(lambda: client.invoke(**which, Payload=payload, LogType="Tail"), waiter)
            content = answer["Payload"].read()
        return content, base64.b64decode(answer.get("LogResult", "")).decode(errors="replace").rstrip()

    def ask(data: bytes) -> Answered:
        content, log = invoke(data)
        if _MAY_NOT_READ in content:  # a role's new permissions reach S3 some seconds after IAM accepts them
            for _ in waiter.pauses("the role's new permissions are not active everywhere yet", ROLE_LIMIT_S):
                content, log = invoke(data)
                if _MAY_NOT_READ not in content:
                    break
        try:
            return Answered(read_prediction(content, subject), log)
        except MlinferError as error:
            raise _failed(str(error), log) from error

    return ask


def verify_answers(ask: Ask, embedded: Target, *, sha256: str, pictures: Sequence[SamplePicture]) -> str:
    """Compare model, labels and scores of the version with the local ones. Return a summary.

    Classes may swap places if their scores differ by less than the tolerance. Raises VerificationError.
    """
    largest = 0.0
    for picture in pictures:
        answer = ask(picture.read())
        here, there = _body(embedded(picture.name, picture.read(), _ALL), ""), _body(answer.document, answer.log)
        _same_model(there, sha256, answer.log)
        distance = _distance(here["predictions"], there["predictions"])
        if distance > TOLERANCE:
            shown = f"expected {_shown(here)}, got {_shown(there)}"
            raise _failed(f"the version and the local model disagree on {picture.name}: {shown}", answer.log)
        largest = max(largest, distance)
    return f"same predictions as the local model for {len(pictures)} images{f' (scores within {largest:.1e})' if largest else ''}"


def verify_alone(ask: Ask, sha256: str, pictures: Sequence[SamplePicture]) -> str:
    """Verify without a model file that the version uses the right model and predicts the same in two calls.

    Raises VerificationError.
    """
    for picture in pictures:
        first, second = ask(picture.read()), ask(picture.read())
        before, after = _body(first.document, first.log), _body(second.document, second.log)
        _same_model(after, sha256, second.log)
        if before["predictions"] != after["predictions"]:
            raise _failed(
                f"two calls with {picture.name} differ: first {_shown(before)}, then {_shown(after)}", second.log
            )
    return f"same predictions in two calls for {len(pictures)} images (no local model file to compare with)"


def _same_model(there: dict[str, Any], sha256: str, log: str) -> None:
    found = there["model"]["sha256"]
    if found != sha256:
        raise _failed(f"the version uses model {found[:12]} instead of {sha256[:12]}", log)


def _distance(here: list[dict[str, Any]], there: list[dict[str, Any]]) -> float:
    """Return the largest score difference by rank or by class; 1 if labels or the number of predictions differ."""
    scores = {entry["index"]: (entry["label"], entry["score"]) for entry in here}
    if len(there) != min(TOP_K, len(here)):
        return 1.0
    largest = 0.0
    for place, entry in zip(here, there, strict=False):
        label, score = scores.get(entry["index"], ("", 0.0))
        if label != entry["label"]:
            return 1.0
        largest = max(largest, abs(score - entry["score"]), abs(score - place["score"]))
    return largest


def _body(document: dict[str, Any], log: str) -> dict[str, Any]:
    if document["statusCode"] != 200:
        raise _failed(f"the version rejected a sample image: {document['body']}", log)
    body: dict[str, Any] = document["body"]
    return body


def _shown(body: dict[str, Any]) -> str:
    return ", ".join(f"{entry['label']} {entry['score']:.4f}" for entry in body["predictions"][:TOP_K])


def _failed(message: str, log: str) -> VerificationError:
    lines = "".join(f"\n    {line}" for line in log.splitlines())
    told = f"{message}\n  Last lines of its log:{lines}" if log else message
    return VerificationError(
        "not_proved", told, "See the log with `mlinfer logs`. No traffic was moved to this version."
    )
