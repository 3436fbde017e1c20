"""Make a model take pixels: nodes at the start of the graph turn bytes into the tensor that the network reads.

The nodes are `Transpose` on the bytes, then `Cast`, `Div`, `Sub` and `Div` in float32, in the order of torchvision's
`ToTensor` and `Normalize`, so that the tensor is the same bit for bit. A product with the inverse would differ in half of
the 256 values. They are added last, after a conversion or a quantization of the network, and removed first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lambda_src.images.preprocess import Preprocess
from lambda_src.inference.metadata import Metadata

from ..errors import MissingError, VerificationError
from .arithmetic import Step, dtype_of, layout_of
from .graph import write_model_file
from .nodes import model_nodes, subgraphs

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto

PIXELS = "pixels"
_OPERATORS = {"divide": "Div", "subtract": "Sub"}


def to_tensor(pixels: NDArray[np.uint8], steps: Sequence[Step]) -> NDArray[Any]:
    """Return what the steps make of pixels, [N, H, W, C]. It is the reference for the nodes."""
    tensor: NDArray[Any] = pixels
    planes = False
    for step in steps:
        ((name, value),) = step.items()
        if name == "layout":
            tensor, planes = tensor.transpose(0, 3, 1, 2), True
        elif name == "channels":
            tensor = np.flip(tensor, 1 if planes else 3)
        elif name == "dtype":
            tensor = tensor.astype(value)
        else:
            numbers = _numbers(value, planes)
            tensor = tensor / numbers if name == "divide" else tensor - numbers
    return np.ascontiguousarray(tensor)


def write_pixel_model(model: ModelProto, metadata: Metadata, path: Path, *, folder: Path = Path()) -> None:
    """Write a network with nodes that take pixels, and with its metadata. It changes `model`.

    folder: the directory of the files that the model refers to. Raises OSError.
    """
    add_pixel_input(model, metadata.preprocess)
    write_model_file(model, metadata, path, folder=folder)


def write_network(model: ModelProto, metadata: Metadata, path: Path, *, folder: Path = Path()) -> Path:
    """Write the network of a model file, without the nodes for its pixels, and return its path. It changes `model`.

    folder: the directory of the files that the model refers to. Raises MissingError, VerificationError.
    """
    remove_pixel_input(model, metadata.preprocess)
    try:
        write_model_file(model, metadata, path, folder=folder)
    except OSError as error:
        raise MissingError("cannot_write", f"cannot write {path}: {error.strerror}") from error
    return path


def add_pixel_input(model: ModelProto, spec: Preprocess) -> None:
    """Add the nodes before the network, which has one input, and make uint8 [N, H, W, C] the input of the graph."""
    graph = model.graph
    value = _only_input(model)
    tensor = value.name
    pixels = tensor if not spec.arithmetic else _free_name(model)
    nodes = list(_nodes(spec.arithmetic, pixels, tensor))
    _set_input(value, pixels, (*spec.size, spec.channels), "uint8")
    network = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *network])


def remove_pixel_input(model: ModelProto, spec: Preprocess) -> None:
    """Undo `add_pixel_input`. Raises VerificationError if the first nodes are not those of the arithmetic."""
    graph = model.graph
    try:
        value = _only_input(model)
        count = len(list(_nodes(spec.arithmetic, "", "")))
        tensor = graph.node[count - 1].output[0] if count else value.name
        same = list(graph.node[:count]) == list(_nodes(spec.arithmetic, value.name, tensor))
    except (ValueError, IndexError, KeyError, TypeError, AttributeError):  # damaged metadata, or no such node
        same = False
    if not same or len(value.type.tensor_type.shape.dim) != 4:
        message = "the model does not start with the arithmetic in its metadata"
        raise VerificationError("invalid_model", message, "Export the original model again.")
    del graph.node[:count]
    height, width, channels = *spec.size, spec.channels
    planes = layout_of(spec.arithmetic) == "NCHW"
    shape = (channels, height, width) if planes else (height, width, channels)
    _set_input(value, tensor, shape, dtype_of(spec.arithmetic))


def _nodes(steps: Sequence[Step], pixels: str, tensor: str) -> Iterator[NodeProto]:
    """Yield the nodes of the steps from the tensor `pixels` to `tensor`.

    The constants are nodes, as weights would also have to be inputs of a model with IR version 3.
    """
    from onnx import TensorProto, helper, numpy_helper

    planes, name = False, pixels
    for i, step in enumerate(steps):
        ((kind, value),) = step.items()
        after = tensor if i == len(steps) - 1 else f"{pixels}_{i}"
        constant = f"{pixels}_{i}_value"
        if kind == "layout":
            planes = True
            yield helper.make_node("Transpose", [name], [after], f"{pixels}/layout", perm=[0, 3, 1, 2])
        elif kind == "dtype":
            to = helper.np_dtype_to_tensor_dtype(np.dtype(value))
            rounded = after if value != "float16" else f"{after}_rounded"
            yield helper.make_node("Cast", [name], [rounded], f"{pixels}/{value}", to=to)
            if value == "float16":
                # It changes nothing, but without it, onnxruntime drops this Cast together with the Cast back to float32
                # that it adds before each operator without a float16 kernel, and the numbers would not be rounded.
                shape = helper.make_tensor(constant, TensorProto.INT64, [4], [0, 0, 0, 0])
                yield helper.make_node("Constant", [], [constant], value=shape)
                yield helper.make_node("Reshape", [rounded, constant], [after], f"{pixels}/rounded")
        elif kind == "channels":
            order = helper.make_tensor(constant, TensorProto.INT64, [3], [2, 1, 0])
            yield helper.make_node("Constant", [], [constant], value=order)
            yield helper.make_node("Gather", [name, constant], [after], f"{pixels}/{value}", axis=1 if planes else 3)
        else:
            numbers = numpy_helper.from_array(_numbers(value, planes), constant)
            yield helper.make_node("Constant", [], [constant], value=numbers)
            yield helper.make_node(_OPERATORS[kind], [name, constant], [after], f"{pixels}/{kind}_{i}")
        name = after


def _numbers(value: Any, planes: bool) -> NDArray[np.float32]:
    """Return the numbers of a step in float32, to be applied to each channel."""
    numbers = np.asarray(value, np.float32)
    return numbers[:, None, None] if numbers.ndim and planes else numbers


def _only_input(model: ModelProto) -> ValueInfoProto:
    weights = {tensor.name for tensor in model.graph.initializer}
    value: ValueInfoProto
    (value,) = [value for value in model.graph.input if value.name not in weights]
    return value


def _set_input(value: ValueInfoProto, name: str, shape: tuple[int, ...], dtype: str) -> None:
    """Change an input, but keep its first dimension."""
    from onnx import TensorShapeProto, helper

    batch = TensorShapeProto.Dimension()
    batch.CopyFrom(value.type.tensor_type.shape.dim[0])
    made = helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), [None, *shape])
    made.type.tensor_type.shape.dim[0].CopyFrom(batch)
    value.CopyFrom(made)


def _free_name(model: ModelProto) -> str:
    """Return a name for the input that no tensor of the model begins with."""
    graphs = [model.graph, *(graph for node in model_nodes(model) for graph in subgraphs(node))]
    taken = {name for node in model_nodes(model) for name in (*node.input, *node.output)}
    taken |= {item.name for graph in graphs for item in (*graph.input, *graph.output, *graph.initializer)}
    name = PIXELS
    while any(other.startswith(name) for other in taken):
        name = f"_{name}"
    return name
