"""Tell what an invocation ended with: an answer, or which kind of failure, in Lambda and in its emulator.

Lambda marks a failed invocation with X-Amz-Function-Error. The emulator never does: an exception of the handler is a
200 with a JSON document, a timeout a 200 with a sentence, an exit a 502. So what counts is the body.
https://docs.aws.amazon.com/lambda/latest/dg/python-exceptions.html
"""

from __future__ import annotations

import json
from typing import Any

from ..errors import InvocationError, RemoteError

# https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html: 6 MB each, for request and response
MAX_REQUEST_BYTES = 6 * 2**20
SLACK_S = 15  # beyond the function's timeout: the start of a container and the way there

_LAMBDAS = ("Runtime.", "Sandbox.", "Function.", "Extension.")  # errorType of what is not the handler's own exception


def read_answer(payload: bytes, subject: str) -> dict[str, Any]:
    """Return the handler's answer; `subject` names who gave it. Raises InvocationError."""
    text = payload.decode(errors="replace").strip()
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if isinstance(document, dict) and "statusCode" in document:
        return document
    raise failure(document if isinstance(document, dict) else {"errorMessage": text}, subject)


def read_prediction(payload: bytes, subject: str) -> dict[str, Any]:
    """Return the handler's answer about a picture: predictions, or what is wrong with it. Raises RemoteError.

    Any other function may sit behind the port, or behind the alias.
    """
    return require_prediction(read_answer(payload, subject), subject)


def require_prediction(answer: dict[str, Any], subject: str) -> dict[str, Any]:
    """Return the answer if it is one of mlinfer's handler: {statusCode, body: {predictions, model, ...} or {error}}.

    Raises RemoteError.
    """
    body = answer["body"] if isinstance(answer.get("body"), dict) else {}
    if answer["statusCode"] == 200:
        predictions = body.get("predictions")
        listed = isinstance(predictions, list) and bool(predictions) and all(map(_is_prediction, predictions))
        of_ours = listed and _holds(body.get("model"), name=str, sha256=str)
    else:
        of_ours = isinstance(answer["statusCode"], int) and _holds(body.get("error"), code=str, message=str)
    if not of_ours:
        hint = "Check the port in mlinfer.toml; of AWS the project and the Region, and see: mlinfer status"
        raise RemoteError("not_mlinfer", f"{subject} answers, but not as mlinfer's function does", hint)
    return answer


def _is_prediction(entry: object) -> bool:
    return _holds(entry, label=str, index=int, score=float | int)


def _holds(document: object, **kinds: Any) -> bool:
    """Tell whether it is a JSON object with values of these types."""
    return isinstance(document, dict) and all(isinstance(document.get(name), kind) for name, kind in kinds.items())


def failure(document: dict[str, Any], subject: str) -> InvocationError:
    """Return the error that says how the function failed. document: Lambda's {errorType, errorMessage}."""
    kind, message = str(document.get("errorType") or ""), str(document.get("errorMessage") or "")
    reason = message.partition(" Error: ")[2] if message.startswith("RequestId: ") else message
    if kind and not kind.startswith(_LAMBDAS) and kind != "MemoryError":
        told = ": ".join(filter(None, (subject, kind, reason)))
        return InvocationError("function_failed", told, "Its log tells more.")
    if "Task timed out" in message or kind == "Sandbox.Timedout":
        hint = "Give it more time or memory: timeout and memory in mlinfer.toml."
        return InvocationError("function_timeout", f"{subject}: {reason.rstrip('.')}", hint)
    if "signal: killed" in message or kind in ("Runtime.OutOfMemory", "MemoryError"):
        hint = "Give it more: memory in mlinfer.toml, or --memory."
        return InvocationError("out_of_memory", f"{subject} was stopped: its memory is too small", hint)
    if kind == "Function.ResponseSizeTooLarge":
        return InvocationError(
            "answer_too_large", f"{subject}: its answer is over 6 MB", "Ask for fewer classes: --top-k 5"
        )
    if kind == "Runtime.ImportModuleError" or "exec format error" in message:
        hint = "Is the image for this architecture, and its base one of Lambda for Python 3.12 or newer?"
        return InvocationError("function_not_loaded", f"{subject} cannot be loaded: {reason}", hint)
    if kind or not message:
        message = f"{subject} ended without an answer{': ' if reason else ''}{reason}"
        hint = "Its log tells more" + ("." if reason else "; too little memory for its start ends it like this, too.")
        return InvocationError("function_crashed", message, hint)
    return InvocationError("function_failed", f"{subject}: it failed: {reason}", "Its log tells more.")
