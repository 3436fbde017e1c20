"""Sample images: from a directory of the user, or generated."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lambda_src.errors import RequestError
from lambda_src.images.pixels import read_pixels
from lambda_src.images.preprocess import Preprocess
from lambda_src.settings import MAX_PIXELS

from ..errors import ImageError, UsageError

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"))
SEED = 20261122


@dataclass(frozen=True)
class SamplePicture:
    """A sample image. label: the class from the name of its directory, or "". `read` returns its bytes."""

    name: str
    label: str
    read: Callable[[], bytes]

    def pixels(self, spec: Preprocess) -> NDArray[np.uint8]:
        """Return the pixels of this image as the handler makes them, a batch of one. Raises ImageError."""
        try:
            pixels = read_pixels(self.read(), spec, MAX_PIXELS)
        except RequestError as error:
            raise ImageError(
                error.code, f"cannot use {self.name}", "Remove the file from the directory.", reason=error
            ) from error
        except OSError as error:
            raise UsageError("file_unreadable", f"cannot read {self.name}", reason=error.strerror) from error
        return np.frombuffer(pixels, np.uint8).reshape(1, *spec.size, spec.channels)


def find(folder: Path, labels: Sequence[str]) -> list[SamplePicture]:
    """Return the images in a directory and its subdirectories, sorted by path. A subdirectory can name the label.

    Raises UsageError.
    """
    if not folder.is_dir():
        raise UsageError("no_such_folder", f"directory {folder} does not exist", "Use a directory of images.")
    known = set(labels)
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise UsageError(
            "no_pictures",
            f"directory {folder} has no images",
            f"Use a directory with {', '.join(sorted(SUFFIXES))} files.",
        )
    parts = [path.relative_to(folder).parts for path in paths]
    return [
        SamplePicture(str(path), part[0] if len(part) > 1 and part[0] in known else "", path.read_bytes)
        for path, part in zip(paths, parts, strict=True)
    ]


def draw(count: int = 8) -> list[SamplePicture]:
    """Generate images with smooth shapes and fine grain, the same every time."""
    return list(_drawn(count))


@cache
def _drawn(count: int) -> tuple[SamplePicture, ...]:
    random = np.random.default_rng(SEED)
    samples = []
    for i in range(count):
        coarse = random.integers(0, 256, (4 + i, 5 + i, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((320 + 40 * i, 400 - 20 * i), Image.Resampling.BICUBIC)
        grain = random.normal(0, 4 * i, (image.height, image.width, 3))
        file = io.BytesIO()
        Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)).save(file, "PNG")
        samples.append(SamplePicture(f"generated image {i}", "", partial(bytes, file.getvalue())))
    return tuple(samples)


def draw_jpeg() -> bytes:
    """Generate a JPEG of 500 x 375 pixels with the file size of a typical photo, the same every time."""
    sample = draw(5)[-1]
    image = Image.open(io.BytesIO(sample.read())).convert("RGB").resize((500, 375), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def spread(samples: Sequence[SamplePicture], count: int) -> list[SamplePicture]:
    """Return at most `count` of the samples, evenly spread over the list."""
    step = max(1.0, len(samples) / count)
    return [samples[int(i * step)] for i in range(min(count, len(samples)))]
