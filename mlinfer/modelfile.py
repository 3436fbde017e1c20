"""Read what an ONNX file says of itself without loading its weights, whatever its size.

Only the outer fields of ModelProto are read; the graph, which holds the weights, is skipped by its length.
Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto (ModelProto, OperatorSetIdProto,
StringStringEntryProto); encoding: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from lambda_src.errors import FaultError
from lambda_src.metadata import Metadata
from lambda_src.source import sha256_of

from .errors import MissingError, UsageError

_IR_VERSION, _PRODUCER, _GRAPH, _OPSET_IMPORT, _METADATA_PROPS = 1, 2, 7, 8, 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class ModelFile:
    """An ONNX model file. opset: of the default operator domain. bytes: its size. metadata: None without mlinfer's."""

    path: Path
    bytes: int
    sha256: str
    ir_version: int
    opset: int
    metadata: Metadata | None


@dataclass(frozen=True)
class Port:
    """One input or output: shape has names or None where a dimension is free."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


def read_model_file(path: Path) -> ModelFile:
    """Read the file's own description and hash. Raises MissingError, UsageError."""
    try:
        with path.open("rb") as file:
            fields = list(_fields(file, skip=_GRAPH))
        size, sha256 = path.stat().st_size, sha256_of(path)
    except FileNotFoundError as error:
        raise MissingError("model_not_found", f"there is no model file {path}") from error
    except OSError as error:
        raise UsageError("model_unreadable", f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError("invalid_model", f"{path} is not an ONNX file: {error}") from error
    found = {number for number, _ in fields}
    if not {_IR_VERSION, _GRAPH, _OPSET_IMPORT} <= found:
        raise UsageError("invalid_model", f"{path} is not an ONNX file: it has no graph")
    versions = [dict(_fields_of(value)) for number, value in fields if number == _OPSET_IMPORT]
    opset = next((int(v.get(2, 0)) for v in versions if v.get(1, b"") in (b"", b"ai.onnx")), 0)
    entries = [dict(_fields_of(value)) for number, value in fields if number == _METADATA_PROPS]
    props = {entry.get(1, b"").decode(): entry.get(2, b"").decode() for entry in entries}
    try:
        metadata = Metadata.from_props(props) if "mlinfer.schema" in props else None
    except FaultError as error:
        raise UsageError("invalid_metadata", f"{path}: {error}") from error
    ir_version = next(int(value) for number, value in fields if number == _IR_VERSION)
    return ModelFile(path, size, sha256, ir_version, opset, metadata)


def read_ports(path: Path) -> tuple[list[Port], list[Port]]:
    """Return the inputs and outputs as onnxruntime sees them, which loads the model. Raises UsageError."""
    from lambda_src.model import open_session

    try:
        session = open_session(path, threads=1)
    except FaultError as error:
        raise UsageError("unusable_model", str(error)) from error

    def ports(nodes: list[Any]) -> list[Port]:
        return [Port(n.name, n.type.removeprefix("tensor(").removesuffix(")"), tuple(n.shape)) for n in nodes]

    return ports(session.get_inputs()), ports(session.get_outputs())


def describe(file: ModelFile, inputs: list[Port], outputs: list[Port]) -> dict[str, Any]:
    """Return all that is known of the file, ready for JSON."""
    facts: dict[str, Any] = {"file": str(file.path), "bytes": file.bytes, "sha256": file.sha256}
    facts |= {"ir_version": file.ir_version, "opset": file.opset}
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
    """Return one fact as a line or a few for people."""
    if isinstance(value, dict):
        return "\n".join(f"{name.replace('_', ' ')}: {in_words(v)}" for name, v in value.items())
    if isinstance(value, list | tuple) and value and isinstance(value[0], dict):
        return "\n".join(f"{p['name']}: {p['dtype']} {in_words(p['shape'])}" for p in value)
    if isinstance(value, list | tuple):
        return " x ".join("?" if v is None else str(v) for v in value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _fields_of(message: Any) -> Iterator[tuple[int, Any]]:
    if not isinstance(message, bytes):
        raise ValueError("a field has the wrong type")
    return _fields(io.BytesIO(message))


def _fields(file: BinaryIO, skip: int = 0) -> Iterator[tuple[int, Any]]:
    """Yield (field number, int or bytes) of a message; the content of field `skip` is passed over. Raises ValueError."""
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    while file.tell() < end:
        key = _varint(file)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            yield number, _varint(file)
            continue
        length = {_FIXED64: 8, _FIXED32: 4}.get(wire, -1) if wire != _BYTES else _varint(file)
        if not 0 <= length <= end - file.tell():
            raise ValueError("it is cut off, or no protocol buffer")
        if number == skip:
            file.seek(length, os.SEEK_CUR)
            yield number, b""
        else:
            yield number, file.read(length)


def _varint(file: BinaryIO) -> int:
    value = shift = 0
    while shift < 64:
        byte = file.read(1)
        if not byte:
            raise ValueError("it is cut off")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
        shift += 7
    raise ValueError("it is no protocol buffer")
