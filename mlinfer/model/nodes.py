"""Walk, check and change the nodes of an ONNX graph, including the subgraphs of `If` and `Loop`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import VerificationError
from .modelfile import one_machine_only
from .runtime import ONE_MACHINE

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

_BATCH_NORM_FLAG_OPSET = 14  # in older opsets, more than one output means training mode
QUANTISED = frozenset(
    ("QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "QGemm")
)
_FLOATS = (1, 10, 11, 16)  # TensorProto: FLOAT, FLOAT16, DOUBLE, BFLOAT16
_BYTES = (2, 3)  # UINT8, INT8
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")


def walk(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Yield each node and the nodes of its subgraphs."""
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from walk(graph.node)


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the direct subgraphs of a node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def model_nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Yield all nodes of a model, including those of its functions."""
    yield from walk(model.graph.node)
    for function in model.functions:
        yield from walk(function.node)


def tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yield all constants of a model: weights, sparse weights and the tensors of nodes."""
    graphs = [model.graph, *(graph for node in model_nodes(model) for graph in subgraphs(node))]
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    yield from held_tensors(model)


def held_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yield the tensors in attributes of nodes."""
    for node in model_nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in [attribute.sparse_tensor] * attribute.HasField("sparse_tensor") + [*attribute.sparse_tensors]:
                yield from (sparse.values, sparse.indices)


def check_nodes(path: Path, model: ModelProto) -> None:
    """Refuse a graph that only one machine can run or that is in training mode. Raises VerificationError."""
    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
    constants = _constants(model.graph)
    for node in model_nodes(model):
        if node.domain == ONE_MACHINE:
            raise one_machine_only(path)
        if _trains(node, opset, constants):
            message = f"model file {path} was exported in training mode (operator {node.op_type})"
            raise VerificationError("training_mode", message, "Call `model.eval()` and export the model again.")


def _trains(node: NodeProto, opset: int, constants: dict[str, TensorProto]) -> bool:
    from onnx import numpy_helper

    if node.op_type == "BatchNormalization":
        flag = next((attribute.i for attribute in node.attribute if attribute.name == "training_mode"), 0)
        return bool(flag) or (opset < _BATCH_NORM_FLAG_OPSET and sum(map(bool, node.output)) > 1)
    if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2] in constants:
        try:
            return bool(numpy_helper.to_array(constants[node.input[2]]).any())
        except (TypeError, ValueError):
            return False
    return False


def _constants(graph: GraphProto) -> dict[str, TensorProto]:
    """Return the tensors whose values are in the graph, by name."""
    found = {tensor.name: tensor for tensor in graph.initializer if tensor.data_location != tensor.EXTERNAL}
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            found.update((node.output[0], attribute.t) for attribute in node.attribute if attribute.name == "value")
    return found


def keep_output(graph: GraphProto, name: str) -> None:
    """Keep one output and remove other outputs, nodes and weights that it does not need."""
    needed = {name}
    for i in reversed(range(len(graph.node))):
        if needed.intersection(graph.node[i].output):
            needed.update(_reads(graph.node[i]))
        else:
            del graph.node[i]
    weights = {tensor.name for tensor in graph.initializer}
    _keep(graph.initializer, lambda tensor: tensor.name in needed)
    _keep(graph.sparse_initializer, lambda sparse: sparse.values.name in needed)
    _keep(graph.input, lambda value: value.name in needed or value.name not in weights)
    _keep(graph.output, lambda value: value.name == name)
    del graph.value_info[:]  # optional shapes
    del graph.quantization_annotation[:]


def _keep(items: Any, wanted: Any) -> None:
    for i in reversed(range(len(items))):
        if not wanted(items[i]):
            del items[i]


def _reads(node: NodeProto) -> Iterator[str]:
    """Yield every name that a node reads, including names that its subgraphs read from outside."""
    yield from node.input
    for graph in subgraphs(node):
        yield from (value.name for value in graph.output)
        for inner in graph.node:
            yield from _reads(inner)


def free_dimensions(graph: GraphProto) -> None:
    """Replace negative dimensions, which some exporters write for a free one, by ONNX's free dimensions."""
    for value in [*graph.input, *graph.output, *graph.value_info]:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.HasField("dim_value") and dimension.dim_value < 0:
                dimension.ClearField("dim_value")


def free_reshapes(graph: GraphProto, batch: int) -> None:
    """Change each `Reshape` that is fixed to this batch size so that it accepts any batch size."""
    from onnx import numpy_helper

    constants = _constants(graph)
    for node in graph.node:
        if node.op_type != "Reshape" or len(node.input) < 2 or node.input[1] not in constants:
            continue
        shape = numpy_helper.to_array(constants[node.input[1]]).astype(np.int64).reshape(-1)
        if not len(shape) or shape[0] <= 0 or shape[0] % batch or 0 in shape:
            continue
        if -1 not in shape:
            first = -1
        elif shape[0] == batch and not any(attribute.name == "allowzero" for attribute in node.attribute):
            first = 0  # the length of the input's dimension
        else:
            continue
        free = np.concatenate([[first], shape[1:]]).astype(np.int64)
        graph.initializer.append(numpy_helper.from_array(free, f"{node.output[0]}_free_shape"))
        node.input[1] = f"{node.output[0]}_free_shape"


def int8_share(model: ModelProto) -> float:
    """Return the share of weights that are 8-bit, in 0..1. It is 0 for a model without weights."""
    numbers = {
        kinds: sum(int(np.prod(tensor.dims)) for tensor in tensors(model) if tensor.data_type in kinds)
        for kinds in (_BYTES, _FLOATS)
    }
    return numbers[_BYTES] / max(1, sum(numbers.values()))


def is_quantised(model: ModelProto) -> bool:
    """Tell whether the graph has quantized operators."""
    return any(node.op_type in QUANTISED for node in model_nodes(model))


def to_float32(model: ModelProto) -> bool:
    """Convert all other floating types to float32, including inputs and outputs. Tell whether anything changed."""
    from onnx import TensorProto, numpy_helper

    changed = False
    others = _FLOATS[1:]
    for tensor in tensors(model):
        if tensor.data_type in others:
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), name))
            changed = True
    for graph in [model.graph, *(graph for node in model_nodes(model) for graph in subgraphs(node))]:
        for value in [*graph.input, *graph.output, *graph.value_info]:
            if value.type.tensor_type.elem_type in others:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
                changed = True
    for node in model_nodes(model):
        for attribute in node.attribute:
            if attribute.name in _TYPE_ATTRIBUTES and attribute.i in others:
                attribute.i = TensorProto.FLOAT
    return changed
