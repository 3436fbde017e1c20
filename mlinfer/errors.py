"""Failures that a user can cause, each with its exit code.

    MlinferError          carries what went wrong (message), a stable code for programs, and what to do next (hint)
    |-- UsageError        2   wrong usage or configuration
    |-- MissingError      3   something needed is missing here: the model file, disk space, AWS credentials
    |-- RemoteError       4   a remote service refused or failed: AWS, the Docker Engine
    |   `-- InvocationError   one event got no answer; the next one may get one
    |-- ImageError        5   an image is missing, cannot be read, or is wrong
    `-- VerificationError 5   the model is no classifier, or does not answer as its source does; Lambda takes no such image

Anything else that reaches `cli.main` is a defect: exit code 1. `status --exit-code` ends with 6 when deployed and
local differ. Interrupted is 130.
"""

from __future__ import annotations


class MlinferError(Exception):
    """A failure with a sentence for the user; `exit_code` is the process's."""

    exit_code = 1

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint

    def as_json(self) -> dict[str, str]:
        """Return the error as it stands under `--json`."""
        return {"code": self.code, "message": str(self), "hint": self.hint}


class UsageError(MlinferError):
    """Wrong usage or configuration."""

    exit_code = 2


class MissingError(MlinferError):
    """Something needed is missing on this machine."""

    exit_code = 3


class RemoteError(MlinferError):
    """A remote service refused or failed."""

    exit_code = 4


class InvocationError(RemoteError):
    """One event got no answer: the function failed at it, or Lambda did, or the answer was lost."""


class ImageError(MlinferError):
    """The image cannot be read or is not accepted."""

    exit_code = 5


class VerificationError(MlinferError):
    """The model is no image classifier, what was made of it does not answer as it does, or Lambda could not run it."""

    exit_code = 5


class ReaderGoneError(Exception):
    """Whoever read our output has closed it, as `head` does: no failure, but no reason to go on."""
