"""Write files so that they are there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import MissingError


def write_whole(path: Path, content: bytes) -> None:
    """Write to a temporary name beside `path`, then rename. Raises MissingError when there is no room or no permission."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
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
