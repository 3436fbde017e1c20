"""Convert an image to the model's input tensor: decode, resize, crop, scale to 0..1 and normalize.

The result is bit-identical to `torchvision.transforms` on `PIL.Image.open(...).convert("RGB")`, which
`tests/lambda_src/images/test_tensor.py` checks. `decode` and `geometry` document the two exceptions.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from .decode import decode
from .geometry import resize_and_crop
from .preprocess import Preprocess

if TYPE_CHECKING:
    from numpy.typing import NDArray


def tensor(data: bytes, spec: Preprocess, max_pixels: int) -> NDArray[Any]:
    """Return one image as a batch of one, [1, C, H, W] or [1, H, W, C] in the model's dtype. Raises RequestError."""
    return to_array(resize_and_crop(decode(data, max_pixels, spec.resize), spec), spec)


def to_array(image: Image.Image, spec: Preprocess) -> NDArray[Any]:
    """Return the RGB image as [1, C, H, W] or [1, H, W, C] in the model's channel order and dtype."""
    pixels: NDArray[np.uint8] = np.asarray(image.convert("L") if spec.color == "L" else image)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if spec.color == "BGR":
        pixels = pixels[:, :, ::-1]
    if spec.dtype == "uint8":
        result: NDArray[Any] = pixels if spec.layout == "NHWC" else pixels.transpose(2, 0, 1)
    else:
        table = _normalisation(spec.mean, spec.std, spec.dtype)
        height, width, channels = pixels.shape
        result = np.empty((height, width, channels) if spec.layout == "NHWC" else (channels, height, width), spec.dtype)
        for c in range(channels):
            plane = result[:, :, c] if spec.layout == "NHWC" else result[c]
            np.take(
                table[c], pixels[:, :, c], out=plane, mode="clip"
            )  # mode="raise" would copy, and no byte is out of range
    return np.ascontiguousarray(result[None])


@lru_cache(maxsize=4)
def _normalisation(mean: tuple[float, ...], std: tuple[float, ...], dtype: str) -> NDArray[Any]:
    """Return [C, 256]: (value / 255 - mean) / std in float32 for each 8-bit value, as ToTensor and Normalize compute it."""
    values = np.arange(256, dtype=np.float32) / np.float32(255)
    columns = (np.asarray(v, np.float32)[:, None] for v in (mean, std))
    return ((values - next(columns)) / next(columns)).astype(dtype)
