"""Tell what an invocation ended with: an answer, or which kind of failure, in Lambda and in its emulator.

Lambda marks a failed invocation with X-Amz-Function-Error. The emulator never does: an exception of the handler is a
200 with a JSON document, a timeout a 200 with a sentence, an exit a 502. So what counts is the body.
https://docs.aws.amazon.com/lambda/latest/dg/python-exceptions.html
"""

from __future__ import annotations

import json
from typing import Any

from ..errors import InvocationError

# https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html: 6 MB each, for request and response
MAX_REQUEST_BYTES = 6 * 2**20

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
