"""Read and write ONNX models without loading their weights, so that a model of any size needs only a few megabytes.

Weights larger than a kilobyte stay in their files. The graph refers to each with ONNX's `external_data` (location,
offset, length). The location starts with `#`, which the ONNX checker skips, so that the graph can be checked and changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, BinaryIO

from lambda_src.inference.metadata import Metadata

from ..errors import MissingError, VerificationError
from .modelfile import GRAPH, INITIALIZER, RAW_DATA, opened
from .nodes import tensors
from .protobuf import Span, head

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

_KEPT_BYTES = 1024  # shapes, axes and scales, which shape inference needs, are smaller
_BLOCK_BYTES = 2**20


@dataclass(frozen=True)
class _Weight:
    """How to write a tensor: its fields, then its values, which are at `values` in the file `location`."""

    fields: bytes
    location: str
    values: Span

    @property
    def size(self) -> int:
        return len(self.fields) + self.values.size


def read_graph(path: Path) -> ModelProto:
    """Load a model without its weights. Raises MissingError, UsageError, VerificationError, protobuf's DecodeError."""
    from onnx import ModelProto, TensorProto
    from onnx.external_data_helper import load_external_data_for_model

    model, weights = ModelProto(), []
    with opened(path) as message:
        for graph in message.parse(model, apart=GRAPH):
            for tensor in graph.parse(model.graph, apart=INITIALIZER):
                weights.append(weight := TensorProto())
                inside = list(tensor.parse(weight, apart=RAW_DATA))
                if place := _place(weight):
                    _refer(weight, place["location"], _outside(path, place))
                elif inside and inside[-1].span.size > _KEPT_BYTES:
                    _refer(weight, path.name, inside[-1].span)
                elif inside:
                    weight.raw_data = inside[-1].content()
        for held in tensors(model):
            if place := _place(held):
                _outside(path, place)
        load_external_data_for_model(model, str(path.parent))  # the constants of nodes
    model.graph.initializer.extend(weights)
    return model


def weight_files(model: ModelProto) -> set[str]:
    """Return the names of the weight files of a model from `read_graph`."""
    places = [_place(tensor) for tensor in model.graph.initializer]
    return {place["location"].removeprefix("#") for place in places if place}


def written_bytes(model: ModelProto) -> int:
    """Return the size of the written model in bytes, without its metadata."""
    return int(model.ByteSize()) + sum(_weight(tensor).values.size for tensor in model.graph.initializer)


def write_model_file(model: ModelProto, metadata: Metadata, path: Path, *, folder: Path = Path()) -> None:
    """Write a model with its weights into one file, and replace mlinfer's metadata. Raises OSError.

    folder: the directory of the files that the model refers to.
    """
    import onnx

    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    kept = {p.key: p.value for p in model.metadata_props if not p.key.startswith("mlinfer.")}
    onnx.helper.set_model_props(bare, kept | metadata.to_props())
    weights = [_weight(tensor) for tensor in model.graph.initializer]
    del bare.graph.initializer[:]
    graph = bare.graph.SerializeToString()
    bare.ClearField("graph")
    size = len(graph) + sum(len(head(INITIALIZER, weight.size)) + weight.size for weight in weights)
    with path.open("wb") as file:
        file.write(bare.SerializeToString() + head(GRAPH, size) + graph)
        for weight in weights:
            file.write(head(INITIALIZER, weight.size) + weight.fields)
            if weight.location:
                _copy(folder / weight.location, weight.values, file)


def stamp(source: Path, metadata: Metadata, target: Path) -> None:
    """Copy a model file and replace its metadata. Raises OSError."""
    write_model_file(read_graph(source), metadata, target, folder=source.parent)


def _refer(tensor: TensorProto, location: str, values: Span) -> None:
    from onnx import TensorProto

    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in {"location": f"#{location}", "offset": values.start, "length": values.size}.items():
        tensor.external_data.add(key=key, value=str(value))


def _place(tensor: TensorProto) -> dict[str, str]:
    """Return the external location of the values, {} if the tensor contains them. Raises ValueError."""
    if tensor.data_location != tensor.EXTERNAL:
        return {}
    place = {entry.key: entry.value for entry in tensor.external_data}
    if "location" not in place:
        raise ValueError(f"weight {tensor.name} has no data")
    return place


def _outside(path: Path, place: Mapping[str, str]) -> Span:
    """Return where a weight is in another file. Raises MissingError, VerificationError, ValueError."""
    location = place["location"]
    file = path.parent / location
    # Two directories: Hugging Face's cache has symbolic links to the model and to its weights.
    own = {path.parent.resolve(), path.resolve().parent}
    inside = any(file.resolve().is_relative_to(folder) for folder in own)
    if PurePath(location).is_absolute() or ".." in PurePath(location).parts or not inside:
        raise VerificationError("invalid_model", f"{path} refers to weights outside its directory: {location}")
    if not file.is_file():
        hint = f"Copy {location} to the directory of {path.name}."
        raise MissingError("weights_missing", f"weights file {location} of {path} does not exist", hint)
    start, size = int(place.get("offset", "0")), file.stat().st_size
    length = int(place["length"]) if "length" in place else size - start
    if start < 0 or length < 0 or start + length > size:
        message = f"weights file {location} of {path} is truncated: it has {size:,} bytes, expected at least {start + length:,}"
        raise VerificationError("invalid_model", message, f"Download or export {location} again.")
    return Span(start, length)


def _weight(tensor: TensorProto) -> _Weight:
    from onnx import TensorProto

    place = _place(tensor)
    if not place:
        return _Weight(tensor.SerializeToString(), "", Span(0, 0))
    values = Span(int(place["offset"]), int(place["length"]))
    bare = TensorProto()
    bare.CopyFrom(tensor)
    bare.ClearField("data_location")
    bare.ClearField("external_data")
    fields: bytes = bare.SerializeToString() + head(RAW_DATA, values.size)
    return _Weight(fields, place["location"].removeprefix("#"), values)


def _copy(source: Path, values: Span, file: BinaryIO) -> None:
    with source.open("rb") as weights:
        weights.seek(values.start)
        left = values.size
        while block := weights.read(min(left, _BLOCK_BYTES)):
            file.write(block)
            left -= len(block)
