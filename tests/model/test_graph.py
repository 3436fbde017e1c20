"""Graphs that exporters and optimisers produce: exported with the same answers, or refused with the reason."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ..conftest import ROOT, Run
from ..foreign import branches, convolution, labels_file, quantised, reshaping, training, two_layers
from ..models import LABELS
from .test_onnx_import import PICTURES, answers, facts
from .test_quantize import pictures as pictures

MlInfer = Callable[..., Run]


def export(mlinfer: MlInfer, model: Path, *flags: str | Path) -> Run:
    """Export a foreign model with its labels."""
    return mlinfer("export", model, "--labels", labels_file(), "--preprocess", "none", "--json", *flags)


def refused(run: Run, code: str) -> dict[str, str]:
    """Require that the model is refused for that reason and no file is written; return the error."""
    assert run.code == 5, run.err
    error: dict[str, str] = json.loads(run.out)["error"]
    assert error["code"] == code
    assert not list(Path().glob("models/*"))
    return error


@pytest.mark.slow
def test_weights_inside_branches(mlinfer: MlInfer) -> None:
    """With --output, weights inside the branches of an `If` are kept."""
    run = export(mlinfer, branches(Path("other.onnx")), "--output", "scores")
    assert run.code == 0, run.err
    assert answers(mlinfer, Path("models/other.onnx")) == list(PICTURES)
    assert {tensor.name for tensor in onnx.load("models/other.onnx").graph.initializer} >= {"weights", "bias"}


@pytest.mark.parametrize(
    ("batch", "shape"), [("N", (1, 3)), ("N", (1, -1)), (1, (1, 3)), (4, (4, 3)), (4, (4, -1)), ("N", (-1, 3))]
)
@pytest.mark.slow
def test_a_batch_that_is_fixed_inside(mlinfer: MlInfer, batch: int | str, shape: tuple[int, ...]) -> None:
    """A model with a `Reshape` to a fixed batch answers single images after the export."""
    run = export(mlinfer, reshaping(Path("other.onnx"), batch=batch, shape=shape))
    assert run.code == 0, run.err
    assert answers(mlinfer, Path("models/other.onnx")) == list(PICTURES)


def test_a_batch_that_cannot_be_freed(mlinfer: MlInfer) -> None:
    """A model that only answers batches of one fixed size is refused with a hint."""
    model = onnx.load(reshaping(Path("other.onnx"), batch=4, shape=(4, 3)))
    ones = numpy_helper.from_array(np.ones((4, 3), np.float32), "ones")
    model.graph.initializer.append(ones)
    model.graph.node.insert(2, helper.make_node("Mul", ["colour", "ones"], ["same"]))
    model.graph.node[3].input[0] = "same"
    onnx.save(model, "other.onnx")
    assert "batch size of 1" in refused(export(mlinfer, Path("other.onnx")), "unusable_model")["hint"]


@pytest.mark.parametrize("operator", ["BatchNormalization", "Dropout"])
def test_exports_in_training_mode(mlinfer: MlInfer, operator: str) -> None:
    """A model exported in training mode is refused with that reason."""
    error = refused(export(mlinfer, training(Path("other.onnx"), operator)), "training_mode")
    assert operator in error["message"]
    assert "model.eval()" in error["hint"]


def optimised(model: Path, level: str) -> Path:
    """Write the model as onnxruntime optimises it at that level."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = "optimised.onnx"
    options.log_severity_level = 4
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return Path("optimised.onnx")


def wide_convolution(path: Path) -> Path:
    """Write a classifier with a convolution to 64 channels, which onnxruntime fuses and optimises for one CPU."""
    random = np.random.default_rng(0)
    values = {"kernel": random.standard_normal((64, 3, 3, 3)).astype(np.float32)}
    values |= {"shift": random.standard_normal(64).astype(np.float32)}
    values |= {"last": random.standard_normal((64, 5)).astype(np.float32)}
    nodes = [
        helper.make_node("Conv", ["image", "kernel", "shift"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("MatMul", ["f", "last"], ["scores"]),
    ]
    ports = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])]
    scores = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 5])]
    tensors = [numpy_helper.from_array(value, name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "wide", ports, scores, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.slow
def test_a_graph_that_onnxruntime_optimised(mlinfer: MlInfer, pictures: Path) -> None:
    """A graph with onnxruntime's fused operators is exported; int8 of it is refused with that reason."""
    model = optimised(wide_convolution(Path("wide.onnx")), "ORT_ENABLE_EXTENDED")
    fused = [node.op_type for node in onnx.load(model).graph.node if node.domain == "com.microsoft"]
    assert fused == ["FusedConv"]
    run = export(mlinfer, model, "--quantize", "int8", "--calibration", pictures, "--allow-drop")
    assert "FusedConv" in refused(run, "not_quantizable")["message"]
    assert export(mlinfer, model).code == 0


def test_a_graph_for_one_machine(mlinfer: MlInfer) -> None:
    """A graph optimised for one CPU's vector width is refused with that reason."""
    model = for_one_machine(wide_convolution(Path("wide.onnx")))
    assert "vector width" in refused(export(mlinfer, model), "one_machine_only")["message"]


@pytest.mark.usefixtures("cloud")
def test_a_model_file_of_ours_for_one_machine(mlinfer: MlInfer) -> None:
    """A model file that was optimised for one CPU later is not served, and `inspect` says so."""
    assert export(mlinfer, wide_convolution(Path("wide.onnx")), "--out", "ours.onnx").code == 0
    model = for_one_machine(Path("ours.onnx"))
    assert facts(mlinfer, model)["image"]["takes_it"] is False
    for command in (
        ["upload", model, "--bucket", "cloud-models"],
        ["build", "--model", model, "--model-source", "image"],
    ):
        refused(mlinfer(*command, "--json"), "one_machine_only")


def for_one_machine(model: Path) -> Path:
    """Write the model as onnxruntime optimises it for this machine's processor."""
    made = onnx.load(path := optimised(model, "ORT_ENABLE_ALL"))
    if not any(node.domain == "com.microsoft.nchwc" for node in made.graph.node):  # this one has no such layout
        made.graph.node[0].domain = "com.microsoft.nchwc"
        onnx.save(made, path)
    return path


def test_int8_of_float16(mlinfer: MlInfer, pictures: Path) -> None:
    """int8 of a float16 model has int8 weights, no float16 ones, and float32 input."""
    model = two_layers(Path("net.onnx"), dtype=np.float16)
    run = export(mlinfer, model, "--quantize", "int8", "--calibration", pictures)
    assert run.code == 0, run.err
    types = weight_types(Path("models/net-int8.onnx"))
    assert types[TensorProto.INT8] > 500
    assert TensorProto.FLOAT16 not in types
    assert {"dtype": "float16"} not in json.loads(run.out)["preprocess"]["arithmetic"]
    assert answers(mlinfer, Path("models/net-int8.onnx")) == list(LABELS)


def weight_types(path: Path) -> dict[int, int]:
    """Return how many weights there are of each type."""
    found: dict[int, int] = {}
    for tensor in onnx.load(path).graph.initializer:
        found[tensor.data_type] = found.get(tensor.data_type, 0) + int(np.prod(tensor.dims))
    return found


@pytest.mark.parametrize("shape", [(5,), (1, 5), (1,), (1, 1), ()])
def test_int8_with_any_form_of_bias(mlinfer: MlInfer, pictures: Path, shape: tuple[int, ...]) -> None:
    """MatMul and Add become int8 for any shape of the bias."""
    model = two_layers(Path("net.onnx"), bias_shape=shape)
    run = export(mlinfer, model, "--quantize", "int8", "--calibration", pictures, "--allow-drop")
    assert run.code == 0, run.err
    assert json.loads(run.out)["provenance"]["precision"] == "int8"
    assert weight_types(Path("models/net-int8.onnx"))[TensorProto.INT8] > 500


def test_quantised_activations_alone_are_not_int8(mlinfer: MlInfer, pictures: Path) -> None:
    """A file with float weights is not called int8, and is not quantised again."""
    model = quantised(Path("net.onnx"))
    refused(export(mlinfer, model, "--quantize", "int8", "--calibration", pictures), "already_int8")
    assert export(mlinfer, model).code == 0
    assert facts(mlinfer, Path("models/net.onnx"))["provenance"]["precision"] == "float32"


def split_model(**place: str) -> Path:
    """Write a model with external weights at that location."""
    model = onnx.load(convolution(Path("split.onnx")))
    onnx.save(model, "split.onnx", save_as_external_data=True, location="split.data", size_threshold=0)
    model = onnx.load("split.onnx", load_external_data=False)
    Path("folder").mkdir()
    tensor = model.graph.initializer[0]
    entries = {entry.key: entry.value for entry in tensor.external_data} | place
    del tensor.external_data[:]
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    onnx.save(model, "folder/split.onnx")
    Path("folder/split.data").write_bytes(Path("split.data").read_bytes())
    return Path("folder/split.onnx")


@pytest.mark.parametrize("location", ["../split.data", "#../split.data", "link.data", "linked/split.data", "absolute"])
def test_weights_outside_the_models_folder(mlinfer: MlInfer, location: str) -> None:
    """Weights outside the model's folder are not read: not above it, not by an absolute path, not through a link."""
    model = split_model(location=str(Path("split.data").resolve()) if location == "absolute" else location)
    Path("folder/link.data").symlink_to(Path("split.data").resolve())
    Path("folder/linked").symlink_to(Path().resolve())
    run = export(mlinfer, model)
    assert run.code in (3, 5)
    assert json.loads(run.out)["error"]["code"] in ("invalid_model", "weights_missing")
    assert not Path("models").exists()


@pytest.mark.parametrize(
    "place", [{"offset": "-4"}, {"length": "99999999"}, {"offset": "1000000"}, {"length": "-1"}, {"offset": "x"}]
)
def test_weights_that_are_cut_off(mlinfer: MlInfer, place: dict[str, str]) -> None:
    """A location beyond the end of the weights file is refused."""
    run = export(mlinfer, split_model(**place))
    assert run.code in (2, 5)
    assert json.loads(run.out)["error"]["code"] == "invalid_model"
    assert not Path("models").exists()


def test_weights_with_unknown_entries(mlinfer: MlInfer) -> None:
    """Unknown entries in the location of a weight cause no internal error."""
    assert export(mlinfer, split_model(path="nowhere")).code == 5


@pytest.mark.usefixtures("cloud")
def test_a_model_file_of_ours_that_was_split(mlinfer: MlInfer) -> None:
    """A model file with external weights is not uploaded; exporting it gives one file."""
    assert export(mlinfer, convolution(Path("net.onnx"))).code == 0
    whole = onnx.load("models/net.onnx")
    onnx.save(whole, "ours.onnx", save_as_external_data=True, location="ours.data", size_threshold=0)
    run = mlinfer("upload", "ours.onnx", "--bucket", "cloud-models", "--json")
    assert run.code == 2
    assert json.loads(run.out)["error"]["code"] == "weights_outside"
    assert mlinfer("export", "ours.onnx", "--out", "whole.onnx").code == 0
    assert answers(mlinfer, Path("whole.onnx")) == list(LABELS)


def test_no_weights_are_replaced(mlinfer: MlInfer, pictures: Path) -> None:
    """--out never replaces the model's weights or a calibration image, not even with --force."""
    model, picture = split_model(), pictures / "red" / "0.png"
    before = [path.read_bytes() for path in (Path("folder/split.data"), picture)]
    for out in ("folder/split.data", picture):
        run = export(mlinfer, model, "--calibration", pictures, "--out", out, "--force")
        assert run.code == 2
        assert json.loads(run.out)["error"]["code"] == "would_replace_source"
    assert [path.read_bytes() for path in (Path("folder/split.data"), picture)] == before


def test_weights_in_a_cache_of_links(mlinfer: MlInfer) -> None:
    """If model and weights are links into one folder, as in a Hugging Face cache, they are read."""
    model = split_model()
    Path("snapshot").mkdir()
    for name in ("split.onnx", "split.data"):
        Path("snapshot", name).symlink_to(Path("..", "folder", name))
    run = export(mlinfer, Path("snapshot/split.onnx"))
    assert model.exists()
    assert run.code == 0, run.err


@pytest.mark.slow
def test_mutated_models() -> None:
    """Damaged and inconsistent models give a verified file or an error, never an internal error or a crash."""
    command = [sys.executable, "tests/fuzz_export.py", "--cases", "100", "--seed", "11"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
