"""Pre-processing of both designs, {"path": ...} -> what the model reads, each timed in a separate process (see `stage.Process`).

They are separate processes because the handler package tells malloc to keep memory, which would help torchvision too.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

ANSWER: dict[str, Any] = {"body": {}}


def reference(event: dict[str, Any]) -> dict[str, Any]:
    """Create the tensor as the reference handler does."""
    from PIL import Image

    with Path(event["path"]).open("rb") as file:
        _transform()(Image.open(file).convert("RGB")).unsqueeze(0).numpy()
    return ANSWER


def ours(event: dict[str, Any]) -> dict[str, Any]:
    """Create the pixels as the handler package does."""
    from lambda_src.images.pixels import read_pixels
    from lambda_src.settings import MAX_PIXELS

    read_pixels(Path(event["path"]).read_bytes(), _model().metadata.preprocess, MAX_PIXELS)
    return ANSWER


@cache
def _transform() -> Any:
    import torch

    from devtools.reference import transform

    from .fast_decode import IMAGENET

    torch.set_num_threads(1)
    return transform(IMAGENET, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@cache
def _model() -> Any:
    from lambda_src.inference.classifier import Classifier

    return Classifier(Path(os.environ["MLINFER_MODEL_URI"]), "", 1)
