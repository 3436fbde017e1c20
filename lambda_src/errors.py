"""What can go wrong: the caller's mistakes are answered, our own faults are raised."""

from __future__ import annotations


class RequestError(Exception):
    """The caller's mistake: answered with a 4xx status, never raised out of the handler."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class FaultError(Exception):
    """Our own fault: it leaves the handler, so that Lambda counts an error and asynchronous callers retry."""


class QueuedEventError(FaultError):
    """The event was queued, and an answer would delete it: the sender retries what fails."""


class SettingsError(FaultError):
    """An environment variable of the function is missing or wrong."""


class ModelError(FaultError):
    """The model cannot be had, is not the one that was asked for, or does not describe itself."""


def quoted(value: object, limit: int = 80) -> str:
    """Return a caller's value as short, printable ASCII, fit for a message or a log line.

    Of a long number, a list or an object only the type: Python fails on writing out thousands of digits or brackets.
    """
    if isinstance(value, str):
        shown = ascii(value[:limit])
        return shown if len(shown) <= limit else shown[: limit - 3] + "..."
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 10**15):
        return str(value)
    return f"a value of type {type(value).__name__}"
