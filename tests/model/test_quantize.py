"""`mlinfer export --quantize int8`: smaller, measured, safe on every CPU, or refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from lambda_src.inference.classifier import Classifier

from ..conftest import Run
from ..foreign import COLOURS, convolution, labels_file
from ..models import LABELS
from ..pictures import encoded, plain
from .test_onnx_import import answers

MlInfer = Callable[..., Run]
# https://www.felixcloutier.com/x86/pmaddubsw: the sum of two products of an unsigned and a signed byte, in 16 bits
I16 = 2**15 - 1


@pytest.fixture
def pictures() -> Path:
    """Return a folder with a subfolder of 12 pictures for each colour, each with some noise."""
    random = np.random.default_rng(0)
    for label, colour in zip(LABELS, COLOURS, strict=True):
        Path("pictures", label).mkdir(parents=True)
        for i in range(12):
            noisy = np.clip(255 * colour + random.normal(0, 25, (20, 24, 3)), 0, 255).astype(np.uint8)
            Path("pictures", label, f"{i}.png").write_bytes(encoded(Image.fromarray(noisy), "PNG"))
    return Path("pictures")


def quantize(mlinfer: MlInfer, model: Path, pictures: Path, *flags: str) -> Run:
    """Export a foreign model as int8."""
    told = ("--labels", labels_file(), "--preprocess", "none", "--calibration", pictures)
    return mlinfer("export", model, "--quantize", "int8", *told, *flags)


def figures(path: Path) -> dict[str, Any]:
    """Return the quantisation results in the file."""
    found: dict[str, Any] = Classifier(path, "", 1).metadata.provenance["quantization"]
    return found


def test_int8_answers_as_float(mlinfer: MlInfer, pictures: Path) -> None:
    """The int8 file classifies every colour, and records agreement, both accuracies, size and speed."""
    run = quantize(mlinfer, convolution(Path("net.onnx")), pictures, "--json")
    assert run.code == 0, run.err
    document = json.loads(run.out)
    assert document["name"] == "net-int8"
    assert document["provenance"]["precision"] == "int8"
    made = Path("models/net-int8.onnx")
    assert document["provenance"]["quantization"] == figures(made)
    assert (figures(made)["calibrated_on"], figures(made)["judged_on"], figures(made)["held_out"]) == (30, 30, True)
    assert figures(made)["top1_agreement"] == figures(made)["float_accuracy"] == figures(made)["int8_accuracy"] == 1
    assert figures(made)["size_ratio"] > 0
    assert figures(made)["speed_ratio"] > 0
    assert answers(mlinfer, made) == list(LABELS)


def test_weights_cannot_saturate(mlinfer: MlInfer, pictures: Path) -> None:
    """No sum of two products overflows 16 bits on a CPU without VNNI: checked for all weights."""
    quantize(mlinfer, convolution(Path("net.onnx")), pictures)
    graph = onnx.load("models/net-int8.onnx").graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    inputs = {node.output[0]: node.input for node in graph.node if node.op_type == "DequantizeLinear"}
    assert len(products) == 2
    for node in products:
        activation, weights = inputs[node.input[0]], values[inputs[node.input[1]][0]]
        assert weights.dtype == np.int8
        assert values[activation[2]].dtype == np.uint8
        largest_pair = np.sort(np.abs(weights.astype(int)).reshape(len(weights), -1), axis=1)[:, -2:].sum(1).max()
        assert 100 < largest_pair * 255 <= I16


def test_a_first_convolution_of_stride_2(mlinfer: MlInfer, pictures: Path) -> None:
    """Its int8 form reads squares of pixels, which is faster, with the same answers."""
    run = quantize(mlinfer, convolution(Path("net.onnx"), stride=2), pictures)
    assert run.code == 0, run.err
    made = Path("models/net-int8.onnx")
    assert "SpaceToDepth" in [node.op_type for node in onnx.load(made).graph.node]
    assert answers(mlinfer, made) == list(LABELS)


def test_one_scale_per_output_channel(mlinfer: MlInfer, pictures: Path) -> None:
    """A convolution's weights have a scale for each output channel."""
    quantize(mlinfer, convolution(Path("net.onnx")), pictures)
    graph = onnx.load("models/net-int8.onnx").graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    scales = [values[node.input[1]] for node in graph.node if node.op_type == "DequantizeLinear"]
    assert (17,) in [scale.shape for scale in scales]


def test_lost_answers_are_refused(mlinfer: MlInfer, pictures: Path) -> None:
    """A model that int8 spoils is refused with the agreement, and no file is written; --allow-drop accepts it with a note."""
    model = convolution(Path("net.onnx"), outlier=30000)
    run = quantize(mlinfer, model, pictures)
    assert run.code == 5
    assert "minimum 95%" in run.err
    assert "--allow-drop" in run.err
    assert not list(Path("models").iterdir())
    assert quantize(mlinfer, model, pictures, "--allow-drop").code == 0
    assert figures(Path("models/net-int8.onnx"))["top1_agreement"] < 0.95


def test_few_images_calibrate_and_evaluate(mlinfer: MlInfer) -> None:
    """With few unlabelled images, the file records that none were held out and none labelled."""
    Path("few").mkdir()
    for label, colour in zip(LABELS, COLOURS, strict=True):
        red, green, blue = (int(255 * c) for c in colour)
        Path("few", f"{label}.png").write_bytes(encoded(plain((red, green, blue)), "PNG"))
    run = quantize(mlinfer, convolution(Path("net.onnx")), Path("few"))
    assert run.code == 0, run.err
    found = figures(Path("models/net-int8.onnx"))
    assert (found["calibrated_on"], found["judged_on"], found["held_out"]) == (5, 5, False)
    assert found["float_accuracy"] is None


def test_int8_of_int8(mlinfer: MlInfer, pictures: Path) -> None:
    """An int8 file is not quantised again."""
    quantize(mlinfer, convolution(Path("net.onnx")), pictures)
    run = mlinfer("export", "models/net-int8.onnx", "--quantize", "int8", "--calibration", pictures)
    assert run.code == 5
    assert "already int8" in run.err


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--quantize", "int8"], 2, "--calibration DIR"),
        (["--quantize", "int8", "--calibration", "nowhere"], 2, "directory nowhere"),
        (["--quantize", "int8", "--calibration", "empty"], 2, "has no images"),
        (["--quantize", "int8", "--calibration", "broken"], 5, "broken/a.jpg"),
        (["--quantize", "fp16", "--calibration", "empty"], 2, "use int8"),
    ],
)
def test_wrong_calibration(mlinfer: MlInfer, flags: list[str], code: int, message: str) -> None:
    """Missing or unreadable images are an error, and no file is written."""
    Path("empty").mkdir()
    Path("broken").mkdir()
    Path("broken", "a.jpg").write_text("I am no picture.\n")
    model = convolution(Path("net.onnx"))
    run = mlinfer("export", model, "--labels", labels_file(), "--preprocess", "none", *flags)
    assert run.code == code
    assert message in run.err
    assert not list(Path().glob("models/*"))


@pytest.mark.slow
def test_interrupt_leaves_nothing(pictures: Path) -> None:
    """Ctrl-C exits with 130 and leaves no file, not even a partial one."""
    for i in range(1500):
        os.link(pictures / "red" / "0.png", pictures / "red" / f"more{i}.png")
    told = ["--labels", labels_file(), "--preprocess", "none", "--quantize", "int8", "--calibration", pictures]
    command = [sys.executable, "-m", "mlinfer", "export", convolution(Path("net.onnx")), *told]
    process = subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(Path().glob("models/.*/int8.all.onnx")):
        pass
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert not list(Path("models").iterdir())


def test_old_opsets_are_converted(mlinfer: MlInfer, pictures: Path) -> None:
    """A model of an old opset is converted to one with a scale per channel."""
    net = onnx.load(convolution(Path("net.onnx")))
    net.opset_import[0].version = 11  # its operators have not changed since
    onnx.save(net, "old.onnx")
    run = quantize(mlinfer, Path("old.onnx"), pictures)
    assert run.code == 0, run.err
    assert answers(mlinfer, Path("models/old-int8.onnx")) == list(LABELS)


def test_a_small_calibration_set_is_noted(mlinfer: MlInfer, pictures: Path) -> None:
    """If the same images calibrated and measured, a note says so."""
    run = quantize(mlinfer, convolution(Path("net.onnx")), pictures / "red")
    assert "the same 12 images" in run.err


def test_allow_drop_alone(mlinfer: MlInfer) -> None:
    """--allow-drop without --quantize is wrong usage."""
    assert mlinfer("export", convolution(Path("net.onnx")), "--allow-drop").code == 2
