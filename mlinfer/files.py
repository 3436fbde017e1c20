"""Read text as people save it, and write files so that they are there whole or not at all."""

from __future__ import annotations

import codecs
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import MissingError, UsageError


def read_text(path: Path, *, keep_ends: bool = False) -> str:
    """Read a text file or pipe that the user named, with \\n at the end of each line. Raises MissingError, UsageError.

    keep_ends: leave the ends of the lines as they are.
    It is UTF-8, or UTF-16 with a byte order mark, which is what PowerShell writes.
    """
    try:
        content = path.read_bytes()
        encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
        text = content.decode(encoding)
        return text if keep_ends else text.replace("\r\n", "\n").replace("\r", "\n")
    except FileNotFoundError as error:
        raise MissingError("file_not_found", f"there is no file {path}") from error
    except OSError as error:
        raise UsageError("file_unreadable", f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        hint = "Save it as UTF-8."
        raise UsageError("file_unreadable", f"{path} is not UTF-8 text: byte {error.start} is not", hint) from error


def check_output(path: Path, inputs: Iterable[Path], *, is_ours: Callable[[Path], bool], force: bool) -> None:
    """Refuse to replace an input, what is not a file, and without `force` a file that is not ours. Raises UsageError."""
    if not os.path.exists(path):  # noqa: PTH110 - of a name that is too long, too
        return
    if not path.is_file() or _is_standard_output(path):
        hint = f"Name a file in it: {path / 'NAME'}" if path.is_dir() else "Name a file."
        raise UsageError("not_a_file", f"{path} is not a file that can be replaced", hint)
    if any(other.exists() and path.samefile(other) for other in inputs):
        message = f"{path} is an input of this command, and its result would replace it"
        raise UsageError("would_replace_source", message, "Name another file for the result.")
    if not force and not is_ours(path):
        message = f"{path} exists, and mlinfer did not write it"
        raise UsageError("would_replace_file", message, "Name another file, or replace this one with --force.")


def _is_standard_output(path: Path) -> bool:
    """Tell whether stdout or stderr goes to that file: what they hold would be lost with it."""
    for number in (1, 2):
        with suppress(OSError):  # a closed one
            if os.path.samestat(path.stat(), os.fstat(number)):
                return True
    return False


def write_whole(path: Path, content: bytes) -> None:
    """Write to a temporary name in the same folder, then rename; a link stays a link to the new content.

    Raises MissingError when there is no room or no permission, or when `path` is a folder, a device or a pipe.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113 - of a name that is too long, too
        raise MissingError("cannot_write", f"{path} cannot be written: it is not a file", "Name a file.")
    target = path.resolve() if path.is_symlink() else path
    part = target.parent / f".{secrets.token_hex(8)}.part"
    try:
        with part.open("xb") as file:  # of a name that nobody has
            file.write(content)
        os.replace(part, target)
    except OSError as error:
        raise MissingError("cannot_write", f"{path} cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def workspace(path: Path) -> Iterator[Path]:
    """Give a temporary folder on the disk of `path`, gone at the end: rename out of it what is to stay.

    Makes the folder of `path`. Raises MissingError when there is no room or no permission.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            yield Path(folder)
    except OSError as error:
        raise MissingError("cannot_write", f"{path} cannot be written: {error.strerror or error}") from error


@contextmanager
def file_lock(name: str) -> Iterator[None]:
    """Wait until no other process of this machine is inside for that name; where there are no such locks, do not wait.

    Raises MissingError when the lock cannot be opened.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path = Path(tempfile.gettempdir()) / f"{name}.{os.getuid()}.lock"
    try:
        file = path.open("a")
    except OSError as error:
        raise MissingError("cannot_write", f"{path} cannot be opened: {error.strerror}", "Remove it.") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
