"""An ONNX classifier that someone already has: find out what it says of itself, and be told the rest.

What it answers with (how many classes, logits or probabilities) is found by asking it, not only by reading its graph:
exporters leave shapes out, and a graph can end in any operator. The weights are in memory only while it is asked: once,
in the session, and opening that takes as much again as the largest of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
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
from .modelfile import ModelFile, Port, in_words, read_model_file, read_ports
from .nodes import check_nodes, free_dimensions, free_reshapes, int8_share, keep_output, tensors
from .onnx_input import PictureInput, complete_preprocess, find_picture_input, size_note
from .parity import fixed_inputs
from .runtime import refusal
from .source import Answers, Source, checked_name, missing_extra, no_classifier, safe_name

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

OutputKind = Literal["logits", "probabilities"]

MAX_FILE_BYTES = 2**31 - 1  # of one protocol buffer: https://protobuf.dev/programming-guides/proto-limits/
BATCH = "batch"  # the free dimension's name
_PASSED_THROUGH = ("Identity", "Cast", "Flatten", "Reshape", "Squeeze")


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
    picture = find_picture_input(inputs, answers)
    output = _chosen_output(outputs, answers)
    preprocess = complete_preprocess(picture, answers, file.metadata)
    if note := size_note(picture, answers, preprocess):
        tell(note)
    run = _open(path, picture, output.name)
    answered = [run(batch) for batch in fixed_inputs(preprocess, (1, 1, 1, 1))]
    if picture.batch == 0 and not _takes_batches(run, preprocess):
        picture = replace(picture, batch=1)
    del run  # and with it the weights
    scores = _scores(answered)
    kind = _output_kind(graph.graph, output.name, scores, answers=answers, said=file.metadata)
    labels = _labels(scores.shape[1], answers, file.metadata)
    if len(outputs) > 1:
        keep_output(graph.graph, output.name)
    _rewrite(graph, picture, answered[0].shape)
    name = checked_name(answers.name or (file.metadata.name if file.metadata else safe_name(path.stem)))
    metadata = Metadata(name, labels, preprocess, kind, _provenance(file, graph))
    return Source(
        metadata,
        write=lambda metadata, target: write_model_file(graph, metadata, target, folder=path.parent),
        ask=partial(_ask, path=path, picture=picture, output=output.name),
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


def _chosen_output(outputs: list[Port], answers: Answers) -> Port:
    """Return the output that holds the scores. Raises UsageError, VerificationError."""
    listed = "; ".join(f"{port.name}: {port.dtype} {in_words(port.shape)}" for port in outputs)
    if answers.output is None and len(outputs) > 1:
        raise UsageError(
            "several_outputs", f"the model has {len(outputs)} outputs: {listed}", "Choose with --output NAME."
        )
    chosen = [port for port in outputs if answers.output in (None, port.name)]
    if not chosen:
        raise UsageError("unknown_output", f"there is no output {answers.output}; there is: {listed}")
    port = chosen[0]
    if port.dtype not in ("float", "float16", "double"):
        raise no_classifier(f"its output {port.name} is {port.dtype}, not a score for each class")
    return port


def _ask(batches: Iterable[NDArray[Any]], *, path: Path, picture: PictureInput, output: str) -> list[NDArray[Any]]:
    """Ask the original file; each answer is [N, classes]. Raises VerificationError."""
    run = _open(path, picture, output)
    return [scores.reshape(len(scores), -1) for scores in map(run, batches)]


def _open(path: Path, picture: PictureInput, output: str) -> Callable[[NDArray[Any]], NDArray[Any]]:
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
        shown = in_words(shape) or "a single number"
        raise no_classifier(f"it answers one picture with {shown}, not with one score for each class")
    if shape[1] < 2:
        raise no_classifier("it answers with one number for a picture; a classifier has at least two classes")
    scores = np.concatenate(answers).reshape(len(answers), -1).astype(np.float64)
    if not np.isfinite(scores).all():
        raise VerificationError("unusable_model", "the model answers random pictures with NaN or infinity")
    return scores


def _output_kind(
    graph: GraphProto, output: str, scores: NDArray[np.float64], *, answers: Answers, said: Metadata | None
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


def _rewrite(model: ModelProto, picture: PictureInput, shape: tuple[int, ...]) -> None:
    """Flatten the one output to [N, classes], and free a fixed batch of several. shape: of an answer."""
    import onnx

    graph = model.graph
    free_dimensions(graph)
    value = next(value for value in graph.input if value.name == picture.name)
    batch = value.type.tensor_type.shape.dim[0]
    if len(shape) > 2:
        output = graph.output[0]
        flat = f"{output.name}_flat"
        graph.node.append(onnx.helper.make_node("Flatten", [output.name], [flat], axis=1))
        output.name = flat
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
