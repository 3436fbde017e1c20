"""The rewritten first convolution gives the same answers; other convolutions are not rewritten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from mlinfer.model.space_to_depth import fold_stem

from ..foreign import save


def stem(path: Path, kernel: tuple[int, int] = (7, 7), ports: str = "x", **attributes: Any) -> Path:
    """Write one convolution over three channels."""
    attributes = {"strides": [2, 2]} | attributes
    group = attributes.get("group", 1)
    weights = np.random.default_rng(1).standard_normal((6, 3 // group, *kernel)).astype(np.float32)
    node = helper.make_node("Conv", [ports[0], "w"], ["y"], **attributes)
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, "H", "W"]) for name in ports]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 6, "h", "w"])]
    return save(path, [node], inputs, outputs, {"w": weights})


def answer(path: Path, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return the model's answer to two random images."""
    batch = np.random.default_rng(2).standard_normal((2, 3, *size)).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run(None, {"x": batch})[0]
    return result


def operators(path: Path) -> list[str]:
    """Return the operators of a model file."""
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize("size", [(32, 32), (18, 40)])
@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 1, 1, 1), (0, 0, 1, 1), (3, 2, 2, 3)])
@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (3, 3), (6, 5), (7, 7)])
def test_the_other_form_answers_the_same(
    tmp_path: Path, kernel: tuple[int, int], pads: tuple[int, ...], size: tuple[int, int]
) -> None:
    """For any kernel, padding and size, the answers and shapes are the same."""
    path = stem(tmp_path / "stem.onnx", kernel, pads=pads)
    before = answer(path, size)
    fold_stem(path, size)
    assert operators(path) == ["SpaceToDepth", "Conv"]
    np.testing.assert_allclose(answer(path, size), before, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ({"strides": [1, 1]}, (32, 32)),
        ({"strides": [4, 4]}, (32, 32)),
        ({"strides": [2, 1]}, (32, 32)),
        ({"dilations": [2, 2]}, (32, 32)),
        ({"group": 3}, (32, 32)),
        ({"auto_pad": "SAME_UPPER"}, (32, 32)),
        ({"ports": "xw"}, (32, 32)),
        ({}, (32, 31)),
    ],
)
def test_what_has_no_other_form_is_left_alone(tmp_path: Path, model: dict[str, Any], size: tuple[int, int]) -> None:
    """Other strides, dilation, groups, odd sizes and weights as input: no byte changes."""
    path = stem(tmp_path / "stem.onnx", **model)
    before = path.read_bytes()
    fold_stem(path, size)
    assert path.read_bytes() == before
