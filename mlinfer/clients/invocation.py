"""Read the result of an invocation of Lambda or its emulator: a response of the handler, or a kind of failure.

Only the body is used. Lambda marks a failure with X-Amz-Function-Error, but the emulator does not: it returns 200 with a
JSON document for an exception, 200 with a sentence for a timeout, and 502 for an exit.
https://docs.aws.amazon.com/lambda/latest/dg/python-exceptions.html
"""

from __future__ import annotations

import json
from typing import Any

from ..errors import InvocationError, RemoteError

# The limit for a request and for a response: https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
MAX_REQUEST_BYTES = 6 * 2**20
SLACK_S = 15  # on top of the function's timeout, for container start and network

_LOGS = "Check the function's log."
_LAMBDAS = ("Runtime.", "Sandbox.", "Function.", "Extension.")  # prefixes of an errorType that Lambda itself sets


def read_answer(payload: bytes, subject: str) -> dict[str, Any]:
    """Return the handler's response. subject: what was called, for messages. Raises InvocationError."""
    text = payload.decode(errors="replace").strip()
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if isinstance(document, dict) and "statusCode" in document:
        return document
    raise failure(document if isinstance(document, dict) else {"errorMessage": text}, subject)


def read_prediction(payload: bytes, subject: str) -> dict[str, Any]:
    """Return the handler's response to an image, checked by `require_prediction`. Raises RemoteError."""
    return require_prediction(read_answer(payload, subject), subject)


def require_prediction(answer: dict[str, Any], subject: str) -> dict[str, Any]:
    """Return the response if it has the form of mlinfer's: {statusCode, body: {predictions, model, ...} or {error}}.

    Any other function may run behind the port or the alias. Raises RemoteError.
    """
    body = answer["body"] if isinstance(answer.get("body"), dict) else {}
    if answer["statusCode"] == 200:
        predictions = body.get("predictions")
        listed = isinstance(predictions, list) and bool(predictions) and all(map(_is_prediction, predictions))
        of_ours = listed and _holds(body.get("model"), name=str, sha256=str)
    else:
        of_ours = isinstance(answer["statusCode"], int) and _holds(body.get("error"), code=str, message=str)
    if not of_ours:
        hint = "Check port in mlinfer.toml (local) or --project and --region (AWS)."
        raise RemoteError("not_mlinfer", f"{subject} does not run mlinfer's handler", hint)
    return answer


def _is_prediction(entry: object) -> bool:
    return _holds(entry, label=str, index=int, score=float | int)


def _holds(document: object, **kinds: Any) -> bool:
    """Return whether it is a JSON object with values of these types."""
    return isinstance(document, dict) and all(isinstance(document.get(name), kind) for name, kind in kinds.items())


def failure(document: dict[str, Any], subject: str) -> InvocationError:
    """Return the error for a failed invocation. document: Lambda's {errorType, errorMessage}."""
    kind, message = str(document.get("errorType") or ""), str(document.get("errorMessage") or "")
    reason = message.partition(" Error: ")[2] if message.startswith("RequestId: ") else message
    if kind and not kind.startswith(_LAMBDAS) and kind != "MemoryError":
        raised = ": ".join(filter(None, (kind, reason)))
        return InvocationError("function_failed", f"{subject} failed", _LOGS, reason=raised)
    if "Task timed out" in message or kind == "Sandbox.Timedout":
        hint = "Increase timeout or memory in mlinfer.toml."
        return InvocationError("function_timeout", f"{subject} timed out", hint, reason=reason.rstrip("."))
    if "signal: killed" in message or kind in ("Runtime.OutOfMemory", "MemoryError"):
        hint = "Increase memory in mlinfer.toml, or use --memory."
        return InvocationError("out_of_memory", f"{subject} ran out of memory", hint)
    if kind == "Function.ResponseSizeTooLarge":
        hint = "Request fewer classes with --top-k 5."
        return InvocationError("answer_too_large", f"{subject}: the response exceeds Lambda's limit of 6 MB", hint)
    if kind == "Runtime.ImportModuleError" or "exec format error" in message:
        hint = "Check --arch, and that base_image in mlinfer.toml is a Lambda base image for Python 3.12 or newer."
        return InvocationError("function_not_loaded", f"cannot load {subject}", hint, reason=reason)
    if kind or not message:
        hint = _LOGS if reason else "Check the function's log. If it shows nothing, increase memory in mlinfer.toml."
        return InvocationError("function_crashed", f"{subject} crashed", hint, reason=reason)
    return InvocationError("function_failed", f"{subject} failed", _LOGS, reason=reason)
