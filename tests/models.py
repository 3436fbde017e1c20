"""Small real ONNX models for the tests."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lambda_src.images.preprocess import Preprocess
from lambda_src.inference.metadata import Metadata
from mlinfer.model.arithmetic import arithmetic, normalisation
from mlinfer.model.pixel_input import add_pixel_input, remove_pixel_input

LABELS = ("red", "green", "blue", "white", "black")
# Logits of each class from the mean of R, G and B in 0..1: the nearest colour wins.
_COLOURS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]], np.float32)


def mean_colour(path: Path, *, name: str = "tiny", size: int = 8, color: str = "RGB") -> Path:
    """Write a classifier of the image's mean colour, pixels [N, size, size, 3] -> [N, 5] logits."""
    spec = pre_processing(size, color)
    weights = 20 * _COLOURS.T
    bias = -10 * (_COLOURS**2).sum(1)
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["colour"]),
        helper.make_node("Gemm", ["colour", "weights", "bias"], ["logits"]),
    ]
    initializers = [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")]
    metadata = Metadata(name, LABELS, spec, "logits", {"made by": "the tests"})
    return write(path, nodes, initializers, ["N", 3, size, size], metadata)


def schema_1(path: Path, **preprocess: Any) -> Path:
    """Write the classifier of `mean_colour` as mlinfer 0.1 did: it takes a tensor, and the metadata says how to make it."""
    return describe_schema_1(undescribed(path, 8), **preprocess)


def describe_schema_1(path: Path, **preprocess: Any) -> Path:
    """Add the metadata of mlinfer 0.1 to a network."""
    model = onnx.load(path)
    fields = {"resize": 8, "crop": [8, 8], "interpolation": "bilinear", "mean": [0.0] * 3, "std": [1.0] * 3}
    fields |= {"color": "RGB", "layout": "NCHW", "dtype": "float32"} | preprocess
    props = {"schema": "1", "name": "tiny", "output": "logits", "labels": json.dumps(LABELS)}
    props |= {"preprocess": json.dumps(fields), "provenance": json.dumps({"made by": "mlinfer 0.1"})}
    helper.set_model_props(model, {f"mlinfer.{name}": value for name, value in props.items()})
    onnx.save(model, path)
    return path


def pre_processing(size: int = 8, color: str = "RGB") -> Preprocess:
    """Return the pre-processing of a network of square images, NCHW, with values in 0..1."""
    return Preprocess(size, (size, size), arithmetic=arithmetic(normalisation((0,) * 3, (1,) * 3), color=color))


def write(path: Path, nodes: list[Any], initializers: list[Any], shape: list[Any], metadata: Metadata | None) -> Path:
    """Write a graph from `image` (float32, of that shape) to `logits`; with metadata, a model file that takes pixels."""
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", None])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if metadata:
        add_pixel_input(model, metadata.preprocess)
        helper.set_model_props(model, metadata.to_props())
    onnx.save(model, path)
    return path


def undescribed(path: Path, size: int) -> Path:
    """Write the same classifier without metadata, as other tools export it."""
    described = onnx.load(mean_colour(path, size=size))
    del described.metadata_props[:]
    remove_pixel_input(described, pre_processing(size))
    onnx.save(described, path)
    return path


def slow(path: Path, steps: int = 10**9) -> Path:
    """Write a classifier that loads at once but needs minutes for an answer."""
    state = helper.make_tensor_value_info("state", TensorProto.FLOAT, [1])
    following = helper.make_tensor_value_info("following", TensorProto.FLOAT, [1])
    bools = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("going", "still")]
    count = helper.make_tensor_value_info("step", TensorProto.INT64, [])
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still"]),
            helper.make_node("Add", ["state", "state"], ["following"]),
        ],
        "body",
        [count, bools[0], state],
        [bools[1], following],
    )
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["colour"]),
        helper.make_node("ReduceSum", ["colour"], ["total"], keepdims=0),
        helper.make_node("Reshape", ["total", "one"], ["started"]),
        helper.make_node("Loop", ["steps", "", "started"], ["ended"], body=body),
        helper.make_node("Mul", ["ended", "zero"], ["nothing"]),
        helper.make_node("Gemm", ["colour", "weights", "nothing"], ["logits"]),
    ]
    initializers = [
        numpy_helper.from_array(20 * _COLOURS.T, "weights"),
        numpy_helper.from_array(np.array(steps, np.int64), "steps"),
        numpy_helper.from_array(np.array([1], np.int64), "one"),
        numpy_helper.from_array(np.zeros(1, np.float32), "zero"),
    ]
    metadata = Metadata("slow", LABELS, pre_processing(), "logits", {"made by": "the tests"})
    return write(path, nodes, initializers, ["N", 3, 8, 8], metadata)


def heavy(path: Path, megabytes: int, dtype: Any = np.float32) -> Path:
    """Write a classifier whose weights, all zero, need that much memory once loaded.

    With float16, which onnxruntime cannot multiply on a CPU, it needs four times the size of its file.
    """
    rows = megabytes * 2**20 // (np.dtype(dtype).itemsize * len(LABELS) * 64)
    weights = [
        numpy_helper.from_array(np.zeros((3, rows), dtype), "first"),
        numpy_helper.from_array(np.zeros((rows, 64 * len(LABELS)), dtype), "second"),
        numpy_helper.from_array(np.zeros((64 * len(LABELS), len(LABELS)), dtype), "third"),
    ]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["colour"]),
        helper.make_node("Cast", ["colour"], ["start"], to=kind),
        helper.make_node("MatMul", ["start", "first"], ["a"]),
        helper.make_node("MatMul", ["a", "second"], ["b"]),
        helper.make_node("MatMul", ["b", "third"], ["end"]),
        helper.make_node("Cast", ["end"], ["logits"], to=TensorProto.FLOAT),
    ]
    metadata = Metadata("heavy", LABELS, pre_processing(), "logits", {"made by": "the tests"})
    return write(path, nodes, weights, ["N", 3, 8, 8], metadata)


def sparse(path: Path, megabytes: int) -> Path:
    """Write a sparse model file of that size: its rest is one unknown field of zeros."""
    mean_colour(path)
    rest = megabytes * 2**20 - path.stat().st_size - 7
    length = bytes([*(rest >> shift & 127 | 128 for shift in (0, 7, 14, 21)), rest >> 28])
    with path.open("ab") as file:
        file.write(b"\x82\x7d" + length)  # field 2000, of bytes
        file.truncate(megabytes * 2**20)
    return path


def tiny_metadata() -> Metadata:
    """Return the metadata of a model with five colours."""
    return Metadata("tiny", LABELS, pre_processing(), "logits", {"made by": "the tests"})


def large_model(path: Path, size: int, *, sparse: bool = False) -> Path:
    """Write a model file of nearly `size` bytes: a graph of one weight, noise or a hole in the file, and the metadata."""
    metadata = Metadata("large", ("a", "b"), pre_processing(), "logits")
    entries = [_field(14, _field(1, k.encode()) + _field(2, v.encode())) for k, v in metadata.to_props().items()]
    with path.open("wb") as file:
        tensor = _field(8, b"w") + b"\x10\x02" + _varint(9 << 3 | 2) + _varint(size)
        graph = _varint(5 << 3 | 2) + _varint(len(tensor) + size) + tensor
        head = b"\x08\x08" + _field(8, b"\x10\x11") + b"".join(entries)
        file.write(head + _varint(7 << 3 | 2) + _varint(len(graph) + size) + graph)
        if sparse:
            file.truncate(file.tell() + size)
        else:
            file.write(random.Random(0).randbytes(size))
    return path


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + _varint(value >> 7)


def in_float(quantised: Path, path: Path) -> Path:
    """Write a quantised model with float32 weights and without the rounding of its activations."""
    model = onnx.load(quantised)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in values:
            whole, scale, zero = (values[name] for name in node.input)
            shape = (-1, *(1 for _ in whole.shape[1:])) if scale.ndim else ()
            weight = (whole.astype(np.float32) - zero.astype(np.float32).reshape(shape)) * scale.reshape(shape)
            model.graph.initializer.append(numpy_helper.from_array(weight, node.output[0]))
        elif node.op_type == "QuantizeLinear":  # from zero up, it is also the activation
            lowest = values[node.input[2]] == np.iinfo(values[node.input[2]].dtype).min
            nodes.append(helper.make_node("Relu" if lowest else "Identity", node.input[:1], node.output))
        elif node.op_type == "DequantizeLinear":
            nodes.append(helper.make_node("Identity", node.input[:1], node.output))
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    for field, entries in (("node", nodes), ("initializer", kept), ("value_info", [])):
        model.graph.ClearField(field)
        getattr(model.graph, field).extend(entries)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path
