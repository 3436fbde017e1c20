"""ONNX files without mlinfer's metadata, as other tools write them: every form of input and output."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from .models import LABELS

COLOURS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]], np.float32)
_TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}


FORMS: list[dict[str, Any]] = [
    {},
    {"layout": "NHWC"},
    {"dtype": "float16"},
    {"dtype": "uint8"},
    {"dtype": "uint8", "layout": "NHWC"},
    {"dtype": "float16", "layout": "NHWC"},
    {"batch": 1},
    {"batch": 4},
    {"size": "S"},
    {"ending": "softmax"},
    {"ending": "sigmoid"},
    {"ending": "divided"},
    {"ending": "map"},
    {"opset": 13, "ir_version": 7},
]


def colour_model(
    path: Path,
    *,
    batch: int | str = "N",
    size: int | str = 8,
    layout: str = "NCHW",
    dtype: str = "float32",
    channels: int | str = 3,
    ending: str = "logits",
    noise: float = 0.0,
    spare_output: bool = False,
    opset: int = 17,
    ir_version: int = 8,
) -> Path:
    """Write a classifier of the image's mean colour; inputs in 0..1, or bytes for uint8.

    ending: logits, softmax, sigmoid, divided (a softmax of simple operators) or map ([N, 5, 1, 1]). With one channel, it
    tells white from black, the last two labels.
    """
    dims = [batch, channels, size, size] if layout == "NCHW" else [batch, size, size, channels]
    kind = np.float16 if dtype == "float16" else np.float32
    colours = COLOURS if channels != 1 else np.array([[1], [0]], np.float32)
    nodes, values = [], {"weights": (20 * colours.T).astype(kind), "bias": (-10 * (colours**2).sum(1)).astype(kind)}
    image = "image"
    if dtype == "uint8":
        values["full"] = np.float32(255)
        nodes += [helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT)]
        nodes += [helper.make_node("Div", ["cast", "full"], ["scaled"])]
        image = "scaled"
    axes = [2, 3] if layout == "NCHW" else [1, 2]
    nodes += [helper.make_node("ReduceMean", [image], ["colour"], axes=axes, keepdims=0)]
    nodes += [helper.make_node("Gemm", ["colour", "weights", "bias"], ["raw"])]
    last = "raw"
    if noise:
        nodes += [helper.make_node("RandomNormalLike", ["raw"], ["noise"], scale=noise)]
        nodes += [helper.make_node("Add", ["raw", "noise"], ["noisy"])]
        last = "noisy"
    nodes += _ending(ending, last, values)
    inputs = [helper.make_tensor_value_info("image", _TYPES[dtype], dims)]
    float_type = TensorProto.FLOAT16 if dtype == "float16" else TensorProto.FLOAT
    shape = [batch, len(colours)] + [1, 1] * (ending == "map")
    outputs = [helper.make_tensor_value_info("scores", float_type, shape)]
    if spare_output:
        outputs.insert(0, helper.make_tensor_value_info("colour", float_type, [batch, channels]))
    return save(path, nodes, inputs, outputs, values, opset, ir_version)


def _ending(kind: str, last: str, values: dict[str, NDArray[Any]]) -> list[Any]:
    if kind in ("softmax", "sigmoid"):
        made = helper.make_node(kind.capitalize(), [last], ["p"])
        return [made, helper.make_node("Identity", ["p"], ["scores"])]
    if kind == "divided":
        values["classes"] = np.array([1], np.int64)
        return [
            helper.make_node("Exp", [last], ["e"]),
            helper.make_node("ReduceSum", ["e", "classes"], ["sum"], keepdims=1),
            helper.make_node("Div", ["e", "sum"], ["scores"]),
        ]
    if kind == "map":
        values["ones"] = np.array([2, 3], np.int64)
        return [helper.make_node("Unsqueeze", [last, "ones"], ["scores"])]
    return [helper.make_node("Identity", [last], ["scores"])]


def save(
    path: Path,
    nodes: list[Any],
    inputs: list[Any],
    outputs: list[Any],
    values: dict[str, NDArray[Any]],
    opset: int = 17,
    ir_version: int = 8,
) -> Path:
    """Write a graph as one file."""
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "foreign", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    onnx.save(model, path)
    return path


def single_node(path: Path, operator: str, shape: list[Any], dtype: int = TensorProto.FLOAT, inputs: int = 1) -> Path:
    """Write a graph of one operator from inputs of that shape to `y`."""
    names = [f"x{i}" for i in range(inputs)]
    ports = [helper.make_tensor_value_info(name, dtype, shape) for name in names]
    result = TensorProto.INT64 if operator == "ArgMax" else dtype
    made = helper.make_node(operator, names, ["y"])
    answer = [1, *shape[1:]] if operator == "ArgMax" else shape
    return save(path, [made], ports, [helper.make_tensor_value_info("y", result, answer)], {})


def convolution(path: Path, *, outlier: float = 1.0, stride: int = 1) -> Path:
    """Write a classifier with a convolution, [N, 3, 8, 8] -> [N, 5] logits, that int8 can spoil.

    outlier: how much larger one channel is than the others; a large one leaves int8 no digits for them.
    """
    random = np.random.default_rng(1)
    mixing = random.uniform(0.1, 1.0, (16, 3)).astype(np.float32)  # positive: ReLU changes nothing
    deciding = 20 * COLOURS @ np.linalg.pinv(mixing)
    kernels = np.zeros((17, 3, 3, 3), np.float32)
    kernels[:16, :, 1, 1] = mixing
    kernels[16] = outlier * np.float32(1 / 27)
    last = np.concatenate([deciding, np.zeros((5, 1))], axis=1).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "kernels"], ["c"], pads=[1, 1, 1, 1], strides=[stride, stride]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "last", "bias"], ["scores"], transB=1),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 5])]
    bias = -10 * (COLOURS**2).sum(1)
    return save(path, nodes, inputs, outputs, {"kernels": kernels, "last": last, "bias": bias})


def branches(path: Path) -> Path:
    """Write a classifier with weights only inside the branches of an `If`, and a second output."""
    values = {"weights": 20 * COLOURS.T, "bias": -10 * (COLOURS**2).sum(1), "limit": np.array(0.5, np.float32)}
    answer = helper.make_tensor_value_info("chosen", TensorProto.FLOAT, ["N", 5])
    gemm = helper.make_node("Gemm", ["colour", "weights", "bias"], ["chosen"])
    inside = [helper.make_graph([gemm], name, [], [answer]) for name in ("bright", "dark")]
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["colour"], axes=[2, 3], keepdims=0),
        helper.make_node("ReduceMean", ["colour"], ["mean"], keepdims=0),
        helper.make_node("Greater", ["mean", "limit"], ["is_bright"]),
        helper.make_node("If", ["is_bright"], ["scores"], then_branch=inside[0], else_branch=inside[1]),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])]
    outputs = [helper.make_tensor_value_info("colour", TensorProto.FLOAT, ["N", 3])]
    outputs += [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 5])]
    return save(path, nodes, inputs, outputs, values)


def reshaping(path: Path, *, batch: int | str, shape: tuple[int, ...]) -> Path:
    """Write a classifier with a `Reshape` to a fixed shape."""
    values = {"weights": 20 * COLOURS.T, "bias": -10 * (COLOURS**2).sum(1), "shape": np.array(shape, np.int64)}
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        helper.make_node("Reshape", ["mean", "shape"], ["colour"]),
        helper.make_node("Gemm", ["colour", "weights", "bias"], ["scores"]),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 8, 8])]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 5])]
    return save(path, nodes, inputs, outputs, values)


def training(path: Path, operator: str) -> Path:
    """Write a classifier exported in training mode, with `BatchNormalization` or `Dropout` in training form."""
    values: dict[str, NDArray[Any]] = {"weights": 20 * COLOURS.T, "bias": -10 * (COLOURS**2).sum(1)}
    if operator == "Dropout":
        values |= {"ratio": np.array(0.5, np.float32), "on": np.array(True)}
        node = helper.make_node("Dropout", ["image", "ratio", "on"], ["changed"])
    else:
        values |= {name: np.ones(3, np.float32) for name in ("scale", "shift", "mean", "var")}
        outputs = ["changed", "new_mean", "new_var"]
        node = helper.make_node(
            "BatchNormalization", ["image", "scale", "shift", "mean", "var"], outputs, training_mode=1
        )
    nodes = [
        node,
        helper.make_node("ReduceMean", ["changed"], ["colour"], axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["colour", "weights", "bias"], ["scores"]),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])]
    return save(path, nodes, inputs, [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 5])], values)


def two_layers(path: Path, *, bias_shape: tuple[int, ...] = (5,), dtype: Any = np.float32) -> Path:
    """Write a convolution, then MatMul and Add with a bias of that shape, in that floating type."""
    made = onnx.load(convolution(path))
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    values["last"] = values["last"].T
    if int(np.prod(bias_shape)) == 1:
        values["last"], values["bias"] = values["last"] + 0, np.zeros(1)
    nodes = [
        *list(made.graph.node)[:4],
        helper.make_node("MatMul", ["f", "last"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["scores"]),
    ]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inputs = [helper.make_tensor_value_info("image", kind, ["N", 3, 8, 8])]
    outputs = [helper.make_tensor_value_info("scores", kind, ["N", 5])]
    values["bias"] = values["bias"].reshape(bias_shape)
    return save(path, nodes, inputs, outputs, {name: value.astype(dtype) for name, value in values.items()})


def quantised(path: Path) -> Path:
    """Write a classifier with quantised activations and float weights."""
    values = {"weights": 20 * COLOURS.T, "bias": -10 * (COLOURS**2).sum(1)}
    values |= {"scale": np.array(1 / 255, np.float32), "zero": np.array(0, np.uint8)}
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["colour"], axes=[2, 3], keepdims=0),
        helper.make_node("QuantizeLinear", ["colour", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("Gemm", ["d", "weights", "bias"], ["scores"]),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])]
    return save(path, nodes, inputs, [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 5])], values)


GRAPHS: dict[str, Callable[[Path], Path]] = {
    "branches": branches,
    "reshaping": partial(reshaping, batch="N", shape=(1, 3)),
    "reshaping four": partial(reshaping, batch=4, shape=(4, -1)),
    "training": partial(training, operator="Dropout"),
    "two layers": partial(two_layers, bias_shape=(1, 5)),
    "quantised": quantised,
}
"""Graphs of one form each, by name."""


def labels_file(path: Path = Path("labels.txt"), labels: tuple[str, ...] = LABELS) -> Path:
    """Write one label per line."""
    path.write_text("\n".join(labels) + "\n")
    return path
