"""Read the metadata and structure of an ONNX file without loading its weights.

The file is read field by field, and nodes and weights are skipped by their length. Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lambda_src.errors import FaultError
from lambda_src.inference.download import sha256_of
from lambda_src.inference.metadata import Metadata

from ..errors import MissingError, MlinferError, UsageError, VerificationError
from .arithmetic import steps_in_words
from .formats import Format, recognise, recognise_folder
from .protobuf import Message, Span
from .runtime import IMAGE_ONNXRUNTIME, ONE_MACHINE, refusal
from .schema1 import converted, is_old

# Field numbers of ModelProto, GraphProto, NodeProto, TensorProto and ValueInfoProto.
_IR_VERSION, GRAPH, _OPSET_IMPORT, _METADATA_PROPS = 1, 7, 8, 14
INITIALIZER, _INPUT, _OUTPUT = 5, 11, 12
_NODE, _NODE_DOMAIN = 1, 7
_DATA_LOCATION, _TENSOR_NAME, RAW_DATA, _VALUE_NAME, _VALUE_TYPE = 14, 8, 9, 1, 2

# TensorProto.DataType, with onnxruntime's names
_DTYPES = {1: "float", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool"}
_DTYPES |= {10: "float16", 11: "double", 12: "uint32", 13: "uint64", 16: "bfloat16"}


@dataclass(frozen=True)
class ModelFile:
    """An ONNX model file. opset: of the default operator domain. bytes: its size. metadata: None without mlinfer metadata.

    one_machine: onnxruntime optimized it for the vector width of one processor. weights_outside: it has weights in other
    files.
    """

    path: Path
    bytes: int
    sha256: str
    ir_version: int
    opset: int
    metadata: Metadata | None
    one_machine: bool = False
    weights_outside: bool = False


@dataclass(frozen=True)
class Port:
    """An input or output. shape: a free dimension is a name or None."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


def read_model_file(path: Path, *, old: bool = False) -> ModelFile:
    """Read the metadata and the hash of a model file. Raises MissingError, UsageError.

    old: convert the metadata of schema 1 instead of refusing it. The input of such a file is not pixels.
    """
    with opened(path) as message:
        ir_version = message.number(_IR_VERSION)
        opsets = [(m.text(1), m.number(2)) for m in message.messages(_OPSET_IMPORT)]
        opset = next((version for domain, version in opsets if domain in ("", "ai.onnx")), 0)
        one_machine = any(domain == ONE_MACHINE for domain, _ in opsets) and _has_node_of(message, ONE_MACHINE)
        weights_outside = any(
            tensor.number(_DATA_LOCATION) == 1
            for graph in message.messages(GRAPH)
            for tensor in graph.messages(INITIALIZER)
        )
        props = {m.text(1): m.text(2) for m in message.messages(_METADATA_PROPS)}
    try:
        if is_old(props):
            if not old:
                raise old_schema(path)
            props = converted(props)
        metadata = Metadata.from_props(props) if "mlinfer.schema" in props else None
    except FaultError as error:
        raise UsageError("invalid_metadata", f"model file {path} has invalid metadata", reason=error) from error
    size, sha256 = path.stat().st_size, sha256_of(path)
    return ModelFile(path, size, sha256, ir_version, opset, metadata, one_machine, weights_outside)


def require_metadata(file: ModelFile) -> Metadata:
    """Return the metadata. Raises UsageError or VerificationError if the file cannot be used for predictions."""
    if file.one_machine:
        raise one_machine_only(file.path)
    if file.weights_outside:
        hint = f"Combine them with `mlinfer export {file.path} --out {file.path.stem}-whole.onnx`."
        raise UsageError("weights_outside", f"model file {file.path} has weights in other files", hint)
    if file.metadata is None:
        message = f"model file {file.path} has no labels or preprocessing metadata"
        hint = f"Add them with `mlinfer export {file.path} --labels FILE --preprocess imagenet|none|JSON`."
        raise UsageError("no_metadata", message, hint)
    return file.metadata


def image_refusal(file: ModelFile) -> str:
    """Return why the container image cannot run the file, "" if it can."""
    if file.one_machine:
        return "it is optimized for the vector width of one processor"
    return refusal(file.ir_version, file.opset)


def one_machine_only(path: Path) -> VerificationError:
    """Return the error for a graph that only processors with one vector width can run."""
    message = (
        f"onnxruntime optimized model file {path} for the vector width of one processor "
        f"(it has operators of {ONE_MACHINE})"
    )
    hint = "Use the original model, or optimize it with `ORT_ENABLE_EXTENDED` or less."
    return VerificationError("one_machine_only", message, hint)


def read_ports(path: Path) -> tuple[list[Port], list[Port]]:
    """Return the graph's inputs (without weights) and outputs. Raises MissingError, UsageError."""
    with opened(path) as message:
        graph = next(message.messages(GRAPH))
        weights = {tensor.text(_TENSOR_NAME) for tensor in graph.messages(INITIALIZER)}
        inputs = [_port(value) for value in graph.messages(_INPUT) if value.text(_VALUE_NAME) not in weights]
        return inputs, [_port(value) for value in graph.messages(_OUTPUT)]


def describe(file: ModelFile, inputs: list[Port], outputs: list[Port]) -> dict[str, Any]:
    """Return all facts about the file, ready for JSON."""
    reason = image_refusal(file)
    facts: dict[str, Any] = {"file": str(file.path), "bytes": file.bytes, "sha256": file.sha256}
    facts |= {"ir_version": file.ir_version, "opset": file.opset}
    facts |= {
        "image": {"onnxruntime": IMAGE_ONNXRUNTIME, "takes_it": not reason} | ({"reason": reason} if reason else {})
    }
    facts |= {"inputs": [asdict(port) for port in inputs], "outputs": [asdict(port) for port in outputs]}
    if file.metadata is None:
        return facts
    labels = file.metadata.labels
    return {
        "name": file.metadata.name,
        **facts,
        "output": file.metadata.output,
        "preprocess": asdict(file.metadata.preprocess),
        "labels": {"count": len(labels), "first": labels[0], "last": labels[-1]},
        "provenance": file.metadata.provenance,
    }


def in_words(value: Any) -> str:
    """Return one fact as readable text of one or more lines."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict) and set(value) == {"name", "dtype", "shape"}:
        return f"{value['name']}: {value['dtype']} {in_words(value['shape'])}"
    if isinstance(value, dict):
        return "\n".join(_entry(name.replace("_", " "), v) for name, v in value.items() if v is not None)
    if isinstance(value, list | tuple) and any(isinstance(v, dict) for v in value):
        return "\n".join(in_words(v) for v in value)
    if isinstance(value, list | tuple):
        return " x ".join("?" if v is None else str(v) for v in value)
    return f"{value:,}" if isinstance(value, int) else str(value).replace("\n", "\\x0a")


def _entry(name: str, value: Any) -> str:
    if name == "fill" and isinstance(value, list | tuple):
        return f"{name}: {', '.join(map(str, value))}"
    if name == "arithmetic":
        return f"{name}: {steps_in_words(value)}"
    if not isinstance(value, dict):
        return f"{name}: {in_words(value)}"
    return f"{name}:\n" + "\n".join(f"  {line}" for line in in_words(value).splitlines())


@contextmanager
def opened(path: Path) -> Iterator[Message]:
    """Open an ONNX file as a protobuf message. Raises MissingError, UsageError."""
    try:
        with path.open("rb") as file:
            model = Message(file, Span(0, file.seek(0, os.SEEK_END)))
            if not all(model.has(field) for field in (_IR_VERSION, GRAPH, _OPSET_IMPORT)):
                raise ValueError("it has no graph")
            yield model
    except FileNotFoundError as error:
        raise MissingError("model_not_found", f"model file {path} does not exist") from error
    except IsADirectoryError as error:
        raise not_a_model(path, recognise_folder(path)) from error
    except OSError as error:
        raise UsageError("model_unreadable", f"cannot read model file {path}", reason=error.strerror) from error
    except ValueError as error:
        if found := recognise(path):
            raise not_a_model(path, found) from error
        raise UsageError(
            "invalid_model", f"model file {path} is not valid ONNX", "Export the model again.", reason=error
        ) from error


def is_onnx(path: Path) -> bool:
    """Tell whether the file is a readable ONNX model."""
    try:
        with opened(path):
            return True
    except MlinferError:
        return False


def has_old_schema(path: Path) -> bool:
    """Tell whether the file is a model file of schema 1. Raises MissingError, UsageError."""
    with opened(path) as message:
        return is_old({m.text(1): m.text(2) for m in message.messages(_METADATA_PROPS)})


def old_schema(path: Path) -> UsageError:
    """Return the error for a model file of schema 1."""
    message = f"model file {path} was written by mlinfer 0.1 (metadata schema 1), but this version reads schema 2"
    return UsageError("old_schema", message, f"Upgrade it with `mlinfer export {path}`.")


def is_ours(path: Path) -> bool:
    """Tell whether mlinfer created the model file, with any metadata schema."""
    try:
        with opened(path) as message:
            return any(entry.text(1) == "mlinfer.schema" for entry in message.messages(_METADATA_PROPS))
    except (MlinferError, ValueError):
        return False


def not_a_model(path: Path, found: Format) -> UsageError:
    """Return the error for a file that is in a known format other than ONNX."""
    return UsageError("invalid_model", f"{path} is {found.name}", found.next_step.replace("{path}", str(path)))


def _port(value: Message) -> Port:
    """Read a ValueInfoProto: name, TypeProto.Tensor (elem_type 1, shape 2), its dimensions (value 1, name 2)."""
    tensor = next((t for kind in value.messages(_VALUE_TYPE) for t in kind.messages(1)), None)
    if tensor is None:
        return Port(value.text(_VALUE_NAME), "not a tensor", ())
    dimensions = [d for shape in tensor.messages(2) for d in shape.messages(1)]
    shape = tuple(_size(d) if d.has(1) else d.text(2) or None for d in dimensions)
    return Port(value.text(_VALUE_NAME), _DTYPES.get(tensor.number(1), "unknown"), shape)


def _has_node_of(model: Message, domain: str) -> bool:
    return any(node.text(_NODE_DOMAIN) == domain for graph in model.messages(GRAPH) for node in graph.messages(_NODE))


def _size(dimension: Message) -> int | None:
    """Return the length of a dimension, None for a negative one: some exporters write it for a free dimension."""
    size = dimension.number(1)
    return size if size < 2**63 else None  # an int64 that was read as unsigned
