"""`mlinfer export ARCH`: torchvision's classifiers become one file with the same answers."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import onnx
import pytest

from devtools.networks import best_five, write_state_dict
from lambda_src.inference.download import sha256_of
from mlinfer.model.runtime import IR_VERSION, OPSET

from ..conftest import ROOT, Run
from ..foreign import colour_model

MlInfer = Callable[..., Run]
SMALL = "squeezenet1_1"


pytestmark = pytest.mark.usefixtures("torchvision")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Use an empty cache and a proxy that does not exist, so that no weights are found or downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setattr(urllib.request, "_opener", None)  # it keeps the proxies of its first use, for later tests too
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)


@pytest.fixture
def small(tmp_path: Path, torchvision: ModuleType) -> Path:
    """Return a state dict of the smallest network, with five classes."""
    import torch

    torch.manual_seed(1)
    network = torchvision.models.get_model(SMALL, weights=None, num_classes=5)
    path = tmp_path / "small.pth"
    torch.save(network.state_dict(), path)
    return path


def five_labels() -> Path:
    """Write five labels."""
    path = Path("labels.txt")
    path.write_text("a\nb\nc\nd\ne\n")
    return path


def top_five(run: Run) -> list[list[int]]:
    """Return the five best classes from each line of `predict --json`."""
    assert run.code == 0, run.err
    return [[p["index"] for p in json.loads(line)["predictions"]] for line in run.out.splitlines()]


def test_resnet18_answers_as_torchvision(mlinfer: MlInfer, photos: list[Path]) -> None:
    """The exported file gives torchvision's five best classes on every photograph, with made-up weights."""
    run = mlinfer("export", "resnet18", "--weights", "random", "--json")
    assert run.code == 0, run.err
    facts = json.loads(run.out)
    assert facts["file"] == "models/resnet18.onnx"
    assert (facts["opset"], facts["ir_version"], facts["image"]["takes_it"]) == (OPSET, IR_VERSION, True)
    assert facts["inputs"] == [{"name": "pixels", "dtype": "uint8", "shape": ["batch", 224, 224, 3]}]
    assert facts["labels"] == {"count": 1000, "first": "tench", "last": "toilet tissue"}
    assert {"subtract": [0.485, 0.456, 0.406]} in facts["preprocess"]["arithmetic"]
    assert (facts["preprocess"]["resize"], facts["preprocess"]["crop"]) == (256, [224, 224])
    parity = facts["provenance"]["parity"]
    assert parity["inputs"] == 12
    assert parity["max_relative_diff"] < parity["tolerance"] / 10
    assert parity["top1_agreement"] == 1
    predicted = mlinfer("predict", "--json", "--model", "models/resnet18.onnx", *photos)
    assert top_five(predicted) == best_five("resnet18", None, photos)
    assert [path.name for path in Path("models").iterdir()] == ["resnet18.onnx"]


def test_the_file_holds_no_paths_of_this_machine(mlinfer: MlInfer, small: Path) -> None:
    """The exporter's notes, which name local files, are not in the file."""
    assert mlinfer("export", SMALL, "--weights", small, "--labels", five_labels()).code == 0
    content = Path(f"models/{SMALL}.onnx").read_bytes()
    assert b"site-packages" not in content
    assert str(ROOT).encode() not in content
    onnx.checker.check_model(f"models/{SMALL}.onnx", full_check=True)


def test_custom_weights(mlinfer: MlInfer, small: Path) -> None:
    """A state dict with other classes needs --labels; wrapped as a checkpoint, it gives the same model."""
    import torch

    assert mlinfer("export", SMALL, "--weights", small, "--labels", five_labels()).code == 0
    wrapped = {"state_dict": {f"module.{k}": v for k, v in torch.load(small, weights_only=True).items()}}
    torch.save(wrapped, small)
    run = mlinfer("export", SMALL, "--weights", small, "--labels", five_labels(), "--out", "again.onnx")
    assert run.code == 0, run.err
    assert sha256_of(Path("again.onnx")) == sha256_of(Path(f"models/{SMALL}.onnx"))
    run = mlinfer("export", SMALL, "--weights", small)
    assert run.code == 2
    assert "5 classes" in run.err
    assert "--labels FILE" in run.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"I am no weights.", "a text file"),
        ({"epoch": 3}, "no state dict"),
        ({"fc.weight": [2.0]}, "do not match"),
    ],
)
def test_a_file_without_weights(mlinfer: MlInfer, content: object, message: str) -> None:
    """A file without weights is refused with what was expected."""
    import torch

    if isinstance(content, bytes):
        Path("w.pth").write_bytes(content)
    else:
        assert isinstance(content, dict)
        torch.save({k: torch.tensor(v) if isinstance(v, list) else v for k, v in content.items()}, "w.pth")
    run = mlinfer("export", SMALL, "--weights", "w.pth", "--labels", five_labels())
    assert run.code == 2
    assert message in run.err
    assert not Path("models").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["resnet81"], "Did you mean resnet18"),
        ([SMALL, "--weights", "IMAGENET1K_V9"], "IMAGENET1K_V1, DEFAULT, random"),
        ([SMALL, "--preprocess", "none"], "torchvision defines the preprocessing"),
        (["fasterrcnn_resnet50_fpn"], "neither one of torchvision's"),
    ],
)
def test_unknown_names(mlinfer: MlInfer, argv: list[str], message: str) -> None:
    """An unknown architecture is refused with the known ones."""
    run = mlinfer("export", *argv)
    assert run.code == 2
    assert message in run.err


def test_a_file_without_a_suffix(mlinfer: MlInfer) -> None:
    """For a name that is a file, not an architecture, the hint says how to name the file."""
    colour_model(Path("mine"))
    run = mlinfer("export", "mine")
    assert run.code == 2
    assert "mlinfer export ./mine" in run.err
    run = mlinfer("export", "./mine", "--labels", five_labels(), "--preprocess", "none")
    assert run.code == 0, run.err


def test_without_network(mlinfer: MlInfer) -> None:
    """Weights that cannot be downloaded exit with 3, their address, and how to pass them as a file."""
    run = mlinfer("export")
    assert run.code == 3
    assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in run.err
    assert "mlinfer export resnet18 --weights resnet18-f37072fd.pth" in run.err
    assert "Traceback" not in run.err
    assert not Path("models").exists()
    assert json.loads(mlinfer("export", "--json").out)["error"]["code"] == "weights_unavailable"


@pytest.mark.parametrize("module", ["torch", "torchvision", "onnxscript", "onnx"])
def test_without_the_extra(mlinfer: MlInfer, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """Without a required library, the error names the libraries: exit code 3."""
    monkeypatch.setitem(sys.modules, module, None)
    run = mlinfer("export", "resnet18", "--weights", "random")
    assert run.code == 3
    assert "pip install torch torchvision onnx onnxscript" in run.err


@pytest.mark.parametrize("arch", ["mobilenet_v3_small", "efficientnet_b0", "swin_t"])
def test_other_families(mlinfer: MlInfer, photos: list[Path], tmp_path: Path, arch: str) -> None:
    """A MobileNet, an EfficientNet and a transformer answer as torchvision does; their int8 is verified or refused."""
    few = photos[:6]
    weights = write_state_dict(arch, tmp_path / "weights.pth", few)
    folder = tmp_path / "photos"
    folder.mkdir()
    for photo in few:
        (folder / photo.name).symlink_to(photo)
    run = mlinfer("export", arch, "--weights", weights, "--calibration", folder)
    assert run.code == 0, run.err
    predicted = mlinfer("predict", "--json", "--model", f"models/{arch}.onnx", *few)
    assert top_five(predicted) == best_five(arch, weights, few)
    run = mlinfer("export", f"models/{arch}.onnx", "--quantize", "int8", "--calibration", folder, "--json")
    if run.code == 0:
        assert json.loads(run.out)["provenance"]["quantization"]["top1_agreement"] >= 0.95
    else:
        assert run.code == 5
        assert json.loads(run.out)["error"]["code"] == "accuracy_drop"
        assert not Path(f"models/{arch}-int8.onnx").exists()
