"""Fetch the model file to a local path and verify its SHA-256.

This module imports little: it runs in a thread while numpy, onnxruntime and Pillow are imported, so that a cold start
waits only for the slower of the two.
"""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import suppress
from pathlib import Path

from ..errors import ModelError
from ..s3.objects import ObjectForbiddenError, ObjectNotFoundError, StoredObject, open_object
from ..settings import Settings

CHUNK_BYTES = 2**20


class Fetch:
    """A fetch in a thread. `result` waits for it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._outcome: tuple[Path, str] | Exception | None = None
        self._thread = threading.Thread(target=self._run, name="model-fetch", daemon=True)
        self._thread.start()

    def result(self) -> tuple[Path, str]:
        """Return the local path and the SHA-256 in hex. Raises ModelError or StorageError."""
        self._thread.join()
        if isinstance(self._outcome, tuple):
            return self._outcome
        raise self._outcome or ModelError("fetching the model returned no result")

    def _run(self) -> None:
        try:
            self._outcome = fetch(self._settings)
        except Exception as error:  # result() raises it in the calling thread
            self._outcome = error


def fetch(settings: Settings) -> tuple[Path, str]:
    """Return the model's local path and SHA-256 in hex. Download the model if it is in S3. Raises ModelError."""
    uri, expected = settings.model_uri, settings.model_sha256
    path = settings.cache / f"{expected}.onnx" if uri.startswith("s3://") else Path(uri)
    try:
        actual = sha256_of(path)
    except FileNotFoundError as error:
        if not uri.startswith("s3://"):
            raise ModelError(f"model file {uri} does not exist") from error
    except OSError as error:
        raise ModelError(f"cannot read model file {path}: {error.strerror}") from error
    else:
        if actual == expected or not expected:
            return path, actual
        if not uri.startswith("s3://"):
            raise ModelError(_mismatch(uri, expected, actual))
    download(uri, path, expected)
    return path, expected


def sha256_of(path: Path) -> str:
    """Return the file's SHA-256 in hex, read in chunks. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def download(uri: str, path: Path, expected: str) -> None:
    """Download an S3 object to `path`. Keep it only if it is complete and has that SHA-256. Raises ModelError."""
    try:
        with open_object(uri) as stored:
            _save(uri, stored, path, expected)
    except ObjectNotFoundError as error:
        raise ModelError(f"object {uri} does not exist: upload the model or correct MLINFER_MODEL_URI") from error
    except ObjectForbiddenError as error:
        needed = "kms:Decrypt on the KMS key (kms_key)" if "kms:" in str(error) else "s3:GetObject on the object"
        raise ModelError(f"S3 denied access to {uri} ({error}): the function's role needs {needed}") from error


def _save(uri: str, stored: StoredObject, path: Path, expected: str) -> None:
    part = path.with_suffix(".part")
    digest = hashlib.sha256()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w+b") as file:  # buffered: an unbuffered write can write only part of a chunk
            for chunk in stored:
                start = file.tell()
                file.write(chunk)
                file.flush()
                digest.update(os.pread(file.fileno(), len(chunk), start))  # hashes what the file contains
            written = os.fstat(file.fileno()).st_size
        if written != stored.size:
            raise ModelError(f"the download of {uri} to {path.parent} is incomplete: {written} of {stored.size} bytes")
        if digest.hexdigest() != expected:
            raise ModelError(_mismatch(uri, expected, digest.hexdigest()))
        os.replace(part, path)
    except OSError as error:
        raise ModelError(f"cannot write the model ({stored.size} bytes) to {path.parent}: {error.strerror}") from error
    finally:
        with suppress(OSError):  # renamed or never created
            part.unlink()


def _mismatch(uri: str, expected: str, actual: str) -> str:
    return f"the model at {uri} has SHA-256 {actual}, expected {expected}"
