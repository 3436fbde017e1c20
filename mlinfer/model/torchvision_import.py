"""Read a torchvision classifier: its network, labels and preprocessing, and its ONNX graph."""

from __future__ import annotations

import difflib
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lambda_src.images.preprocess import Preprocess
from lambda_src.inference.metadata import Metadata

from .. import __version__
from ..errors import MissingError, UsageError, VerificationError
from .arithmetic import arithmetic, normalisation
from .formats import SAFETENSORS, STATE_DICT, recognise, recognise_folder
from .graph import read_graph
from .labels import check_labels
from .modelfile import is_onnx, not_a_model
from .pixel_input import to_tensor, write_pixel_model
from .runtime import IR_VERSION, OPSET
from .source import Answers, Source, checked_name, missing_extra

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor
    from torch.nn import Module

# The predictions of a model with random weights are meaningless but reproducible.
RANDOM_SEED = 0
INPUT, OUTPUT = "input", "output"


@dataclass(frozen=True)
class _Libraries:
    """The imported libraries. They are imported only when needed, because torch takes seconds."""

    torch: Any
    models: Any


def read_torchvision(arch: str, weights: str | None, answers: Answers, *, tell: Callable[[str], None]) -> Source:
    """Build a torchvision classifier and convert it to ONNX.

    weights: a name such as IMAGENET1K_V2, `random`, or a state-dict file; None for the architecture's default.
    Raises UsageError, MissingError, VerificationError.
    """
    if answers.preprocess or answers.output_kind or answers.output:
        hint = "For a torchvision model, use only `--labels`, `--weights` and `--name`."
        raise UsageError("usage", f"torchvision defines the preprocessing and output of {arch}", hint)
    with _quiet():
        libraries = _import()
        _check_arch(libraries, arch)
        module, origin = _build(libraries, arch, weights, tell=tell)
        metadata = _metadata(libraries, arch, module, origin=origin, answers=answers)
        program = _to_onnx(libraries, arch, module, crop=metadata.preprocess.size)

    def ask(batches: Iterable[Any]) -> list[Any]:
        steps = metadata.preprocess.arithmetic
        with libraries.torch.inference_mode():
            return [module(libraries.torch.from_numpy(to_tensor(pixels, steps))).numpy() for pixels in batches]

    return Source(metadata, lambda metadata, path: _write(program, metadata, path), ask)


def _import() -> _Libraries:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
        import torch
        import torchvision
    except ImportError as error:
        raise missing_extra(error.name or "torchvision", "torch torchvision onnx onnxscript") from error
    except (RuntimeError, OSError) as error:  # torchvision was built for another version of torch
        hint = "Install matching versions with `pip install --upgrade --force-reinstall torch torchvision`."
        message = "the installed torch and torchvision do not match"
        raise MissingError("broken_extra", message, hint, reason=str(error).partition("\n")[0]) from error
    return _Libraries(torch, torchvision.models)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the libraries' messages for developers: deprecations, conversion steps."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _check_arch(libraries: _Libraries, arch: str) -> None:
    names = libraries.models.list_models(module=libraries.models)
    if arch in names:
        return
    path = Path(arch)
    if found := recognise_folder(path) if path.is_dir() else recognise(path) if path.is_file() else None:
        raise not_a_model(path, found)
    near = difflib.get_close_matches(arch, names, n=3)
    hint = (
        f"Did you mean {' or '.join(near)}?"
        if near
        else "Use a torchvision name, such as `resnet18`, or an .onnx file."
    )
    if path.is_file():
        hint = f"To export the file with that name, run `mlinfer export ./{arch}`."
    message = f"{arch} is neither one of torchvision's {len(names)} classifiers nor an .onnx file"
    raise UsageError("unknown_architecture", message, hint)


def _build(libraries: _Libraries, arch: str, weights: str | None, *, tell: Callable[[str], None]) -> tuple[Module, Any]:
    """Return the network in evaluation mode and its weights: a member of the enum, or text."""
    known = libraries.models.get_model_weights(arch)
    name = (weights or "DEFAULT").removeprefix(f"{known.__name__}.")
    if name in known.__members__:
        chosen = known[name]
        return _download(libraries, arch, chosen, tell=tell).eval(), chosen
    if name == "random":
        with libraries.torch.random.fork_rng():
            libraries.torch.manual_seed(RANDOM_SEED)
            return libraries.models.get_model(arch, weights=None).eval(), f"random, seed {RANDOM_SEED}"
    path = Path(name)
    if not path.exists():
        hint = f"Use {', '.join(known.__members__)}, random or the path of a state-dict file."
        raise UsageError("unknown_weights", f"{name} is neither weights of {arch} nor a file", hint)
    return _from_file(libraries, arch, path).eval(), path.name


def _download(libraries: _Libraries, arch: str, chosen: Any, *, tell: Callable[[str], None]) -> Module:
    file = chosen.url.rpartition("/")[2]
    if not (Path(libraries.torch.hub.get_dir()) / "checkpoints" / file).is_file():
        tell(f"Downloading {chosen.url} ({chosen.meta['_file_size']:.0f} MB).")
    try:
        with redirect_stdout(io.StringIO()):  # torch.hub reports the download on stdout
            module: Module = libraries.models.get_model(arch, weights=chosen, progress=False)
    except (OSError, RuntimeError) as error:  # RuntimeError: the content does not match the hash in the file's name
        hint = f"Download it on another machine, copy {file} here, and run `mlinfer export {arch} --weights {file}`."
        message = f"cannot download the weights of {arch} from {chosen.url}"
        raise MissingError("weights_unavailable", message, hint, reason=error) from error
    return module


def _from_file(libraries: _Libraries, arch: str, path: Path) -> Module:
    state = _state_dict(libraries, path)
    options: dict[str, Any] = {}
    if arch in ("googlenet", "inception_v3"):  # torchvision sets these options for its own weights too
        auxiliary = any(key.lower().startswith("aux") for key in state)
        options = {"transform_input": True, "init_weights": False, "aux_logits": auxiliary}
    classes = len(list(state.values())[-1])  # the last tensor is the classifier's bias, or its weight
    module: Module = libraries.models.get_model(arch, weights=None, num_classes=classes, **options)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UsageError("wrong_weights", f"the weights in {path} do not match {arch}", reason=reason[:300]) from error
    return module


def _state_dict(libraries: _Libraries, path: Path) -> dict[str, Tensor]:
    """Read a state dict, also inside a checkpoint, without running code from the file. Raises UsageError."""
    _check_weights(path)
    hint = "Save the weights with `torch.save(model.state_dict(), FILE)`."
    try:
        state = libraries.torch.load(path, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # pickle, zipfile or torch fail for another format, and torch's message advises unsafe loading
        if "safetensors is not installed" in str(error):
            raise missing_extra("safetensors", "safetensors") from error
        raise UsageError("wrong_weights", f"{path} is not a PyTorch state dict", hint) from error
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not (isinstance(state, dict) and state and all(isinstance(v, libraries.torch.Tensor) for v in state.values())):
        raise UsageError("wrong_weights", f"{path} has no state dict of names and tensors", hint)
    if not all(value.ndim for value in list(state.values())[-1:]):
        raise UsageError("wrong_weights", f"the last weights in {path} are not those of a classifier")
    # DistributedDataParallel adds a prefix. DenseNet's files from 2017 have an additional dot in some names.
    names = (re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.(\d)", r"\1\2", k.removeprefix("module.")) for k in state)
    return dict(zip(names, state.values(), strict=True))


def _check_weights(path: Path) -> None:
    """Refuse a file in a known format that torch cannot load as weights. Raises UsageError."""
    hint = "Save the weights with `torch.save(model.state_dict(), FILE)`."
    if path.is_dir():
        raise UsageError("wrong_weights", f"{path} is {recognise_folder(path).name}", hint)
    try:
        found = recognise(path)
    except OSError as error:
        raise UsageError("wrong_weights", f"cannot read {path}", reason=error.strerror) from error
    if found not in (None, STATE_DICT, SAFETENSORS):
        raise UsageError("wrong_weights", f"{path} is {found.name}", found.next_step.replace("{path}", str(path)))
    if is_onnx(path):
        hint = f"Export it without an architecture: `mlinfer export {path}`."
        raise UsageError("wrong_weights", f"{path} is an ONNX model, not weights", hint)


def _metadata(libraries: _Libraries, arch: str, module: Module, *, origin: Any, answers: Answers) -> Metadata:
    """Return the metadata of the weights. For a user's weights, use those of torchvision's default weights."""
    enum = libraries.models.get_model_weights(arch)
    described = origin if isinstance(origin, enum) else enum["DEFAULT"]
    transform = described.transforms()
    height, width = (transform.crop_size * 2)[:2]
    preprocess = Preprocess(
        resize=transform.resize_size[0],
        crop=(height, width),
        interpolation=transform.interpolation.value,
        arithmetic=arithmetic(normalisation(transform.mean, transform.std)),
    )
    labels = answers.labels if answers.labels is not None else tuple(described.meta["categories"])
    classes = len(list(module.state_dict().values())[-1])
    if answers.labels is None and len(labels) != classes:
        hint = f"Add `--labels FILE` with {classes:,} lines, one label per line."
        raise UsageError("labels_unknown", f"the labels of these {classes:,} classes are unknown", hint)
    check_labels(labels, classes)
    provenance = {
        "source": {"library": "torchvision", "architecture": arch, "weights": str(origin)},
        "exporter": f"mlinfer {__version__}, torch {libraries.torch.__version__}",
        "opset": OPSET,
        "precision": "float32",
    }
    return Metadata(checked_name(answers.name or arch), labels, preprocess, "logits", provenance)


def _to_onnx(libraries: _Libraries, arch: str, module: Module, *, crop: tuple[int, int]) -> Any:
    """Convert to ONNX with a free batch dimension. Raises VerificationError."""
    torch = libraries.torch
    example = torch.zeros(2, 3, *crop)  # torch would treat a batch size of one as a constant
    try:
        return torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        )
    except torch.onnx.OnnxExporterError as error:
        message = f"torch {torch.__version__} cannot convert {arch} to ONNX"
        raise VerificationError("not_convertible", message, reason=str(error).partition("\n")[0]) from error


def _write(program: Any, metadata: Metadata, path: Path) -> None:
    """Write the converted network. Its weights go through a file next to `path` to avoid a copy in memory."""
    converted = path.with_suffix(".torch.onnx")
    with _quiet():
        program.save(converted, external_data=True)
    graph = read_graph(converted)
    graph.ir_version = IR_VERSION
    graph.producer_name, graph.producer_version = "mlinfer", __version__
    _forget_origins(graph)
    write_pixel_model(graph, metadata, path, folder=path.parent)


def _forget_origins(model: ModelProto) -> None:
    """Remove the exporter's notes, which contain local paths and take a tenth of a small file."""
    graph = model.graph
    for item in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    for function in model.functions:
        function.ClearField("metadata_props")
