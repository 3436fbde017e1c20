"""Pictures to try a model on: a folder of the user's, or a few that are drawn here."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lambda_src.errors import RequestError
from lambda_src.images.preprocess import Preprocess
from lambda_src.images.tensor import tensor
from lambda_src.settings import MAX_PIXELS

from ..errors import ImageError, UsageError

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"))
SEED = 20261122


@dataclass(frozen=True)
class SamplePicture:
    """One picture. label: the class that its folder names, "" if it names none. `read` returns its bytes."""

    name: str
    label: str
    read: Callable[[], bytes]

    def tensor(self, spec: Preprocess) -> NDArray[Any]:
        """Return the picture as the handler would give it to the model, a batch of one. Raises ImageError."""
        try:
            return tensor(self.read(), spec, MAX_PIXELS)
        except RequestError as error:
            raise ImageError(error.code, f"{self.name}: {error}", "Take it out of the folder.") from error
        except OSError as error:
            raise UsageError("file_unreadable", f"{self.name} cannot be read: {error.strerror}") from error


def find(folder: Path, labels: Sequence[str]) -> list[SamplePicture]:
    """Return the pictures in a folder and below it, by name; a subfolder that has a label's name gives that label.

    Raises UsageError.
    """
    if not folder.is_dir():
        raise UsageError("no_such_folder", f"there is no folder {folder}", "Give a folder of pictures.")
    known = set(labels)
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise UsageError("no_pictures", f"{folder} holds no pictures", f"It needs: {', '.join(sorted(SUFFIXES))}")
    parts = [path.relative_to(folder).parts for path in paths]
    return [
        SamplePicture(str(path), part[0] if len(part) > 1 and part[0] in known else "", path.read_bytes)
        for path, part in zip(paths, parts, strict=True)
    ]


def draw(count: int = 8) -> list[SamplePicture]:
    """Draw pictures with smooth shapes and fine grain, the same ones every time."""
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
        samples.append(SamplePicture(f"drawn picture {i}", "", partial(bytes, file.getvalue())))
    return tuple(samples)


def draw_jpeg() -> bytes:
    """Draw one picture of 500 x 375 pixels as a JPEG of about the size of a photograph, the same one every time."""
    sample = draw(5)[-1]
    image = Image.open(io.BytesIO(sample.read())).convert("RGB").resize((500, 375), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def spread(samples: Sequence[SamplePicture], count: int) -> list[SamplePicture]:
    """Return at most `count` of the samples, evenly from the whole list."""
    step = max(1.0, len(samples) / count)
    return [samples[int(i * step)] for i in range(min(count, len(samples)))]
