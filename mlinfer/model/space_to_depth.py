"""The first convolution of most networks, stride 2 over three channels, as one of stride 1 over twelve.

`SpaceToDepth` makes each square of 2 x 2 pixels one pixel of four times the channels, and the kernel is dealt out
likewise, with zeros where it does not fill squares: the same products are added. onnxruntime's int8 convolution gathers
its input channel by channel at each tap, and three channels are too few for that: of ResNet-18's int8 time the first
layer was 1.2 ms of 7.6, and is 0.8 so, with the rearrangement 0.1 (one thread, AVX512-VNNI). Float gains nothing: its
kernels have a case for this layer. Patches of stride 4 or 16, whose gain was less or none, stay as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lambda_src.images.preprocess import Preprocess

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, TensorProto

_BLOCK = 2
_DEFAULTS = {"strides": [1, 1], "dilations": [1, 1], "group": 1, "auto_pad": b"NOTSET"}
_FOLDABLE = _DEFAULTS | {"strides": [_BLOCK, _BLOCK]}


def fold_stem(path: Path, spec: Preprocess) -> None:
    """Rewrite a model file's first convolution, if it is one of these; the model answers the same."""
    import onnx

    model = onnx.load(path)
    graph = model.graph
    found = _stem(graph) if spec.layout == "NCHW" and spec.dtype == "float32" else None
    if found is None or any(size % _BLOCK for size in spec.crop):
        return
    conv, weight = found
    kernel = onnx.numpy_helper.to_array(weight)
    pads = _attributes(conv).get("pads", [0, 0, 0, 0])
    axes = [_fold_axis(*of) for of in zip(kernel.shape[2:], pads[:2], pads[2:], spec.crop, strict=True)]
    weight.CopyFrom(
        onnx.numpy_helper.from_array(_fold_kernel(kernel, pads[:2], [taps for taps, _, _ in axes]), weight.name)
    )
    folded = f"{conv.input[0]}_folded"
    for known in [value for value in graph.value_info if value.name == weight.name]:
        graph.value_info.remove(known)  # its shape was another
    rearrange = onnx.helper.make_node("SpaceToDepth", [conv.input[0]], [folded], folded, blocksize=_BLOCK)
    conv.input[0] = folded
    changed = {
        "kernel_shape": [taps for taps, _, _ in axes],
        "pads": [first for _, first, _ in axes] + [last for _, _, last in axes],
        "strides": [1, 1],
    }
    kept = [attribute for attribute in conv.attribute if attribute.name not in changed]
    del conv.attribute[:]
    conv.attribute.extend(kept + [onnx.helper.make_attribute(name, value) for name, value in changed.items()])
    graph.node.insert(0, rearrange)
    onnx.save(model, path)


def _stem(graph: GraphProto) -> tuple[NodeProto, TensorProto] | None:
    """Find the convolution of stride 2 on the graph's only input, and its weights, which nothing else uses."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    uses = [name for node in graph.node for name in node.input]
    for node in graph.node:
        if node.op_type != "Conv" or [node.input[0]] != [value.name for value in graph.input]:
            continue
        attributes = _DEFAULTS | {name: value for name, value in _attributes(node).items() if name in _DEFAULTS}
        if attributes == _FOLDABLE and node.input[1] in weights and uses.count(node.input[1]) == 1:
            return node, weights[node.input[1]]
    return None


def _attributes(node: NodeProto) -> dict[str, Any]:
    import onnx

    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _fold_axis(kernel: int, first: int, last: int, size: int) -> tuple[int, int, int]:
    """Return taps, first and last padding, in squares, of a kernel over that many pixels."""
    outputs = (size + first + last - kernel) // _BLOCK + 1
    taps = -(-(kernel + first % _BLOCK) // _BLOCK)
    before = -(-first // _BLOCK)
    return taps, before, outputs - 1 + taps - before - size // _BLOCK


def _fold_kernel(kernel: NDArray[Any], first: list[int], taps: list[int]) -> NDArray[Any]:
    """Deal the taps out to squares: [O, C, height, width] -> [O, 4 C, taps, taps]; channels as `SpaceToDepth` has them."""
    out, channels, height, width = kernel.shape
    top, left = (padding % _BLOCK for padding in first)  # a square begins that much before the kernel
    squares = np.zeros((out, channels, taps[0] * _BLOCK, taps[1] * _BLOCK), kernel.dtype)
    squares[:, :, top : top + height, left : left + width] = kernel
    dealt = squares.reshape(out, channels, taps[0], _BLOCK, taps[1], _BLOCK).transpose(0, 3, 5, 1, 2, 4)
    return np.ascontiguousarray(dealt.reshape(out, -1, *taps))
