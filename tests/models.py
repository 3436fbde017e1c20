"""Model files that the tests make: real ONNX graphs, small enough to write on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lambda_src.metadata import Metadata, Preprocess

LABELS = ("red", "green", "blue", "white", "black")
# Logits of each class from the mean of R, G and B in 0..1: the nearest colour wins.
_COLOURS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]], np.float32)


def mean_colour(path: Path, *, name: str = "tiny", size: int = 8, **preprocess: Any) -> Path:
    """Write a classifier that names the colour nearest to the picture's mean, [N, 3, size, size] float32 -> [N, 5] logits."""
    spec = Preprocess(size, (size, size), **preprocess)
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


def write(path: Path, nodes: list[Any], initializers: list[Any], shape: list[Any], metadata: Metadata | None) -> Path:
    """Write a graph from `image` (float32, of that shape) to `logits`, with or without mlinfer's metadata."""
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", None])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if metadata:
        helper.set_model_props(model, metadata.to_props())
    onnx.save(model, path)
    return path


def tiny_metadata() -> Metadata:
    """Return what a model of five colours says of itself."""
    return Metadata("tiny", LABELS, Preprocess(8, (8, 8)), "logits", {"made by": "the tests"})
