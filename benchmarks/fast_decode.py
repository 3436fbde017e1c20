"""Measure the fast decode of large JPEGs: its time, and how often it changes the top-1 answer.

    python benchmarks/fast_decode.py ../shared/data/photos/*.JPEG

The starter model classifies each photograph twice, decoded whole and decoded reduced: at its own size, and enlarged to 12
megapixels as a phone would send it. The highest score of a changed top-1 class is in brackets. Times are medians of the
pre-processing only, on one thread, in turns, for the starter's input (32 pixels) and ImageNet's (224 pixels, where only
images of two megapixels and more are reduced). The last three columns are the difference of the inputs in steps of 255:
the mean of all photographs, the highest mean of a photograph, and the largest difference of one value.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lambda_src.images.decode import decode
from lambda_src.images.geometry import resize_and_crop
from lambda_src.images.preprocess import Preprocess
from lambda_src.inference.classifier import Classifier, softmax
from lambda_src.settings import MAX_PIXELS
from mlinfer.model.path import STARTER

IMAGENET = Preprocess(256, (224, 224))


def enlarged(data: bytes, pixels: int = 12_000_000) -> bytes:
    """Return the photograph at 12 megapixels, JPEG of quality 90."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = (pixels / (image.width * image.height)) ** 0.5
    buffer = io.BytesIO()
    size = (round(image.width * scale), round(image.height * scale))
    image.resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@dataclass(frozen=True)
class Prepared:
    """The pixels of one image that the model reads, [H, W, 3], and the milliseconds it took to make them."""

    pixels: NDArray[np.uint8]
    ms: float


def prepare(data: bytes, spec: Preprocess, target: int) -> Prepared:
    """Prepare an image; a target allows the reduced decode."""
    started = time.perf_counter()
    image = resize_and_crop(decode(data, MAX_PIXELS, target), spec)
    return Prepared(np.asarray(image), (time.perf_counter() - started) * 1e3)


def row(what: str, pictures: Iterable[bytes], spec: Preprocess, model: Classifier | None) -> str:
    """Measure one set of images; without a model for this input, the answers are not compared."""
    times, means, largest, changed = [], [], [], []
    for data in pictures:
        whole, reduced = (prepare(data, spec, target) for target in (0, spec.target))
        times.append((whole.ms, reduced.ms))
        difference = np.abs(whole.pixels.astype(np.int16) - reduced.pixels)
        means.append(difference.mean())
        largest.append(difference.max())
        scores = [softmax(model.run(one.pixels.tobytes())[0]) for one in (whole, reduced)] if model else []
        if model and scores[0].argmax() != scores[1].argmax():
            changed.append(float(scores[0].max()))
    whole_ms, reduced_ms = (median(ms) for ms in zip(*times, strict=True))
    answer = f"{len(changed)} of {len(times)}" + (f" (<= {max(changed):.2f})" if changed else "") if model else "-"
    figures = f"{whole_ms:>10.1f}{reduced_ms:>12.1f}{whole_ms / reduced_ms:>7.1f}"
    return f"{what:<14}{spec.size[0]:>6}{figures}{answer:>19}{np.mean(means):>8.2f}{max(means):>9.2f}{max(largest):>9d}"


def main() -> None:
    """Print a row for each set of photographs and each input size."""
    model = Classifier(STARTER, "", threads=1)
    originals = [Path(name).read_bytes() for name in sys.argv[1:]]
    figures = f"{'whole ms':>10}{'reduced ms':>12}{'ratio':>7}"
    print(f"{'photographs':<14}{'input':>6}{figures}{'top-1 changed':>19}{'mean':>8}{'highest':>9}{'largest':>9}")
    for what, make in (("as they are", bytes), ("12 megapixels", enlarged)):
        print(row(what, map(make, originals), model.metadata.preprocess, model), flush=True)
        print(row(what, map(make, originals), IMAGENET, None), flush=True)


if __name__ == "__main__":
    main()
