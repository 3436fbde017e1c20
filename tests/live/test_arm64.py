"""The container image for arm64 gives the answers of x86_64. An emulator runs it, see `devtools.emulation`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlinfer.model.path import STARTER

from .. import models
from ..conftest import CAT, Run
from ..pictures import encoded, gradient
from .local import Local

MlInfer = Callable[..., Run]
Scores = list[dict[str, float]]  # of each class, for each image
WITHIN = 1e-5  # of a score: processors add float32 numbers in different orders
SETTINGS = {"ARCH": "arm64", "TIMEOUT": "300", "BUCKET": "arm64-models"}


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Return images of each kind that the handler decodes in its own way."""
    deep = np.arange(0, 2**16, 2**4, dtype=np.uint16).reshape(64, 64)
    files = {f"{codec}.{codec}": encoded(gradient(), codec) for codec in ("PNG", "WEBP", "GIF", "TIFF", "AVIF")}
    files["large.jpeg"] = encoded(gradient(1200, 900), "JPEG")  # decoded at a reduced size
    files["16-bit.png"] = encoded(Image.fromarray(deep), "PNG")
    files["float.tiff"] = encoded(Image.fromarray(deep.astype(np.float32) / 2**16), "TIFF")
    paths = [CAT, *(tmp_path / name for name in files)]
    for path in paths[1:]:
        path.write_bytes(files[path.name])
    return paths


def read_scores(mlinfer: MlInfer, photos: list[Path], *more: str) -> Scores:
    """Return the scores of each image."""
    run = mlinfer("predict", *photos, "--json", "--top-k", "10", *more)
    assert run.code == 0, run.err
    answers = [json.loads(line) for line in run.out.splitlines()]
    return [{entry["label"]: entry["score"] for entry in answer["predictions"]} for answer in answers]


def difference(there: Scores, here: Scores) -> float:
    """Return the largest difference between two scores of one class."""
    assert [set(answer) for answer in there] == [set(answer) for answer in here]
    pairs = zip(there, here, strict=True)
    return max(abs(score - own[label]) for answer, own in pairs for label, score in answer.items())


@pytest.mark.usefixtures("ministack")
def test_arm64_answers_like_x86_64(
    mlinfer: MlInfer, local: Local, arm64_base_image: str, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run locally or deployed for arm64, the starter gives the scores of x86_64 for every format, in int8 and in float."""
    for name, value in {**SETTINGS, "BASE_IMAGE": arm64_base_image}.items():
        monkeypatch.setenv(f"MLINFER_{name}", value)
    in_float = str(models.in_float(STARTER, Path("float.onnx")))
    for model, some in ((in_float, photos[:2]), ("starter", photos)):  # emulated, an image takes seconds in float
        here = read_scores(mlinfer, some, "--model", model)
        ready = mlinfer("run-local", "--detach", "--model", model)
        assert ready.code == 0, ready.err
        assert difference(read_scores(mlinfer, some, "--target", "local", "--model", model), here) <= WITHIN
    assert local.inside("import platform; print(platform.machine())").strip() == "aarch64"

    deployed = mlinfer("deploy", "--create-bucket", "--json")
    assert deployed.code == 0, deployed.err
    assert difference(read_scores(mlinfer, photos[:2], "--target", "aws"), here[:2]) <= WITHIN
