"""An ONNX classifier that someone already has: find out what it says of itself, and be told the rest.

What it answers with (how many classes, logits or probabilities) is found by asking it, not only by reading its graph:
exporters leave shapes out, and a graph can end in any operator. The weights are in memory only while it is asked: once,
in the session, and opening that takes as much again as the largest of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from lambda_src.errors import FaultError
from lambda_src.images.preprocess import Preprocess
from lambda_src.inference.metadata import Metadata
from lambda_src.inference.session import open_session
from lambda_src.settings import default_threads

from .. import __version__
from ..errors import MlinferError, UsageError, VerificationError
from .graph import read_graph, weight_files, write_model_file, written_bytes
from .labels import check_labels
from .modelfile import ModelFile, Port, read_model_file, read_ports
from .nodes import check_nodes, free_dimensions, free_reshapes, int8_share, keep_output, tensors
from .parity import fixed_inputs
from .runtime import refusal
from .source import Answers, Source, checked_name, json_object, missing_extra, safe_name

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

OutputKind = Literal["logits", "probabilities"]

MAX_FILE_BYTES = 2**31 - 1  # of one protocol buffer: https://protobuf.dev/programming-guides/proto-limits/
_DTYPES = {"float": "float32", "float16": "float16", "uint8": "uint8"}
_IMAGENET = {
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}  # of the training pictures, as torchvision has it
_IMAGENET_SIZE, _IMAGENET_CROP = 224, 0.875
MAX_BATCH = 1024  # of a model that takes no other; it is filled up with copies for each picture
BATCH = "batch"  # the free dimension's name
_PASSED_THROUGH = ("Identity", "Cast", "Flatten", "Reshape", "Squeeze")


@dataclass(frozen=True)
class _Input:
    """What the graph takes. batch, height, width, channels: 0 where they are free."""

    name: str
    batch: int
    height: int
    width: int
    channels: int
    fixed: dict[str, Any]  # the fields of Preprocess that the graph decides


def read_onnx(path: Path, answers: Answers, tell: Callable[[str], None]) -> Source:
    """Read a classifier and complete what it does not say by the answers. Raises MlinferError."""
    file = read_model_file(path)
    if reason := refusal(file.ir_version, file.opset):
        raise VerificationError(
            "unsupported_model",
            f"the image cannot run {path}: {reason}",
            "Export it again with an older IR version and opset.",
        )
    _check_told(path, answers, file.metadata)
    graph = _load(path)
    inputs, outputs = read_ports(path)
    picture = _picture_input(inputs, answers)
    output = _chosen_output(outputs, answers)
    preprocess = _preprocess(picture, answers, file.metadata)
    if answers.preprocess is not None and not (picture.height and picture.width) and not _says_size(answers.preprocess):
        height, width = preprocess.crop
        tell(
            f"The model takes any height and width; pictures are cut to {height} x {width}. "
            """For another size: --preprocess '{"crop": [HEIGHT, WIDTH]}'"""
        )
    run = _open(path, picture, output.name)
    answered = [run(batch) for batch in fixed_inputs(preprocess, (1, 1, 1, 1))]
    if picture.batch == 0 and not _takes_batches(run, preprocess):
        picture = replace(picture, batch=1)
    del run  # and with it the weights
    scores = _scores(answered)
    kind = _output_kind(graph.graph, output.name, scores, answers, file.metadata)
    labels = _labels(scores.shape[1], answers, file.metadata)
    _rewrite(graph, picture, outputs, output, answered[0].shape)
    name = checked_name(answers.name or (file.metadata.name if file.metadata else safe_name(path.stem)))
    metadata = Metadata(name, labels, preprocess, kind, _provenance(file, graph))
    return Source(
        metadata,
        write=lambda metadata, target: write_model_file(graph, metadata, target, path.parent),
        ask=partial(_ask, path, picture, output.name),
        one_by_one=picture.batch == 1,
        files=tuple({path.parent / name for name in weight_files(graph)} - {path}),
        hint="Export the model again with a batch of 1, or with a free one." if picture.batch > 1 else "",
    )


def _check_told(path: Path, answers: Answers, said: Metadata | None) -> None:
    """Ask for all that is missing at once. Raises UsageError."""
    missing = [
        flag for flag, value in (("labels", answers.labels), ("preprocess", answers.preprocess)) if value is None
    ]
    if said is None and missing:
        hint = (
            f"mlinfer export {path} --labels FILE --preprocess imagenet|none|JSON   (FILE: one label per line; imagenet: "
            "its mean and deviation; none: values 0..1, or bytes for uint8)"
        )
        message = f"{path} does not say the names of its classes or how a picture becomes its input"
        raise UsageError(f"{missing[0]}_unknown", f"{message}: {' and '.join(missing)} must be given", hint)


def _load(path: Path) -> ModelProto:
    """Load the graph and check it. Raises MissingError, UsageError, VerificationError."""
    try:
        import onnx
    except ImportError as error:
        raise missing_extra("onnx", "onnx") from error
    try:
        model = read_graph(path)
        if (size := written_bytes(model)) > MAX_FILE_BYTES:
            message = f"{path} has {size:,} bytes with its weights; one ONNX file holds {MAX_FILE_BYTES:,} at most"
            raise VerificationError("model_too_large", message)
        onnx.checker.check_model(model, full_check=True)
        check_nodes(path, model)
    except (MlinferError, OSError):
        raise
    except Exception as error:  # protobuf, the checker and its shape inference raise what they like of a damaged graph
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise VerificationError("invalid_model", f"the ONNX checker refuses {path}: {reason}") from error
    return model


def _picture_input(inputs: list[Port], answers: Answers) -> _Input:
    """Find layout, size, dtype and batch of the one input. Raises VerificationError, UsageError."""
    if len(inputs) != 1:
        listed = ", ".join(port.name for port in inputs) or "none"
        raise _not_a_classifier(f"it has {len(inputs)} inputs ({listed}), not one picture")
    port = inputs[0]
    shown = f"its input {port.name} is {port.dtype} {_in_words(port.shape)}"
    if port.dtype not in _DTYPES:
        raise _not_a_classifier(f"{shown}; a picture is float, float16 or uint8")
    if len(port.shape) != 4:
        raise _not_a_classifier(f"{shown}; a picture has four dimensions, N x C x H x W or N x H x W x C")
    told = json_object(answers.preprocess) if answers.preprocess not in (None, "imagenet", "none") else {}
    sizes = [size if isinstance(size, int) else 0 for size in port.shape]
    layout = "NCHW" if sizes[1] in (1, 3) else "NHWC" if sizes[3] in (1, 3) else told.get("layout")
    if layout not in ("NCHW", "NHWC"):
        if all(sizes[i] for i in (1, 3)):
            raise _not_a_classifier(f"{shown}; a picture has 1 or 3 channels")
        hint = """Say it: --preprocess '{"layout": "NCHW", "color": "RGB", "crop": [224, 224]}'"""
        raise UsageError("layout_unknown", f"{shown}: its layout cannot be told", hint)
    if sizes[0] > MAX_BATCH:
        hint = "Export the model again with a batch of 1, or with a free one."
        message = f"{shown}: it takes only batches of {sizes[0]:,} pictures; {MAX_BATCH:,} is the most"
        raise VerificationError("batch_too_large", message, hint)
    channels, height, width = (sizes[i] for i in ((1, 2, 3) if layout == "NCHW" else (3, 1, 2)))
    fixed = {"layout": layout, "dtype": _DTYPES[port.dtype]}
    if channels == 1:
        fixed["color"] = "L"
    return _Input(port.name, sizes[0], height, width, channels, fixed)


def _chosen_output(outputs: list[Port], answers: Answers) -> Port:
    """Return the output that holds the scores. Raises UsageError, VerificationError."""
    listed = "; ".join(f"{port.name}: {port.dtype} {_in_words(port.shape)}" for port in outputs)
    if answers.output is None and len(outputs) > 1:
        raise UsageError(
            "several_outputs", f"the model has {len(outputs)} outputs: {listed}", "Choose with --output NAME."
        )
    chosen = [port for port in outputs if answers.output in (None, port.name)]
    if not chosen:
        raise UsageError("unknown_output", f"there is no output {answers.output}; there is: {listed}")
    port = chosen[0]
    if port.dtype not in ("float", "float16", "double"):
        raise _not_a_classifier(f"its output {port.name} is {port.dtype}, not a score for each class")
    return port


def _preprocess(picture: _Input, answers: Answers, said: Metadata | None) -> Preprocess:
    """Complete the pre-processing: what the graph decides, then what was told. Raises UsageError."""
    if answers.preprocess is None and said is not None:
        return said.preprocess
    size = (picture.height or _IMAGENET_SIZE, picture.width or _IMAGENET_SIZE)
    told: dict[str, Any] = {}
    if answers.preprocess == "imagenet":
        if picture.fixed.get("color") == "L":
            hint = """Give --preprocess '{"mean": [0.45], "std": [0.23]}' with the model's own figures, or none."""
            raise UsageError("invalid_preprocess", "imagenet means three channels, and the model takes one", hint)
        told = {"resize": round(max(size) / _IMAGENET_CROP), **_IMAGENET}
    elif answers.preprocess not in (None, "none"):
        told = json_object(answers.preprocess)
    return _combined(picture, size, told)


def _says_size(preprocess: str) -> bool:
    return preprocess not in ("imagenet", "none") and "crop" in json_object(preprocess)


def _combined(picture: _Input, size: tuple[int, int], told: Mapping[str, Any]) -> Preprocess:
    known = {field.name for field in fields(Preprocess)}
    if unknown := sorted(set(told) - known):
        raise UsageError("invalid_preprocess", f"unknown: {', '.join(unknown)}", f"Known: {', '.join(sorted(known))}.")
    for name, value in picture.fixed.items():
        if told.get(name, value) != value:
            raise UsageError("invalid_preprocess", f"{name} is {told[name]!r}, but the model takes {value}")
    if picture.channels == 3 and told.get("color") == "L":
        raise UsageError("invalid_preprocess", "color is L, but the model takes three channels")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
    crop = values.setdefault("crop", size)
    if not (isinstance(crop, tuple) and len(crop) == 2 and all(isinstance(length, int) for length in crop)):
        raise UsageError("invalid_preprocess", f"crop is {crop!r}, not [height, width] in pixels")
    for name, given, own in zip(("height", "width"), crop, (picture.height, picture.width), strict=True):
        if own and given != own:
            raise UsageError("invalid_preprocess", f"crop gives a {name} of {given}, but the model takes {own}")
    values.setdefault("resize", max(crop))
    channels = 1 if (picture.fixed | values).get("color") == "L" else 3
    values = {"mean": (0.0,) * channels, "std": (1.0,) * channels} | values | picture.fixed
    try:
        return Preprocess(**values)
    except FaultError as error:
        raise UsageError("invalid_preprocess", str(error)) from error
    except TypeError as error:
        raise UsageError("invalid_preprocess", f"the pre-processing is not as documented: {error}") from error


def _ask(path: Path, picture: _Input, output: str, batches: Iterable[NDArray[Any]]) -> list[NDArray[Any]]:
    """Ask the original file; each answer is [N, classes]. Raises VerificationError."""
    run = _open(path, picture, output)
    return [scores.reshape(len(scores), -1) for scores in map(run, batches)]


def _open(path: Path, picture: _Input, output: str) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Return what asks the original file about a batch, and fills a fixed batch up. Raises VerificationError."""
    try:
        session = open_session(path, default_threads({}))
    except FaultError as error:
        raise VerificationError("unusable_model", f"{path}: {error}") from error

    def run(batch: NDArray[Any]) -> NDArray[Any]:
        full = np.resize(batch, (picture.batch, *batch.shape[1:])) if picture.batch > len(batch) else batch
        try:
            result: NDArray[Any] = session.run([output], {picture.name: full})[0]
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise VerificationError("unusable_model", f"{path} cannot answer a picture: {error}") from error
        return result[: len(batch)] if result.ndim else result

    return run


def _takes_batches(run: Callable[[NDArray[Any]], NDArray[Any]], preprocess: Preprocess) -> bool:
    """Tell whether several pictures at once are answered: a batch that the input leaves free may be fixed inside."""
    try:
        return len(run(next(fixed_inputs(preprocess, (3,))))) == 3
    except (VerificationError, TypeError):
        return False


def _scores(answers: list[NDArray[Any]]) -> NDArray[np.float64]:
    """Return what the model answered to single pictures as [N, classes]. Raises VerificationError if that it is not."""
    shape = answers[0].shape
    if len(shape) < 2 or shape[0] != 1 or any(size != 1 for size in shape[2:]):
        shown = _in_words(shape) or "a single number"
        raise _not_a_classifier(f"it answers one picture with {shown}, not with one score for each class")
    if shape[1] < 2:
        raise _not_a_classifier("it answers with one number for a picture; a classifier has at least two classes")
    scores = np.concatenate(answers).reshape(len(answers), -1).astype(np.float64)
    if not np.isfinite(scores).all():
        raise VerificationError("unusable_model", "the model answers random pictures with NaN or infinity")
    return scores


def _output_kind(
    graph: GraphProto, output: str, scores: NDArray[np.float64], answers: Answers, said: Metadata | None
) -> OutputKind:
    """Tell logits from probabilities: as told, by the last operator, or by what the scores add up to. Raises UsageError."""
    bounded = bool((scores >= 0).all() and (scores <= 1 + 1e-3).all())
    told = answers.output_kind or (said.output if said else None)
    if told not in (None, "logits", "probabilities"):
        raise UsageError("invalid_output_kind", f"--output-kind is {told}, not logits or probabilities")
    if told == "probabilities" and not bounded:
        message = f"the model answers with {scores.min():.3g} to {scores.max():.3g}: these are no probabilities"
        raise UsageError("invalid_output_kind", message, "Give --output-kind logits.")
    if told:
        return "logits" if told == "logits" else "probabilities"
    ends_so = _last_operator(graph, output) in ("Softmax", "Sigmoid")
    adds_up = bool(np.allclose(scores.sum(axis=1), 1, atol=1e-2))
    return "probabilities" if bounded and (ends_so or adds_up) else "logits"


def _last_operator(graph: GraphProto, output: str) -> str:
    producers = {name: node for node in graph.node for name in node.output}
    while output in producers and producers[output].op_type in _PASSED_THROUGH:
        output = producers[output].input[0]
    return producers[output].op_type if output in producers else ""


def _labels(classes: int, answers: Answers, said: Metadata | None) -> tuple[str, ...]:
    labels = answers.labels if answers.labels is not None else said.labels if said else ()
    check_labels(labels, classes)
    return labels


def _rewrite(model: ModelProto, picture: _Input, outputs: list[Port], output: Port, shape: tuple[int, ...]) -> None:
    """Keep the chosen output alone, flatten it to [N, classes], and free a fixed batch of several. shape: of an answer."""
    import onnx

    graph = model.graph
    if len(outputs) > 1:
        keep_output(graph, output.name)
    free_dimensions(graph)
    value = next(value for value in graph.input if value.name == picture.name)
    batch = value.type.tensor_type.shape.dim[0]
    if len(shape) > 2:
        flat = f"{output.name}_flat"
        graph.node.append(onnx.helper.make_node("Flatten", [output.name], [flat], axis=1))
        graph.output[0].name = flat
    if picture.batch > 1:
        del graph.value_info[:]
        batch.dim_param = BATCH
        free_reshapes(graph, picture.batch)
    elif picture.batch == 1:
        batch.dim_value = 1
    if len(shape) > 2 or picture.batch > 1:
        kind, size = graph.output[0].type.tensor_type.elem_type, 1 if picture.batch == 1 else BATCH
        answer = onnx.helper.make_tensor_value_info(graph.output[0].name, kind, [size, shape[1]])
        graph.output[0].CopyFrom(answer)


def _provenance(file: ModelFile, model: ModelProto) -> dict[str, Any]:
    """Return where the model is from; a file of ours keeps what it says, for its graph is not changed."""
    if file.metadata and file.metadata.provenance:
        return file.metadata.provenance
    producer = f"{model.producer_name} {model.producer_version}".strip()
    return {
        "source": {"file": file.path.name, "sha256": file.sha256} | ({"producer": producer} if producer else {}),
        "exporter": f"mlinfer {__version__}",
        "opset": file.opset,
        "precision": _precision(model),
    }


def _precision(model: ModelProto) -> str:
    """Name the type that most weights have."""
    import onnx

    if int8_share(model) > 0.5:
        return "int8"
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    counts: dict[int, int] = dict.fromkeys(floats, 0)
    for tensor in tensors(model):
        if tensor.data_type in counts:
            counts[tensor.data_type] += int(np.prod(tensor.dims))
    most = max(counts, key=lambda kind: counts[kind])
    return str(onnx.helper.tensor_dtype_to_np_dtype(most).name)


def _in_words(shape: tuple[Any, ...]) -> str:
    return " x ".join("?" if size is None else str(size) for size in shape)


def _not_a_classifier(reason: str) -> VerificationError:
    return VerificationError("no_classifier", f"this is no image classifier: {reason}")
