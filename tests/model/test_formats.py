"""For a file that is not an ONNX model, every command names its format and the next step."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ..conftest import Run
from ..foreign import colour_model, labels_file
from ..pictures import encoded, plain

MlInfer = Callable[..., Run]


def zipped(**files: bytes) -> bytes:
    """Return a ZIP archive; `__` in a name stands for a slash, `_dot_` for a dot."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return target.getvalue()


def safetensors() -> bytes:
    """Return one tensor as a safetensors file: the length of a JSON header, the header, the values."""
    header = json.dumps({"bias": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(8)


HDF5 = b"\x89HDF\r\n\x1a\n" + bytes(88)
MODULE = pickletools.optimize(b"\x80\x02c__main__\nNet\n)\x81}X\x08\x00\x00\x00training\x89sb.")
STATE_DICT = b"\x80\x02ccollections\nOrderedDict\n)R."
OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}."
# name: content, what it must be called, what the next step must name
FILES: dict[str, tuple[bytes, str, str]] = {
    "model.h5": (HDF5, "HDF5", "tf2onnx"),
    "model.keras": (zipped(config_dot_json=b"{}", metadata_dot_json=b"{}", model_dot_weights_dot_h5=HDF5), "Keras 3", "tf2onnx"),
    "model.tflite": (struct.pack("<L", 28) + b"TFL3" + bytes(56), "TensorFlow Lite", "--tflite model.tflite"),
    "model.safetensors": (safetensors(), "safetensors", "--weights model.safetensors"),
    "script.pt": (zipped(net__data_dot_pkl=MODULE, net__constants_dot_pkl=b"", net__code__net_dot_py=b""), "TorchScript", "torch.onnx.export"),
    "whole.pt": (zipped(whole__data_dot_pkl=MODULE, whole__version=b"3\n"), "pickled PyTorch module", "torch.onnx.export"),
    "old-whole.pt": (OLD_TORCH + MODULE, "pickled PyTorch module", "torch.onnx.export"),
    "state.pth": (zipped(state__data_dot_pkl=STATE_DICT, state__version=b"3\n"), "state dict", "--weights state.pth"),
    "old-state.pth": (OLD_TORCH + STATE_DICT, "state dict", "--weights old-state.pth"),
    "pointer.onnx": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 46837201\n", "Git LFS pointer", "git lfs pull"),
    "page.onnx": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "HTML page", "download the model again"),
    "denied.onnx": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML document", "download the model again"),
    "answer.onnx": (b'{"message": "Not Found"}', "JSON document", "download the model again"),
    "model.onnx.gz": (gzip.compress(b"model"), "gzip archive", "Unpack it"),
    "picture.png": (encoded(plain((255, 0, 0)), "PNG"), "PNG image", "mlinfer predict"),
    "model.pkl": (pickle.dumps({"a": [1]}), "pickle", "ONNX"),
    "notes.txt": (b"I am no model.\n", "text file", ".onnx file"),
    "graph.pb": (b"\n\x10\n\x05image\x12\x0bPlaceholder", "TensorFlow graph", "--graphdef graph.pb"),
    "empty.onnx": (b"", "empty", "again"),
    "cut.zip": (zipped(a=bytes(1000))[:500], "damaged or truncated", "again"),
}  # fmt: skip


def refused(run: Run, name: str, step: str) -> None:
    """Check that the error names the file's format and a next step, and gives no other advice."""
    assert run.code == 2, run.err
    error = json.loads(run.out)["error"]
    assert name in error["message"]
    assert step in error["hint"]
    assert "label" not in error["hint"].replace("--labels FILE", "")
    assert "Traceback" not in run.err


@pytest.mark.parametrize("file", FILES)
def test_each_is_named(mlinfer: MlInfer, red: Path, file: str) -> None:
    """`export`, `inspect` and `predict` name the format, from the content, and the next step."""
    content, name, step = FILES[file]
    Path(file).write_bytes(content)
    refused(mlinfer("export", file, "--labels", labels_file(), "--preprocess", "none", "--json"), name, step)
    refused(mlinfer("inspect", file, "--json"), name, step)
    refused(mlinfer("predict", red, "--model", file, "--json"), name, step)
    assert not Path("models").exists()


@pytest.mark.parametrize(
    "command",
    [
        ["upload", "pointer.onnx", "--bucket", "cloud-models"],
        ["build", "--model", "pointer.onnx", "--model-source", "image"],
        ["deploy", "--model", "pointer.onnx", "--bucket", "cloud-models"],
        ["run-local", "--model", "pointer.onnx", "--no-docker"],
    ],
    ids=lambda command: command[0],
)
@pytest.mark.usefixtures("cloud")
def test_every_command_names_it(mlinfer: MlInfer, command: list[str]) -> None:
    """The other commands that read a model name the format too."""
    content, name, step = FILES["pointer.onnx"]
    Path("pointer.onnx").write_bytes(content)
    refused(mlinfer(*command, "--json"), name, step)


def test_a_file_is_known_by_its_dot(mlinfer: MlInfer) -> None:
    """A name with a suffix is a file, not an architecture; a missing one is reported as missing."""
    for name in ("net.pt", "net.h5", "folder/net"):
        assert mlinfer("export", name).code == 3


def test_folders(mlinfer: MlInfer, red: Path) -> None:
    """A folder is reported as one, with the model file in it."""
    Path("folder").mkdir()
    colour_model(Path("folder/net.onnx"))
    for argv in (["export", "folder/"], ["inspect", "folder"], ["predict", str(red), "--model", "folder"]):
        refused(mlinfer(*argv, "--json"), "folder", "folder/net.onnx")
    Path("saved").mkdir()
    Path("saved/saved_model.pb").write_bytes(b"\x08\x01")
    refused(mlinfer("inspect", "saved", "--json"), "SavedModel", "--saved-model saved")


@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize(
    "file", ["model.h5", "script.pt", "whole.pt", "old-whole.pt", "pointer.onnx", "page.onnx", "empty.onnx"]
)
def test_weights_are_named_too(mlinfer: MlInfer, file: str) -> None:
    """A file without weights given as --weights is reported with its format."""
    content, name, step = FILES[file]
    Path(file).write_bytes(content)
    refused(mlinfer("export", "squeezenet1_1", "--weights", file, "--json"), name, step)


@pytest.mark.usefixtures("torchvision")
def test_safetensors_as_weights(mlinfer: MlInfer) -> None:
    """safetensors weights are read with torch and the safetensors library; without it, the error names it."""
    Path("w.safetensors").write_bytes(safetensors())
    run = mlinfer("export", "squeezenet1_1", "--weights", "w.safetensors", "--json")
    error = json.loads(run.out)["error"]
    if importlib.util.find_spec("safetensors") is None:
        assert run.code == 3
        assert "pip install safetensors" in error["hint"]
    else:
        assert run.code == 2
        assert error["code"] == "wrong_weights"


@pytest.mark.usefixtures("torchvision")
def test_a_model_or_a_folder_as_weights(mlinfer: MlInfer) -> None:
    """An ONNX model as --weights gets the command that exports it; a folder is reported as one."""
    model = colour_model(Path("net.onnx"))
    refused(mlinfer("export", "squeezenet1_1", "--weights", model, "--json"), "ONNX model", "mlinfer export net.onnx")
    Path("weights.d").mkdir()
    refused(mlinfer("export", "squeezenet1_1", "--weights", "weights.d", "--json"), "directory", "torch.save")


@pytest.mark.usefixtures("torchvision")
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_files_that_torch_writes(mlinfer: MlInfer) -> None:
    """A state dict, a checkpoint and a whole module, as torch.save writes them, have different errors."""
    import torch

    module = torch.nn.Linear(2, 2)
    for zipfile_form in (True, False):
        for content, name in (
            (module.state_dict(), "state dict"),
            ({"epoch": 3, "model": module.state_dict()}, "state dict"),
            (module, "pickled PyTorch module"),
            ({"epoch": 3, "model": module}, "pickled PyTorch module"),
        ):
            torch.save(content, "saved.pt", _use_new_zipfile_serialization=zipfile_form)
            refused(
                mlinfer("inspect", "saved.pt", "--json"), name, "torch" if name.startswith("pickled") else "--weights"
            )
    torch.jit.script(module).save("saved.pt")
    refused(mlinfer("inspect", "saved.pt", "--json"), "TorchScript", "torch.onnx.export")
