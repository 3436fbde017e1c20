"""Open an onnxruntime session with settings for a function that starts often and has part of a CPU."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import cache
from pathlib import Path

import onnxruntime as ort

from ..errors import ModelError

ERROR_SEVERITY = 3
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
MAX_KEPT_BLOCK = 2**25  # bytes, glibc's maximum
MAX_KEPT = 2**30


def open_session(path: Path, threads: int) -> ort.InferenceSession:
    """Open an ONNX file on the CPU. threads: onnxruntime's threads within one operator. Raises ModelError."""
    _keep_memory()
    ort.set_default_logger_severity(ERROR_SEVERITY)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads  # by default, onnxruntime pins threads to cores that Lambda does not provide
    options.inter_op_num_threads = 1
    # Spinning while waiting for the next operator uses up the function's CPU share, and Lambda then pauses the function.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = ERROR_SEVERITY
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise ModelError(f"onnxruntime {ort.__version__} cannot load the model: {error}") from error


@cache
def _keep_memory() -> None:
    """Let malloc keep freed memory for reuse, because the kernel clears each new page, which takes longer.

    https://man7.org/linux/man-pages/man3/mallopt.3.html. Loading ResNet-18 (47 MB, float) takes 17 to 25 % less time,
    and peak memory is 9 % higher. See benchmarks/NOTES.md.
    """
    with suppress(OSError, AttributeError):  # the C library is not glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, MAX_KEPT_BLOCK)
        libc.mallopt(M_TRIM_THRESHOLD, MAX_KEPT)
