"""Model files of mlinfer 0.1 (schema 1) are refused with the one command that upgrades them, which keeps the answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlinfer.model.modelfile import read_model_file

from ..conftest import Run
from ..foreign import colour_model, labels_file
from ..models import LABELS, describe_schema_1, schema_1
from .test_onnx_import import answers

MlInfer = Callable[..., Run]
FORMS: list[dict[str, Any]] = [
    {},
    {"layout": "NHWC"},
    {"dtype": "float16"},
    {"dtype": "uint8"},
    {"dtype": "uint8", "layout": "NHWC"},
]


@pytest.fixture
def old() -> Path:
    """Return a model file of schema 1."""
    Path("models").mkdir()
    return schema_1(Path("models/old.onnx"))


@pytest.mark.usefixtures("cloud")
@pytest.mark.parametrize(
    "command",
    [
        ["inspect", "models/old.onnx"],
        ["predict", "red.png", "--model", "models/old.onnx"],
        ["upload", "models/old.onnx", "--bucket", "cloud-models"],
        ["build", "--model", "models/old.onnx", "--model-source", "image"],
        ["run-local", "--no-docker", "--model", "models/old.onnx"],
        ["deploy", "--model", "models/old.onnx", "--bucket", "cloud-models"],
        ["bench", "--model", "models/old.onnx"],
    ],
    ids=lambda command: command[0],
)
@pytest.mark.usefixtures("old", "red")
def test_commands_name_the_upgrade(mlinfer: MlInfer, command: list[str]) -> None:
    """Each command that reads a model refuses the old file and names the command that upgrades it."""
    run = mlinfer(*command, "--json")
    error = json.loads(run.out)["error"]
    assert (run.code, error["code"]) == (2, "old_schema")
    assert "`mlinfer export models/old.onnx`" in error["hint"]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_upgrade(mlinfer: MlInfer, form: dict[str, Any]) -> None:
    """The file is replaced by one that takes pixels, with the same answers, name, labels and provenance."""
    path = describe_schema_1(colour_model(Path("mine.onnx"), **form), **form)
    run = mlinfer("export", path, "--json")
    assert run.code == 0, run.err
    made = json.loads(run.out)
    assert (made["file"], made["name"], made["labels"]["count"]) == ("mine.onnx", "tiny", 5)
    assert made["inputs"][0]["dtype"] == "uint8"
    assert made["provenance"]["made by"] == "mlinfer 0.1"
    assert made["provenance"]["upgrade"]["parity"]["max_abs_diff"] == 0
    assert not Path("models").exists()
    assert answers(mlinfer, path) == list(LABELS)
    before = path.read_bytes()
    assert mlinfer("export", path, "--out", path).code == 2  # nothing to upgrade any more
    assert path.read_bytes() == before


def test_numbers_and_order_of_colours(mlinfer: MlInfer, old: Path) -> None:
    """Mean, deviation and BGR become nodes of the graph."""
    schema_1(old, color="BGR", mean=[0.5] * 3, std=[0.5, 0.5, 0.25])
    assert mlinfer("export", old).code == 0
    metadata = read_model_file(old).metadata
    assert metadata
    steps = [{"layout": "NCHW"}, {"channels": "BGR"}, {"dtype": "float32"}, {"divide": 255}]
    assert list(metadata.preprocess.arithmetic) == [*steps, {"subtract": [0.5] * 3}, {"divide": [0.5, 0.5, 0.25]}]


def test_an_upgrade_to_another_file(mlinfer: MlInfer, old: Path) -> None:
    """With --out, --name or other labels, the old file stays; a link to the file stays a link."""
    before = old.read_bytes()
    assert mlinfer("export", old, "--out", "new.onnx").code == 0
    assert mlinfer("export", old, "--labels", labels_file(labels=("a", "b", "c", "d", "e"))).code == 0
    assert read_model_file(Path("models/tiny.onnx")).metadata.labels == ("a", "b", "c", "d", "e")  # type: ignore[union-attr]
    assert old.read_bytes() == before
    Path("link.onnx").symlink_to(old)
    assert mlinfer("export", "link.onnx").code == 0
    assert Path("link.onnx").is_symlink()
    assert read_model_file(old).metadata


def test_an_upgrade_that_is_not_verified(mlinfer: MlInfer) -> None:
    """If the answers are not the same, the old file stays as it is."""
    path = describe_schema_1(colour_model(Path("mine.onnx"), noise=0.5))
    before = path.read_bytes()
    run = mlinfer("export", path, "--json")
    assert (run.code, json.loads(run.out)["error"]["code"]) == (5, "parity")
    assert path.read_bytes() == before
    assert list(Path().glob("*.onnx")) == [path]


@pytest.mark.parametrize(
    "preprocess", [{"mean": [0.5]}, {"std": [0, 1, 1]}, {"layout": "NCWH"}, {"mean": "a"}], ids=str
)
def test_damaged_metadata_of_schema_1(mlinfer: MlInfer, old: Path, preprocess: dict[str, Any]) -> None:
    """Metadata that schema 1 does not allow ends in an error, and the file stays."""
    before = schema_1(old, **preprocess).read_bytes()
    run = mlinfer("export", old)
    assert run.code == 2, run.err
    assert "Traceback" not in run.err
    assert old.read_bytes() == before
