"""Bring the model file to a local path and prove that it is the one that was asked for.

Light on purpose: it runs in a thread while the heavy imports (numpy, onnxruntime, Pillow) go on, so that a cold start
waits for the slower of the two and not for their sum.
"""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import suppress
from pathlib import Path

from ..errors import ModelError
from ..settings import Settings
from .s3 import ObjectForbiddenError, ObjectNotFoundError, open_object

CHUNK_BYTES = 2**20


class Fetch:
    """A running fetch; `result` waits for it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._outcome: tuple[Path, str] | Exception | None = None
        self._thread = threading.Thread(target=self._run, name="model-fetch", daemon=True)
        self._thread.start()

    def result(self) -> tuple[Path, str]:
        """Return the local path and its SHA-256 in hex. Raises ModelError, or what the storage raised."""
        self._thread.join()
        if isinstance(self._outcome, tuple):
            return self._outcome
        raise self._outcome or ModelError("the fetch of the model ended without a result")

    def _run(self) -> None:
        try:
            self._outcome = fetch(self._settings)
        except Exception as error:  # raised again in the thread that asked, by result()
            self._outcome = error


def fetch(settings: Settings) -> tuple[Path, str]:
    """Return the model's local path and SHA-256 (hex), downloading it first if it is in S3. Raises ModelError."""
    uri, expected = settings.model_uri, settings.model_sha256
    path = settings.cache / f"{expected}.onnx" if uri.startswith("s3://") else Path(uri)
    try:
        actual = sha256_of(path)
    except FileNotFoundError as error:
        if not uri.startswith("s3://"):
            raise ModelError(f"there is no model at {uri}") from error
    except OSError as error:
        raise ModelError(f"the model at {path} cannot be read: {error.strerror}") from error
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
    """Download an S3 object to `path`: whole and with that SHA-256, or not at all. Raises ModelError."""
    try:
        size, chunks = open_object(uri)
    except ObjectNotFoundError as error:
        raise ModelError(f"there is no object {uri}: upload the model, or correct MLINFER_MODEL_URI") from error
    except ObjectForbiddenError as error:
        needed = "kms:Decrypt on the KMS key (kms_key)" if "kms:" in str(error) else "s3:GetObject on it"
        raise ModelError(f"S3 refused {uri} ({error}): the function's role needs {needed}") from error
    part = path.with_suffix(".part")
    digest = hashlib.sha256()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w+b") as file:  # buffered: an unbuffered write may take a part of what it is given
            for chunk in chunks:
                start = file.tell()
                file.write(chunk)
                file.flush()
                digest.update(os.pread(file.fileno(), len(chunk), start))  # what is in the file, not what was sent
            written = os.fstat(file.fileno()).st_size
        if written != size:
            raise ModelError(f"the model at {uri} has {size} bytes, but {path.parent} got {written}: it is not used")
        if digest.hexdigest() != expected:
            raise ModelError(_mismatch(uri, expected, digest.hexdigest()))
        os.replace(part, path)
    except OSError as error:
        raise ModelError(f"the model ({size} bytes) could not be written to {path.parent}: {error.strerror}") from error
    finally:
        with suppress(OSError):  # gone with the rename, or never made
            part.unlink()


def _mismatch(uri: str, expected: str, actual: str) -> str:
    return f"the model at {uri} has SHA-256 {actual}, not {expected}: it is not used"
