"""Recognize files that are not ONNX models by their content, and say what to do with them.

Nothing in the file is executed: only its first bytes, the names in a ZIP archive and the names in a pickle are read.
"""

from __future__ import annotations

import json
import pickletools
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_HEAD_BYTES = 1024
_PICKLE_BYTES = 2**20  # read from a pickle, where the class of the object comes first
# torch.save before 1.6: pickles of a magic number, a protocol version, sizes, and then the object
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_TENSOR_CLASSES = ("collections", "torch", "torch._utils", "torch._tensor")  # modules of the classes in a state dict
_ONNX_EXPORT = "torch.onnx.export(model.eval(), (example,), FILE.onnx, dynamo=True)"
_FROM_TENSORFLOW = "Convert it to ONNX with `pip install tf2onnx`, then `python -m tf2onnx.convert "


@dataclass(frozen=True)
class Format:
    """The format of a file. name: completes "FILE is ...". next_step: how to get a model from it."""

    name: str
    next_step: str


STATE_DICT = Format(
    "a PyTorch state dict (weights without a network)",
    "Add the architecture: `mlinfer export ARCH --weights {path} --labels FILE`.",
)
SAFETENSORS = Format(
    "a safetensors file (weights without a network)",
    "Add the architecture: `mlinfer export ARCH --weights {path} --labels FILE`.",
)
TORCHSCRIPT = Format(
    "a TorchScript model",
    f"Export the original module with `{_ONNX_EXPORT}`, or save its weights with `torch.save(model.state_dict(), FILE)`.",
)
MODULE = Format(
    "a pickled PyTorch module (loading it would run its code)",
    f"In its own project, export it with `{_ONNX_EXPORT}`, or save its weights with `torch.save(model.state_dict(), FILE)`.",
)
_MAGIC: tuple[tuple[int, bytes, Format], ...] = (
    (
        0,
        b"\x89HDF\r\n\x1a\n",
        Format("a Keras HDF5 file", "Convert it to ONNX with `tf2onnx.convert.from_keras` (`pip install tf2onnx`)."),
    ),
    (4, b"TFL3", Format("a TensorFlow Lite model", f"{_FROM_TENSORFLOW}--tflite {{path}} --output model.onnx`.")),
    (4, b"ORTM", Format("in onnxruntime's ORT format", "Use the .onnx file that it was created from.")),
    (
        0,
        b"version https://git-lfs.github.com/spec/",
        Format("a Git LFS pointer instead of a model", "Download the model with `git lfs pull`."),
    ),
    (0, b"GGUF", Format("a GGUF language model", "Use an image classifier in an .onnx file.")),
    (0, b"\x1f\x8b", Format("a gzip archive", "Unpack it and use the .onnx file inside.")),
    (0, b"BZh", Format("a bzip2 archive", "Unpack it and use the .onnx file inside.")),
    (0, b"\xfd7zXZ\0", Format("an xz archive", "Unpack it and use the .onnx file inside.")),
    (0, b"\x28\xb5\x2f\xfd", Format("a zstd archive", "Unpack it and use the .onnx file inside.")),
    (0, b"7z\xbc\xaf\x27\x1c", Format("a 7z archive", "Unpack it and use the .onnx file inside.")),
    (257, b"ustar", Format("a tar archive", "Unpack it and use the .onnx file inside.")),
    (
        0,
        b"\xff\xd8\xff",
        Format("a JPEG image", "Use a model file here, and classify the image with `mlinfer predict`."),
    ),
    (0, b"\x89PNG", Format("a PNG image", "Use a model file here, and classify the image with `mlinfer predict`.")),
    (0, b"ptrt", Format("a TensorRT engine for one GPU", "Use the .onnx file that it was created from.")),
    (0, b"\x93NUMPY", Format("a NumPy array", "Use the .onnx file of the model.")),
)
# Formats that only the suffix identifies
_SUFFIXES = {
    ".pb": Format(
        "a TensorFlow graph",
        f"{_FROM_TENSORFLOW}--graphdef {{path}} --inputs INPUT:0 --outputs OUTPUT:0 --output model.onnx`.",
    ),
    ".mlmodel": Format("a Core ML model", f"Export the original model to ONNX, for example with `{_ONNX_EXPORT}`."),
    ".pdmodel": Format("a Paddle model", "Convert it to ONNX with paddle2onnx (`pip install paddle2onnx`)."),
    ".caffemodel": Format("a Caffe model", "Convert it to ONNX first."),
}
_TEXTS = (
    ("<!doctype html", "an HTML page instead of a model"),
    ("<html", "an HTML page instead of a model"),
    ("<?xml", "an XML document instead of a model"),
    ("<error", "an XML document instead of a model"),
    ("{", "a JSON document instead of a model"),
    ("[", "a JSON document instead of a model"),
)


def recognise(path: Path) -> Format | None:
    """Return the format of a file that is not ONNX, None if it is unknown. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        if not head:
            return Format("empty", "Download or export it again.")
        if found := next((kind for at, magic, kind in _MAGIC if head[at:].startswith(magic)), None):
            return found
        if _is_safetensors(head, path.stat().st_size):
            return SAFETENSORS
        if head.startswith(b"PK\x03\x04"):
            return _archive(path)
        if head.startswith(_OLD_TORCH):
            return _old_torch(file)
        if head.startswith(b"\x80") and head[1:2] in b"\2\3\4\5":
            return Format("a Python pickle", f"Export the model to ONNX, for example with `{_ONNX_EXPORT}`.")
    return _text(head, path.stat().st_size) or _SUFFIXES.get(path.suffix.lower())


def recognise_folder(path: Path) -> Format:
    """Return the format of a directory."""
    names = {entry.name for entry in path.iterdir()}
    if "saved_model.pb" in names:
        return Format(
            "a TensorFlow SavedModel directory", f"{_FROM_TENSORFLOW}--saved-model {{path}} --output model.onnx`."
        )
    models = sorted(name for name in names if name.lower().endswith(".onnx"))
    hint = f"Use the file `{path / models[0]}`." if models else "Use the .onnx file of the model."
    return Format("a directory", hint)


def _is_safetensors(head: bytes, size: int) -> bool:
    """Recognize safetensors by the length of its JSON header: https://huggingface.co/docs/safetensors."""
    if len(head) < 9:
        return False
    (length,) = struct.unpack("<Q", head[:8])
    return bool(head[8:9] == b"{" and length <= size - 8)


def _archive(path: Path) -> Format | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            tails = {name.partition("/")[2] for name in names} | set(names)
            if "model.weights.h5" in names or {"config.json", "metadata.json"} <= set(names):
                return Format(
                    "a Keras 3 model",
                    "Convert it to ONNX with `tf2onnx.convert.from_keras` (`pip install tf2onnx`).",
                )
            if "archive_format" in tails or any(name.endswith("models/model.json") for name in names):
                return Format("a torch.export archive (.pt2)", f"Export the model to ONNX with `{_ONNX_EXPORT}`.")
            if "data.pkl" in tails and ("constants.pkl" in tails or any(name.startswith("code/") for name in tails)):
                return TORCHSCRIPT
            if "data.pkl" in tails:
                name = next(name for name in names if name == "data.pkl" or name.endswith("/data.pkl"))
                with archive.open(name) as file:
                    return _pickled(file.read(_PICKLE_BYTES))
    except (zipfile.BadZipFile, zlib.error, OSError, NotImplementedError, RuntimeError, ValueError, EOFError):
        return Format("a damaged or truncated ZIP archive", "Download or export it again.")
    hint = "Unpack it and use the .onnx file inside."
    return Format("a NumPy archive" if names and all(n.endswith(".npy") for n in names) else "a ZIP archive", hint)


def _old_torch(file: BinaryIO) -> Format:
    file.seek(len(_OLD_TORCH))
    content = file.read(_PICKLE_BYTES)
    # The object comes after two small pickles: the protocol version and the sizes of C types.
    parts = content.split(b".\x80\x02", 2)
    return _pickled(b"\x80\x02" + parts[-1])


def _pickled(content: bytes) -> Format:
    """Tell a state dict from a module by the class names in the pickle, without loading it."""
    texts: list[str] = []
    outermost = ""  # module of the pickled object's class
    try:
        for operation, argument, _ in pickletools.genops(content):
            name = ""
            if operation.name in ("SHORT_BINUNICODE", "BINUNICODE", "UNICODE"):
                texts.append(str(argument))
            elif operation.name == "GLOBAL":
                name = str(argument).partition(" ")[0]
            elif operation.name == "STACK_GLOBAL":
                name = texts[-2]
            elif operation.name in ("EMPTY_DICT", "DICT"):
                name = "collections"
            outermost = outermost or name
            if name.startswith("torch.nn.modules"):
                return MODULE
    except (ValueError, IndexError, UnicodeDecodeError):
        pass  # truncated at _PICKLE_BYTES
    return STATE_DICT if outermost in ("", *_TENSOR_CLASSES) else MODULE


def _text(head: bytes, size: int) -> Format | None:
    try:
        text = head.decode("utf-8-sig", "strict" if size <= len(head) else "ignore").lstrip().lower()
    except UnicodeDecodeError:
        return None
    name = next((name for start, name in _TEXTS if text.startswith(start)), None)
    if name and name.startswith("a JSON"):
        try:
            json.loads(text)
        except ValueError:
            name = name if size > len(head) else None
    if name:
        hint = "Check the URL and download the model again."
        return Format(name, hint)
    if text and all(letter.isprintable() or letter.isspace() for letter in text) and "\ufffd" not in text:
        return Format("a text file instead of a model", "Use the .onnx file of the model.")
    return None
