"""Estimate from a model file's size how much memory, /tmp and container image space a function needs.

Measured on 2026-11-26 with onnxruntime 1.32 in the container image, by lowering its memory limit until it failed: a
float32 model of 50 to 400 MB needs 34 MB plus 2.0 to 2.1 times its file size, because onnxruntime holds the file and the
weights at the same time. A float16 model needs 4.0 times its size. ResNet-18 (45 MB) needs 159 MB with its activations.
Here 1 MB is 2**20 bytes, as in Lambda.
"""

from __future__ import annotations

from ..errors import UsageError

MAX_IMAGE_BYTES = 10 * 2**30  # https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
MAX_MB = 10_240  # Lambda's limit for memory and for /tmp

_HANDLER_MB, _LOADED = 30, 2.0  # with less, the process is killed
_ROOMY_MB, _ROOMY = 80, 3.0  # with more, the activations fit too
_NEARLY_FULL = 0.95
_PICTURE_BYTES = 64 * 2**20  # a decoded photo of 12 megapixels, or the largest file and its request


def foresee(size: int, memory: int, tmp: int | None) -> str:
    """Return a note if a model file of `size` bytes barely fits into a function, otherwise "".

    memory, tmp: MB. tmp None: the file is in the container image. Raises UsageError if the function cannot run.
    """
    megabytes = size / 2**20
    least, roomy = _HANDLER_MB + _LOADED * megabytes, _ROOMY_MB + _ROOMY * megabytes
    if memory < least:
        message = f"the function has {memory:,} MB of memory, but a model file of {megabytes:,.0f} MB needs at least {least:,.0f} MB"
        raise UsageError("memory_too_small", message, _remedy("memory", roomy, least))
    if tmp is None:
        check_image(size)
    if tmp is not None and megabytes > tmp:
        message = f"the model file ({megabytes:,.0f} MB) does not fit into the function's /tmp ({tmp:,} MB)"
        hint = _remedy("tmp", megabytes / _NEARLY_FULL, megabytes)
        raise UsageError(
            "tmp_too_small", message, f"{hint} Or put the model into the container image with `--model-source image`."
        )
    notes = []
    if memory < roomy:
        notes.append(
            f"Memory may be too small: a model file of {megabytes:,.0f} MB needs {least:,.0f} to {roomy:,.0f} MB, "
            f"and the function has {memory:,} MB."
        )
    if tmp is not None and megabytes > _NEARLY_FULL * tmp:
        notes.append(f"The model file ({megabytes:,.0f} MB) almost fills the function's /tmp ({tmp:,} MB).")
    return "\n".join(notes)


def check_image(size: int) -> None:
    """Refuse a model file of `size` bytes that does not fit into a container image. Raises UsageError."""
    if size > MAX_IMAGE_BYTES:
        most = MAX_IMAGE_BYTES // 2**20
        message = (
            f"the model file has {size / 2**20:,.0f} MB, but a container image on Lambda can have at most {most:,} MB"
        )
        raise UsageError("image_too_large", message, _SMALLER)


def jobs_that_fit(jobs: int, size: int, available: int) -> int:
    """Return how many of the jobs fit into the available memory (bytes), at least one.

    size: of the model file, which all jobs share; memory holds it twice while it is loaded. 0 if no model is loaded.
    """
    return max(1, min(jobs, (available - 2 * size) // _PICTURE_BYTES))


_SMALLER = "Reduce the size of the model with `mlinfer export --quantize int8`."


def _remedy(key: str, wanted: float, least: float) -> str:
    """Return the hint to raise the value, or to reduce the model if Lambda's limit is too low."""
    if least > MAX_MB:
        return _SMALLER
    value = min(MAX_MB, -(-int(wanted + 1) // 64) * 64)
    return f"Set `{key} = {value}` in mlinfer.toml."
