"""Read text files in common encodings, and write files atomically.

`tempfile` and `secrets` import hashlib and random, 4 ms that most commands do not need.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import MissingError, UsageError


def read_text(path: Path, *, keep_ends: bool = False) -> str:
    """Read a text file or pipe of the user, with \\n at the end of each line. Raises MissingError, UsageError.

    keep_ends: keep the line endings of the file.
    The encoding is UTF-8, or UTF-16 with a byte order mark, as PowerShell writes it.
    """
    try:
        content = path.read_bytes()
        encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
        text = content.decode(encoding)
        return text if keep_ends else text.replace("\r\n", "\n").replace("\r", "\n")
    except FileNotFoundError as error:
        raise MissingError("file_not_found", f"file {path} does not exist") from error
    except OSError as error:
        raise UsageError("file_unreadable", f"cannot read {path}", reason=error.strerror) from error
    except UnicodeDecodeError as error:
        hint = "Save the file as UTF-8."
        raise UsageError("file_unreadable", f"{path} is not valid UTF-8 at byte {error.start}", hint) from error


def check_output(path: Path, inputs: Iterable[Path], *, is_ours: Callable[[Path], bool], force: bool) -> None:
    """Refuse to replace an input, a non-file, or (without `force`) a file of another program. Raises UsageError."""
    if not os.path.exists(path):  # noqa: PTH110 - no error for a name that is too long
        return
    if not path.is_file() or _is_standard_output(path):
        hint = f"Use a file in it, such as `{path / 'NAME'}`." if path.is_dir() else "Use the path of a regular file."
        raise UsageError("not_a_file", f"cannot replace {path}: it is not a regular file", hint)
    if any(other.exists() and path.samefile(other) for other in inputs):
        message = f"the output {path} would overwrite an input"
        raise UsageError("would_replace_source", message, "Choose another output file.")
    if not force and not is_ours(path):
        message = f"{path} exists and was not created by mlinfer"
        raise UsageError(
            "would_replace_file", message, "Choose another output file, or replace this one with `--force`."
        )


def _is_standard_output(path: Path) -> bool:
    """Tell whether stdout or stderr is redirected to that file, whose content would be lost."""
    for number in (1, 2):
        with suppress(OSError):  # the stream is closed
            if os.path.samestat(path.stat(), os.fstat(number)):
                return True
    return False


def write_whole(path: Path, content: bytes) -> None:
    """Write to a temporary file in the same directory, then rename it. A symbolic link stays a link to the new content.

    Raises MissingError if the disk is full, permission is denied, or `path` is a directory, a device or a pipe.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113 - no error for a name that is too long
        raise MissingError("cannot_write", f"cannot write {path}: it is not a regular file", "Use the path of a file.")
    target = path.resolve() if path.is_symlink() else path
    part = target.parent / f".{os.urandom(8).hex()}.part"
    try:
        with part.open("xb") as file:  # fails if the file exists
            file.write(content)
        os.replace(part, target)
    except OSError as error:
        raise MissingError("cannot_write", f"cannot write {path}", reason=error.strerror) from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def workspace(path: Path) -> Iterator[Path]:
    """Yield a temporary directory on the disk of `path`, and delete it at the end. Rename the files to keep.

    Creates the parent directory of `path`. Raises MissingError if the disk is full or permission is denied.
    """
    import tempfile

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            yield Path(folder)
    except OSError as error:
        raise MissingError("cannot_write", f"cannot write {path}", reason=error.strerror or error) from error


@contextmanager
def file_lock(name: str) -> Iterator[None]:
    """Hold a lock with that name among the processes of this machine. Windows has no such locks and does not wait.

    Raises MissingError if the lock file cannot be opened.
    """
    import tempfile

    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path = Path(tempfile.gettempdir()) / f"{name}.{os.getuid()}.lock"
    try:
        file = path.open("a")
    except OSError as error:
        raise MissingError("cannot_write", f"cannot open {path}", "Delete the file.", reason=error.strerror) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
