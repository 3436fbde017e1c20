"""Where the local function listens, and whether it does."""

from __future__ import annotations

import urllib.error
import urllib.request

HOST = "127.0.0.1"
INVOCATIONS = "/2015-03-31/functions/function/invocations"
PROJECT_HEADER = "Mlinfer-Project"  # of each answer of `run-local --no-docker`


def address(port: int) -> str:
    """Return the local function's address, an endpoint for boto3."""
    return f"http://{HOST}:{port}"


def post(url: str, body: bytes, timeout: float) -> bytes:
    """Send an invocation and return the body of the answer, whatever its status. Raises OSError."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310 - ours, http
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310
            content: bytes = answer.read()
    except urllib.error.HTTPError as error:
        content = error.read()
    return content


def listens(url: str) -> bool:
    """Tell whether the emulator itself answers: a connection proves nothing, for Docker's proxy accepts it first."""
    root = url.removesuffix(INVOCATIONS) + "/"
    try:
        with urllib.request.urlopen(root, timeout=2):  # noqa: S310
            return True
    except urllib.error.HTTPError as error:
        return error.code == 404
    except OSError:
        return False
