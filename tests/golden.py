"""Small frozen arrays of torchvision's pre-processing, for machines without torch and the photographs.

    python -m tests.golden        # writes tests/data/golden/ again, with torchvision; review the difference

The small pre-processing is stored as float32 arrays [3, 32, 32]; of ImageNet's, [3, 224, 224], only the SHA-256 is stored.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lambda_src.images.preprocess import Preprocess

from .pictures import encoded, gradient

FOLDER = Path(__file__).parent / "data" / "golden"
HASHES = FOLDER / "sha256.json"
CAT = Path(__file__).parents[1] / "examples" / "cat.jpg"

SPECS = {"small": Preprocess(36, (32, 32)), "imagenet": Preprocess(256, (224, 224))}
NUMBERS = {  # mean and standard deviation
    "small": ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
PICTURES: dict[str, Callable[[], bytes]] = {
    "cat": CAT.read_bytes,
    "wide": lambda: encoded(gradient(211, 67), "PNG"),
    "tall": lambda: encoded(gradient(45, 300), "PNG"),
    "tiny": lambda: encoded(gradient(7, 5), "PNG"),
}


def variant(spec: Preprocess, **changes: Any) -> Preprocess:
    """Return the same pre-processing with some values changed."""
    return dataclasses.replace(spec, **changes)


def matches(picture: str, spec: str, actual: NDArray[Any]) -> bool:
    """Tell whether a tensor [3, H, W] equals the frozen one, bit for bit."""
    if spec == "small":
        return np.array_equal(np.load(FOLDER / f"{picture}.npy"), actual)
    frozen: dict[str, str] = json.loads(HASHES.read_text())
    return frozen[picture] == _sha256(actual)


def _sha256(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array, "<f4").tobytes()).hexdigest()


def _freeze() -> None:
    from devtools.reference import transform

    small, imagenet = (transform(spec, *NUMBERS[name]) for name, spec in SPECS.items())
    hashes = {}
    for name, picture in PICTURES.items():
        image = Image.open(io.BytesIO(picture())).convert("RGB")
        np.save(FOLDER / f"{name}.npy", small(image).numpy())
        hashes[name] = _sha256(imagenet(image).numpy())
    HASHES.write_text(json.dumps(hashes, indent=2) + "\n")


if __name__ == "__main__":
    _freeze()
