"""Which models the image's onnxruntime supports, and how much memory `inspect` and `export` need."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from mlinfer.model.runtime import IMAGE_ONNXRUNTIME, IR_VERSION, MAX_IR_VERSION, MAX_OPSET, MIN_OPSET, OPSET, refusal

from ..conftest import ROOT
from ..foreign import labels_file, save
from ..models import LABELS


def loads(ir_version: int, opset: int) -> bool:
    """Tell whether onnxruntime loads a graph of one node with these versions."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "one", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    onnxruntime.set_default_logger_severity(4)
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception:  # onnxruntime's exceptions share no base class
        return False
    return True


def test_the_limits_are_those_of_the_locked_release() -> None:
    """The limits are those of the release in docker/requirements.txt."""
    lock = (ROOT / "docker" / "requirements.txt").read_text()
    assert re.findall(r"^onnxruntime==(\S+)", lock, re.MULTILINE) == [IMAGE_ONNXRUNTIME]


@pytest.mark.skipif(onnxruntime.__version__ != IMAGE_ONNXRUNTIME, reason="another onnxruntime is installed here")
def test_the_limits_are_where_onnxruntime_stops() -> None:
    """The release loads everything within the limits of `refusal`, and nothing beyond them."""
    for ir_version, opset in [(MAX_IR_VERSION, 18), (8, MAX_OPSET), (8, MIN_OPSET), (IR_VERSION, OPSET)]:
        assert loads(ir_version, opset)
        assert refusal(ir_version, opset) == ""
    for ir_version, opset in [(MAX_IR_VERSION + 1, 18), (8, MAX_OPSET + 1)]:
        assert not loads(ir_version, opset)
        assert refusal(ir_version, opset)


def huge_model(path: Path, weights: int) -> Path:
    """Write a model of one tensor of that many bytes, as a sparse file."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, 8, 8]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "huge", ports[:1], ports[1:])
    head = TensorProto(dims=[weights], data_type=TensorProto.UINT8, name="w").SerializeToString()
    tensor = head + field(9, weights)  # raw_data
    body = graph.SerializeToString() + field(5, len(tensor) + weights) + tensor  # initializer
    model = onnx.ModelProto(ir_version=8, opset_import=[helper.make_opsetid("", 17)]).SerializeToString()
    with path.open("wb") as file:
        file.write(model + field(7, len(body) + weights) + body)  # graph
        file.truncate(file.tell() + weights)
    return path


def deep_model(path: Path, layers: int, width: int) -> Path:
    """Write a classifier of that many square layers, 4 x width x width bytes each."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
    ]
    nodes += [helper.make_node("Gemm", ["flat", "first"], ["h0"])]
    values = {"first": np.eye(3, width, dtype=np.float32), "last": np.eye(width, len(LABELS), dtype=np.float32)}
    for i in range(layers):
        values[f"w{i}"] = np.eye(width, dtype=np.float32)
        nodes += [helper.make_node("Gemm", [f"h{i}", f"w{i}"], [f"h{i + 1}"])]
    nodes += [helper.make_node("Gemm", [f"h{layers}", "last"], ["scores"])]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 32, 32])]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", len(LABELS)])]
    return save(path, nodes, inputs, outputs, values)


def field(number: int, size: int) -> bytes:
    """Return the head of a field of that many bytes."""
    head = bytearray([number << 3 | 2])
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    return bytes([*head, size])


def peak_bytes(*argv: str | Path) -> tuple[str, int]:
    """Run `mlinfer` in a new process; return its stdout and peak memory."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of memory is read from /proc")
    code = (  # the peak of this program; getrusage's is that of the process that started it, if that is larger
        "import sys; from mlinfer.cli import main; main(sys.argv[1:]);"
        "sys.stderr.write(next(line for line in open('/proc/self/status') if 'VmHWM' in line).split()[1])"
    )
    command = [sys.executable, "-c", code, *map(str, argv)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return result.stdout, int(result.stderr) * 1024


@pytest.mark.slow
def test_inspect_of_a_gigabyte(tmp_path: Path) -> None:
    """`inspect` of a model of 1 GB needs less than 150 MB of memory."""
    path = huge_model(tmp_path / "huge.onnx", 2**30)
    out, peak = peak_bytes("inspect", "--json", "-q", path)
    facts = json.loads(out)
    assert facts["bytes"] > 2**30
    assert facts["inputs"] == [{"name": "x", "dtype": "float", "shape": ["N", 3, 8, 8]}]
    assert peak < 150 * 2**20


@pytest.mark.slow
@pytest.mark.parametrize("outside", [False, True], ids=["one file", "weights in another file"])
def test_export_holds_a_file_once(tmp_path: Path, outside: bool) -> None:
    """`export` of 400 MB needs less than twice that: one session at a time, and no copy."""
    path = deep_model(tmp_path / "deep.onnx", layers=25, width=2048)
    size = path.stat().st_size
    if outside:
        onnx.save(onnx.load(path), path, save_as_external_data=True, location="deep.data")
    labels = labels_file(tmp_path / "labels.txt")
    made = tmp_path / "made.onnx"
    _, peak = peak_bytes("export", path, "--labels", labels, "--preprocess", "none", "--out", made, "-q")
    assert size < made.stat().st_size < size + 4096
    assert peak < 2 * size
