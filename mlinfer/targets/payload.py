"""Fit a picture into a request that Lambda takes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from lambda_src.errors import RequestError
from lambda_src.images.decode import decode
from lambda_src.images.geometry import geometry

from ..errors import ImageError
from .answers import MAX_REQUEST_BYTES
from .embedded import event

REDUCED_SIDE = 1024  # of a reduced picture's shorter side, px: four times what ResNet-18 resizes it to

_JPEG_QUALITY = 95

# Takes a picture's name and bytes and top_k; yields a request that Lambda takes, and takes back what that needed.
Fit = Callable[[str, bytes, int], AbstractContextManager[bytes]]


def reducing(tell: Callable[[str], None], max_pixels: int) -> Fit:
    """Return what makes a picture over Lambda's 6 MB smaller; `tell` hears of it."""

    @contextmanager
    def fit(name: str, data: bytes, top_k: int) -> Iterator[bytes]:
        body = request(data, top_k)
        if body is None:
            data, (width, height) = reduce(data, max_pixels, MAX_REQUEST_BYTES // 4 * 3 - 1024)
            tell(f"{name} is over Lambda's 6 MB for a request: sent reduced to {width} x {height} pixels.")
            body = json.dumps(event(data, top_k)).encode()
        yield body

    return fit


def request(data: bytes, top_k: int) -> bytes | None:
    """Return the JSON of the event; None if it is over Lambda's 6 MB, which a large picture shows without being encoded."""
    if len(data) // 3 * 4 > MAX_REQUEST_BYTES:
        return None
    body = json.dumps(event(data, top_k)).encode()
    return body if len(body) <= MAX_REQUEST_BYTES else None


def reduce(data: bytes, max_pixels: int, limit: int) -> tuple[bytes, tuple[int, int]]:
    """Return a smaller file of the picture and its width and height: at most `limit` bytes, losslessly coded if it fits.

    Raises ImageError if it is none, or cannot be made small enough.
    """
    try:
        image = decode(data, max_pixels, REDUCED_SIDE)
    except RequestError as error:
        raise ImageError(error.code, str(error)) from error
    size, box = geometry(image)
    scale = min(1.0, REDUCED_SIDE / min(size))
    width, height = (max(1, round(side * scale)) for side in size)
    image = image.resize((width, height), box=box, reducing_gap=3.0)
    for kind, options in (("PNG", {}), ("JPEG", {"quality": _JPEG_QUALITY, "subsampling": 0})):
        file = io.BytesIO()
        image.save(file, kind, **options)
        if file.tell() <= limit:
            return file.getvalue(), image.size
    raise ImageError("image_too_large", "the picture is too long to be reduced to Lambda's 6 MB", "Send a part of it.")
