"""Open a session of onnxruntime, set up for a function that has a share of a CPU and starts often."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import cache
from pathlib import Path

import onnxruntime as ort

from ..errors import ModelError

ERROR_SEVERITY = 3
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
MAX_KEPT_BLOCK = 2**25  # bytes; the largest that glibc accepts
MAX_KEPT = 2**30


def open_session(path: Path, threads: int) -> ort.InferenceSession:
    """Open an ONNX file on the CPU. threads: of onnxruntime, inside one operator. Raises ModelError."""
    _keep_memory()
    ort.set_default_logger_severity(ERROR_SEVERITY)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads  # else onnxruntime pins threads to cores that Lambda does not give
    options.inter_op_num_threads = 1
    # Spinning for the next operator uses up the CPU share of a function, which then stands still for the rest of 100 ms.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = ERROR_SEVERITY
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise ModelError(f"onnxruntime {ort.__version__} cannot load the model: {error}") from error


@cache
def _keep_memory() -> None:
    """Let malloc keep what is freed for the next use: the kernel clears each page that it hands out, and that takes longer.

    https://man7.org/linux/man-pages/man3/mallopt.3.html. A sixth to a quarter of the time to load ResNet-18's 47 MB in
    float, of which there are several copies on the way; the peak of memory is 9 % higher. See benchmarks/NOTES.md.
    """
    with suppress(OSError, AttributeError):  # another C library than glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, MAX_KEPT_BLOCK)
        libc.mallopt(M_TRIM_THRESHOLD, MAX_KEPT)
