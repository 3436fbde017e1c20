"""The handler's errors: a caller's mistake gets an HTTP answer, a fault of the function is raised."""

from __future__ import annotations


class RequestError(Exception):
    """A caller's mistake. The handler answers it with a 4xx status and never raises it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class FaultError(Exception):
    """A fault of the function. The handler raises it, so that Lambda counts an error and asynchronous callers retry."""


class QueuedEventError(FaultError):
    """A queued event. An answer would delete it from the queue, and an exception makes the sender retry it."""


class SettingsError(FaultError):
    """An environment variable of the function is missing or invalid."""


class ModelError(FaultError):
    """The model cannot be loaded, has the wrong SHA-256, or has no valid metadata."""


def quoted(value: object, limit: int = 80) -> str:
    """Return a caller's value as short, printable ASCII for a message or a log line.

    For a long number, a list or an object return only the type: Python fails to print thousands of digits or brackets.
    """
    if isinstance(value, str):
        shown = ascii(value[:limit])
        return shown if len(shown) <= limit else shown[: limit - 3] + "..."
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 10**15):
        return str(value)
    return f"a value of type {type(value).__name__}"
