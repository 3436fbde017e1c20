"""The errors that a user can see, each with its exit code.

    MlinferError          has a message, a stable code for programs, a reason if known, and a hint
    |-- UsageError        2   wrong usage or configuration
    |-- MissingError      3   something is missing on this machine: the model file, disk space, AWS credentials
    |-- RemoteError       4   a remote service refused or failed: AWS, Docker
    |   `-- InvocationError   one invocation failed, the next can succeed
    |-- ImageError        5   an image is missing, unreadable or invalid
    `-- VerificationError 5   the model is not a classifier, its predictions differ, or Lambda rejects the container image

Any other exception that reaches `cli.main` is a bug: exit code 1. `status --exit-code` exits with 6 if the deployed and
the local project differ. An interrupted command exits with 130.
"""

from __future__ import annotations


class MlinferError(Exception):
    """An error with a message for the user. `exit_code` is the exit code of the process."""

    exit_code = 1

    def __init__(self, code: str, what: str, hint: str = "", *, reason: object = "") -> None:
        """what: what happened. reason: why, in the words of a library, a service or the system; None if unknown."""
        self.what = what
        self.reason = str(reason or "").strip()
        super().__init__(f"{what}: {self.reason}" if self.reason else what)
        self.code = code
        self.hint = hint

    def as_json(self) -> dict[str, str]:
        """Return the error as `--json` prints it."""
        return {"code": self.code, "message": str(self), "hint": self.hint}


class UsageError(MlinferError):
    """Wrong usage or configuration."""

    exit_code = 2


class MissingError(MlinferError):
    """Something required is missing on this machine."""

    exit_code = 3


class RemoteError(MlinferError):
    """A remote service refused or failed."""

    exit_code = 4


class InvocationError(RemoteError):
    """One invocation failed: the function or Lambda failed, or the answer was lost."""


class ImageError(MlinferError):
    """The image is missing, unreadable or invalid."""

    exit_code = 5


class VerificationError(MlinferError):
    """The model is not an image classifier, its predictions differ from the source, or Lambda cannot run it."""

    exit_code = 5


class ReaderGoneError(Exception):
    """The reader of our output has closed the pipe, as `head` does. This is not an error, but the command stops."""
