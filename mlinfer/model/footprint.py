"""What a model file needs of a Lambda function: memory, /tmp and room in the image, foreseen from its size.

Measured on 2026-11-26 with onnxruntime 1.32 in the Lambda image, whose memory limit was lowered until it failed: a float32
model of 50 to 400 MB needs 34 MB and 2.0 to 2.1 times the size of its file, because onnxruntime holds the file and the
weights that it makes from it at the same time. A float16 model needs 4.0 times its size. ResNet-18 (45 MB) with its
activations needs 159 MB. Sizes here are in MB of 2**20 bytes, as Lambda counts them.
"""

from __future__ import annotations

from ..errors import UsageError

MAX_IMAGE_BYTES = 10 * 2**30  # https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
MAX_MB = 10_240  # of memory, and of /tmp

_HANDLER_MB, _LOADED = 30, 2.0  # below this it was killed
_ROOMY_MB, _ROOMY = 80, 3.0  # above this it has room for what a network keeps between its layers
_NEARLY_FULL = 0.95
_PICTURE_BYTES = 64 * 2**20  # a photograph of 12 megapixels as it is decoded, or the largest file and its request


def foresee(size: int, memory: int, tmp: int | None) -> str:
    """Return a note when a function has barely room for a model file of `size` bytes, or "".

    memory, tmp: MB; tmp None: the file is in the image. Raises UsageError when the function cannot work.
    """
    megabytes = size / 2**20
    least, roomy = _HANDLER_MB + _LOADED * megabytes, _ROOMY_MB + _ROOMY * megabytes
    if memory < least:
        message = (
            f"the model file has {megabytes:,.0f} MB, and onnxruntime needs at least {least:,.0f} MB to open it: more than "
            f"the function's memory of {memory:,} MB"
        )
        raise UsageError("memory_too_small", message, _remedy("memory", roomy, least))
    if tmp is None:
        check_image(size)
    if tmp is not None and megabytes > tmp:
        message = (
            f"the model file has {megabytes:,.0f} MB, and the function fetches it from S3 to its /tmp of {tmp:,} MB"
        )
        hint = _remedy("tmp", megabytes / _NEARLY_FULL, megabytes)
        raise UsageError("tmp_too_small", message, f"{hint} Or put it into the image: --model-source image")
    notes = []
    if memory < roomy:
        notes.append(
            f"Memory may be too small: with a model file of {megabytes:,.0f} MB the function needs at least {least:,.0f} MB, "
            f"and usually up to {roomy:,.0f}; it has {memory:,}."
        )
    if tmp is not None and megabytes > _NEARLY_FULL * tmp:
        notes.append(f"The function's /tmp of {tmp:,} MB is nearly full with the model file's {megabytes:,.0f} MB.")
    return "\n".join(notes)


def check_image(size: int) -> None:
    """Refuse a model file of `size` bytes that no Lambda image can hold. Raises UsageError."""
    if size > MAX_IMAGE_BYTES:
        most = MAX_IMAGE_BYTES // 2**20
        message = f"the model file has {size / 2**20:,.0f} MB, and a Lambda image has at most {most:,} MB"
        raise UsageError("image_too_large", message, _SMALLER)


def jobs_that_fit(jobs: int, size: int, available: int) -> int:
    """Return how many of the jobs fit into the available memory, in bytes; at least one.

    size: of the model file, which each job holds once, and the one that is loading twice; 0 where the jobs hold none.
    """
    return max(1, min(jobs, (available - size) // (size + _PICTURE_BYTES)))


_SMALLER = "No Lambda function can hold it. Make the model smaller: mlinfer export --quantize int8"


def _remedy(key: str, wanted: float, least: float) -> str:
    """Return which value to set, or that Lambda has none that is large enough."""
    if least > MAX_MB:
        return _SMALLER
    value = min(MAX_MB, -(-int(wanted + 1) // 64) * 64)
    return f"Set {key} = {value} in mlinfer.toml."
