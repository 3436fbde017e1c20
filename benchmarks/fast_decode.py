"""Measure the fast decode of large JPEGs: its time, and how often it changes the top-1 answer.

    python benchmarks/fast_decode.py ../shared/data/photos/*.JPEG

Each photograph is answered by the starter model twice, decoded whole and decoded reduced: as it is, and enlarged to 12
megapixels as a phone would send it. Times are medians of the pre-processing alone, one thread, taken in turns; for the
starter's input (32 pixels) and for ImageNet's (224 pixels, where only pictures of two megapixels and more are reduced).
"""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from lambda_src.images import decode, resize_and_crop, to_array
from lambda_src.metadata import Preprocess
from lambda_src.model import Classifier
from lambda_src.settings import MAX_PIXELS
from mlinfer.predict import STARTER

IMAGENET = Preprocess(256, (224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def enlarged(data: bytes, pixels: int = 12_000_000) -> bytes:
    """Return the photograph at 12 megapixels, JPEG of quality 90."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = (pixels / (image.width * image.height)) ** 0.5
    buffer = io.BytesIO()
    size = (round(image.width * scale), round(image.height * scale))
    image.resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def main() -> None:
    """Print a row for each set of photographs and each input size."""
    model = Classifier(STARTER, "", threads=1)
    originals = [Path(name).read_bytes() for name in sys.argv[1:]]
    print(
        f"{'photographs':<14}{'input':>6}{'whole ms':>10}{'reduced ms':>12}{'ratio':>7}{'top-1 changed':>15}{'mean |diff|':>13}"
    )
    for what, make in (("as they are", bytes), ("12 megapixels", enlarged)):
        for spec in (model.metadata.preprocess, IMAGENET):
            times: tuple[list[float], list[float]] = ([], [])
            changed, differences = 0, []
            for data in map(make, originals):
                tensors = []
                for seconds, target in zip(times, (0, spec.resize), strict=True):
                    started = time.perf_counter()
                    tensors.append(to_array(resize_and_crop(decode(data, MAX_PIXELS, target), spec), spec))
                    seconds.append(time.perf_counter() - started)
                differences.append(float(np.abs(tensors[0] - tensors[1]).mean()))
                if spec is not IMAGENET:
                    changed += int(model.run(tensors[0]).argmax() != model.run(tensors[1]).argmax())
            whole, reduced = (median(seconds) * 1e3 for seconds in times)
            answer = f"{changed} of {len(originals)}" if spec is not IMAGENET else "-"
            row = f"{what:<14}{spec.crop[0]:>6}{whole:>10.1f}{reduced:>12.1f}{whole / reduced:>7.1f}"
            print(f"{row}{answer:>15}{np.mean(differences):>13.4f}", flush=True)


if __name__ == "__main__":
    main()
