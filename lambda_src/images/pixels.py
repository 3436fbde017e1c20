"""Convert an encoded image to the pixels that the model reads: decode, crop and resize. The model does the arithmetic."""

from __future__ import annotations

from .decode import decode
from .geometry import resize_and_crop
from .preprocess import Preprocess


def read_pixels(data: bytes, spec: Preprocess, max_pixels: int) -> bytes:
    """Return the pixels of one image, uint8 [H, W, C] row by row. Raises RequestError."""
    image = resize_and_crop(decode(data, max_pixels, spec.target), spec)
    return (image.convert("L") if spec.color == "L" else image).tobytes()
