"""Keep layers and what is known of them in the user's cache folder, named by their content.

A file gets its name only when it is complete, so two runs can write at once and one can be killed. What is read is compared
with its hash, and removed if it differs.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ..errors import MissingError

_UNUSED_DAYS = 30
_ABANDONED_DAYS = 1  # a temporary file of a killed run


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Return the user's cache folder for mlinfer: https://specifications.freedesktop.org/basedir-spec/latest/."""
    if given := environment.get("XDG_CACHE_HOME"):
        return Path(given) / "mlinfer"
    if sys.platform == "win32":
        return Path(environment.get("LOCALAPPDATA") or Path.home()) / "mlinfer" / "Cache"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "mlinfer"


class Cache:
    """A folder of blobs, named by their digest, and records, named by the hash of their key. Raises MissingError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._verified: set[str] = set()

    def has_blob(self, digest: str) -> bool:
        """Tell whether a blob exists, without reading it."""
        return self._path("blobs", digest).is_file()

    def find_blob(self, digest: str) -> Path | None:
        """Return the file of a blob; None if it does not exist, or was damaged and is removed now."""
        path = self._path("blobs", digest)
        if digest not in self._verified:
            if not _has_digest(path, digest):
                path.unlink(missing_ok=True)
                return None
            self._verified.add(digest)
        with suppress(OSError):
            os.utime(path)
        return path

    @contextmanager
    def writing(self) -> Iterator[tuple[IO[bytes], Callable[[str], None]]]:
        """Yield a temporary file and a function that keeps it as the blob with a digest, which the caller has computed."""
        part = self._folder / f"{secrets.token_hex(8)}.part"
        try:
            with self._explained(), part.open("xb") as file:

                def keep(digest: str) -> None:
                    with self._explained():
                        file.close()
                        os.replace(part, self._path("blobs", digest))
                    self._verified.add(digest)

                yield file, keep
        finally:
            part.unlink(missing_ok=True)

    def read_record(self, kind: str, key: object) -> Any:
        """Return what is recorded for a key (a value for JSON), or None."""
        path = self._record(kind, key)
        try:
            digest, _, text = path.read_text().partition("\n")
            if hashlib.sha256(text.encode()).hexdigest() == digest:
                os.utime(path)
                return json.loads(text)
        except (OSError, ValueError):
            pass
        return None

    def write_record(self, kind: str, key: object, value: object) -> None:
        """Record a value (for JSON) for a key."""
        text = json.dumps(value)
        part = self._folder / f"{secrets.token_hex(8)}.part"
        try:
            with self._explained():
                part.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")
                os.replace(part, self._record(kind, key))
        finally:
            part.unlink(missing_ok=True)

    def prune(self) -> None:
        """Remove what was not used for a month, and what killed runs left."""
        now = time.time()
        with suppress(OSError):
            for path in [*self._folder.glob("*.part"), *self._folder.glob("*/*")]:
                days = _ABANDONED_DAYS if path.suffix == ".part" else _UNUSED_DAYS
                with suppress(OSError):  # another run removed it
                    if now - path.stat().st_mtime > days * 86_400:
                        path.unlink()

    def _record(self, kind: str, key: object) -> Path:
        name = hashlib.sha256(json.dumps([kind, key]).encode()).hexdigest()
        return self._path("records", name)

    def _path(self, kind: str, digest: str) -> Path:
        return self._folder / kind / digest.rpartition(":")[2]

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Create the folders, and explain why something cannot be written. Raises MissingError."""
        try:
            for kind in ("blobs", "records"):
                (self._folder / kind).mkdir(mode=0o700, parents=True, exist_ok=True)
            yield
        except OSError as error:
            message = f"cannot write to the cache {self._folder}"
            hint = "Set XDG_CACHE_HOME to a folder with more free space."
            raise MissingError("cannot_write", message, hint, reason=error.strerror or error) from error


def _has_digest(path: Path, digest: str) -> bool:
    try:
        with path.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == digest
    except OSError:
        return False
