"""Prove that a published version answers as the same model file does here, before any traffic goes to it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from .aws import Client, error_code, explained
from .errors import VerificationError
from .names import Names
from .predict import Target
from .samples import Sample
from .waiting import Patience

PICTURES = 3
TOP_K = 5
# Absolute, of a score in 0..1. Lambda's processors take other kernels than this one, which add float32 numbers in another
# order; the same image run here meets 1e-5. A wrong model, label list or pre-processing is off by far more than this.
TOLERANCE = 1e-3

_BUSY = ("TooManyRequestsException", "ResourceNotReadyException", "CodeArtifactUserPendingException")


@dataclass(frozen=True)
class Answered:
    """What a version answered: the handler's document, and the end of its log."""

    document: dict[str, Any]
    log: str


Ask = Callable[[dict[str, Any]], Answered]


def version_asker(client: Client, names: Names, version: str, patience: Patience) -> Ask:
    """Return what asks a published version. client: one that repeats no request. Raises RemoteError, VerificationError."""

    def ask(event: dict[str, Any]) -> Answered:
        payload = json.dumps(event).encode()
        which = {"FunctionName": names.function, "Qualifier": version}
        with explained(f"version {version} of {names.function}"):
            answer = patience.retry(lambda: client.invoke(**which, Payload=payload, LogType="Tail"), _not_run_yet)
            content = answer["Payload"].read()
        log = base64.b64decode(answer.get("LogResult", "")).decode(errors="replace").rstrip()
        try:
            document = json.loads(content)
        except ValueError:
            document = {"errorMessage": content.decode(errors="replace")[:500]}
        if "FunctionError" in answer or not isinstance(document, dict) or "statusCode" not in document:
            raise _failed(f"version {version} fails: {_error_text(document)}", log)
        return Answered(document, log)

    return ask


def prove(ask: Ask, embedded: Target, sha256: str, pictures: Sequence[Sample]) -> str:
    """Compare the version's answers with the embedded ones: model, labels in order, scores. Return what was shown.

    Classes whose scores are nearer to each other than the tolerance may change places. Raises VerificationError.
    """
    largest = 0.0
    for picture in pictures:
        event = {"image": base64.b64encode(picture.read()).decode("ascii"), "top_k": TOP_K}
        answer = ask(event)
        here = _body(embedded({**event, "top_k": 10**6}), "")
        there = _body(answer.document, answer.log)
        if there["model"]["sha256"] != sha256:
            raise _failed(f"it answers with the model {there['model']['sha256'][:12]}, not {sha256[:12]}", answer.log)
        distance = _distance(here["predictions"], there["predictions"])
        if distance > TOLERANCE:
            shown = f"{picture.name}: here {_shown(here)}; there {_shown(there)}"
            raise _failed(f"the version answers otherwise than the same model here. {shown}", answer.log)
        largest = max(largest, distance)
    return f"{len(pictures)} pictures as here, scores within {largest:.0e}"


def prove_alone(ask: Ask, sha256: str, pictures: Sequence[Sample]) -> str:
    """Where the model file is not to be had: each picture is answered, twice the same, by the model that it names.

    Raises VerificationError.
    """
    for picture in pictures:
        event = {"image": base64.b64encode(picture.read()).decode("ascii"), "top_k": TOP_K}
        answers = [ask(event), ask(event)]
        first, second = (_body(answer.document, answer.log) for answer in answers)
        if first["predictions"] != second["predictions"]:
            raise _failed(f"{picture.name}: {_shown(first)}; asked again {_shown(second)}", answers[1].log)
        if sha256 and first["model"]["sha256"] != sha256:
            raise _failed(f"it answers with the model {first['model']['sha256'][:12]}, not {sha256[:12]}", "")
    return f"{len(pictures)} pictures answered, twice the same; not compared, as its model file is not to be had here"


def _distance(here: list[dict[str, Any]], there: list[dict[str, Any]]) -> float:
    """Return the largest difference of a place's two scores, or of one class's; 1 where the places do not match up."""
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
        raise _failed(f"a picture was refused: {document['body']}", log)
    body: dict[str, Any] = document["body"]
    return body


def _shown(body: dict[str, Any]) -> str:
    return ", ".join(f"{entry['label']} {entry['score']:.4f}" for entry in body["predictions"][:TOP_K])


def _error_text(document: object) -> str:
    if isinstance(document, dict) and "errorMessage" in document:
        return ": ".join(str(document[key]) for key in ("errorType", "errorMessage") if key in document)
    return json.dumps(document)[:500]


def _failed(message: str, log: str) -> VerificationError:
    lines = "".join(f"\n    {line}" for line in log.splitlines())
    told = f"{message}\n  The end of its log:{lines}" if log else message
    return VerificationError("not_proved", told, "The alias was not moved: what was live still is.")


def _not_run_yet(error: ClientError) -> str:
    """Say what to wait for when the function has not run at all, so that asking again runs nothing twice."""
    code, message = error_code(error), str(error.response.get("Error", {}).get("Message", ""))
    pending = code == "ResourceConflictException" and ("Pending" in message or "in progress" in message)
    return "Lambda makes the version ready" if code in _BUSY or pending else ""
