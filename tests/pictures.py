"""Images for the tests: one colour or a gradient, in every format and mode that users send."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image


def encoded(image: Image.Image, codec: str, **options: Any) -> bytes:
    """Return an image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, codec, **options)
    return buffer.getvalue()


def plain(colour: tuple[int, int, int] = (255, 0, 0), size: tuple[int, int] = (20, 16)) -> Image.Image:
    """Return an image of one colour."""
    return Image.new("RGB", size, colour)


def gradient(width: int = 90, height: int = 60) -> Image.Image:
    """Return an image in which every pixel differs: red grows to the right, green downwards, blue in a fine pattern."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    channels = (255 * x / (width - 1), 255 * y / (height - 1), (37 * x + 91 * y) % 256)
    return Image.fromarray(np.stack(channels, axis=2).astype(np.uint8))


def waves(width: int, height: int, length: int) -> Image.Image:
    """Return diagonal waves with a period of `length` pixels: any shift changes every value."""
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray((127.5 + 127.5 * np.sin((x + y) * 2 * np.pi / length)).astype(np.uint8))
