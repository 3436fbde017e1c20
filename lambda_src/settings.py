"""The function's configuration, read from environment variables only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from .errors import SettingsError
from .records import Record

# https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html: "At 1,769 MB, a function has the equivalent of
# one vCPU". 10,240 MB give six.
MB_PER_VCPU = 1769
MAX_PIXELS = 50_000_000
MAX_THREADS = 1024  # onnxruntime starts all threads first: 100,000 take minutes, more run out of memory
# One encoded image. Lambda limits a direct invocation to 6 MB; this limits the memory for an S3 object.
MAX_IMAGE_BYTES = 32 * 2**20


class Settings(Record):
    """The settings of a `Service`.

    model_uri: `s3://bucket/key` or a path. model_sha256: lower-case hex, "" = not checked (paths only).
    input_prefixes: S3 prefixes that `{"s3": ...}` may read. max_pixels: largest width x height that is decoded.
    threads: onnxruntime's threads. cache: folder of downloaded models.
    """

    model_uri: str
    model_sha256: str = ""
    input_prefixes: tuple[str, ...] = ()
    max_pixels: int = MAX_PIXELS
    threads: int = 1
    cache: Path = Path("/tmp/mlinfer")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read the `MLINFER_*` variables. Raises SettingsError."""
        uri = environment.get("MLINFER_MODEL_URI", "")
        if not uri:
            raise SettingsError("MLINFER_MODEL_URI is not set: set it to s3://bucket/key or the path of the model")
        sha256 = environment.get("MLINFER_MODEL_SHA256", "").strip().lower()
        if sha256 and (len(sha256) != 64 or set(sha256) - set("0123456789abcdef")):
            raise SettingsError("MLINFER_MODEL_SHA256 must be a SHA-256 of 64 hexadecimal digits")
        if uri.startswith("s3://") and not sha256:
            raise SettingsError("MLINFER_MODEL_SHA256 is not set: a model in S3 requires it")
        prefixes = environment.get("MLINFER_INPUT_PREFIXES", "").replace(",", " ").split()
        for prefix in prefixes:
            if not prefix.startswith("s3://") or len(prefix) == len("s3://"):
                raise SettingsError(
                    f"MLINFER_INPUT_PREFIXES must list s3://bucket or s3://bucket/prefix, got {prefix!r}"
                )
        return cls(
            model_uri=uri,
            model_sha256=sha256,
            input_prefixes=tuple(prefixes),
            max_pixels=_positive(environment, "MLINFER_MAX_PIXELS", MAX_PIXELS),
            threads=_threads(environment),
        )


def default_threads(environment: Mapping[str, str]) -> int:
    """Return the function's number of vCPUs. Outside Lambda, return the number of cores that this process may use."""
    memory_mb = environment.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "")
    if memory_mb.isdecimal():
        return max(1, round(int(memory_mb) / MB_PER_VCPU))
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _threads(environment: Mapping[str, str]) -> int:
    threads = _positive(environment, "MLINFER_THREADS", default_threads(environment))
    if threads > MAX_THREADS:
        raise SettingsError(f"MLINFER_THREADS must be at most {MAX_THREADS}, got {threads}")
    return threads


def _positive(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, "").strip()
    if not text:
        return default
    if not (text.isdecimal() and text.isascii() and int(text[:19]) > 0):
        raise SettingsError(f"{name} must be a whole number above 0, got {text[:40]!r}")
    return int(text[:19])
