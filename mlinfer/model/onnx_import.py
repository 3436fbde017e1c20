"""Read an existing ONNX classifier and complete its metadata with the user's options.

The number of classes and the kind of output (logits or probabilities) come from a test run, because exporters can omit
shapes and a graph can end in any operator. The weights are in memory only during a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
from .arithmetic import Step
from .graph import read_graph, weight_files, written_bytes
from .labels import check_labels
from .modelfile import ModelFile, Port, has_old_schema, in_words, read_model_file, read_ports
from .nodes import check_nodes, free_dimensions, free_reshapes, int8_share, keep_output, tensors
from .onnx_input import PictureInput, complete_preprocess, find_picture_input, size_note
from .parity import fixed_pixels
from .pixel_input import to_tensor, write_network, write_pixel_model
from .runtime import refusal
from .source import Answers, Source, checked_name, missing_extra, no_classifier, safe_name

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

OutputKind = Literal["logits", "probabilities"]

MAX_FILE_BYTES = 2**31 - 1  # protobuf's limit: https://protobuf.dev/programming-guides/proto-limits/
BATCH = "batch"  # name of the free dimension
_PASSED_THROUGH = ("Identity", "Cast", "Flatten", "Reshape", "Squeeze")


def read_onnx(path: Path, answers: Answers, scratch: Path, *, tell: Callable[[str], None]) -> Source:
    """Read a classifier and complete its metadata with the user's options. Raises MlinferError.

    scratch: a directory for the network of a file that already takes pixels.
    """
    file = read_model_file(path, old=True)
    if reason := refusal(file.ir_version, file.opset):
        raise VerificationError(
            "unsupported_model",
            f"the container image cannot run model file {path}",
            "Export the model again with an older IR version and opset.",
            reason=reason,
        )
    _check_told(path, answers, file.metadata)
    graph = _load(path)
    folder = path.parent
    outside = {folder / name for name in weight_files(graph)} - {path}
    old = has_old_schema(path)
    if file.metadata and not old:
        path = write_network(graph, file.metadata, scratch / path.name, folder=folder)
        graph, folder = read_graph(path), scratch
    inputs, outputs = read_ports(path)
    picture = find_picture_input(inputs, answers)
    output = _chosen_output(outputs, answers)
    preprocess = complete_preprocess(picture, answers, file.metadata)
    if note := size_note(picture, answers, preprocess):
        tell(note)
    run = _open(path, picture, output.name)
    steps = preprocess.arithmetic
    answered = [run(to_tensor(pixels, steps)) for pixels in fixed_pixels(preprocess, (1, 1, 1, 1))]
    if picture.batch == 0 and not _takes_batches(run, preprocess):
        picture = replace(picture, batch=1)
    del run  # frees the weights
    scores = _scores(answered)
    kind = _output_kind(graph.graph, output.name, scores, answers=answers, said=file.metadata)
    labels = _labels(scores.shape[1], answers, file.metadata)
    if len(outputs) > 1:
        keep_output(graph.graph, output.name)
    _rewrite(graph, picture, answered[0].shape)
    name = checked_name(answers.name or (file.metadata.name if file.metadata else safe_name(file.path.stem)))
    metadata = Metadata(name, labels, preprocess, kind, _provenance(file, graph))
    return Source(
        metadata,
        write=lambda metadata, target: write_pixel_model(graph, metadata, target, folder=folder),
        ask=partial(_ask, path=path, picture=picture, output=output.name, steps=steps),
        one_by_one=picture.batch == 1,
        files=tuple(outside),
        hint="Export the model again with a batch size of 1 or a free batch dimension." if picture.batch > 1 else "",
        old_schema=old,
    )


def _check_told(path: Path, answers: Answers, said: Metadata | None) -> None:
    """Require all missing options at once. Raises UsageError."""
    missing = [
        flag for flag, value in (("labels", answers.labels), ("preprocess", answers.preprocess)) if value is None
    ]
    if said is None and missing:
        hint = (
            f"Add them with `mlinfer export {path} --labels FILE --preprocess imagenet|none|JSON`. FILE has one label per line. "
            "Use `imagenet` for ImageNet's mean and std, or `none` for values from 0 to 1 (bytes for uint8)."
        )
        options = " and ".join(f"--{name}" for name in missing)
        message = f"model file {path} has no class labels or preprocessing metadata: {options} required"
        raise UsageError(f"{missing[0]}_unknown", message, hint)


def _load(path: Path) -> ModelProto:
    """Load the graph and check it. Raises MissingError, UsageError, VerificationError."""
    try:
        import onnx
    except ImportError as error:
        raise missing_extra("onnx", "onnx") from error
    try:
        model = read_graph(path)
        if (size := written_bytes(model)) > MAX_FILE_BYTES:
            message = f"model {path} has {size:,} bytes with its weights, but an ONNX file can have at most {MAX_FILE_BYTES:,}"
            raise VerificationError("model_too_large", message)
        onnx.checker.check_model(model, full_check=True)
        check_nodes(path, model)
    except (MlinferError, OSError):
        raise
    except Exception as error:  # protobuf, the checker and shape inference raise any exception for a damaged graph
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise VerificationError("invalid_model", f"model file {path} is not valid ONNX", reason=reason) from error
    return model


def _chosen_output(outputs: list[Port], answers: Answers) -> Port:
    """Return the output with the scores. Raises UsageError, VerificationError."""
    listed = "; ".join(f"{port.name}: {port.dtype} {in_words(port.shape)}" for port in outputs)
    if answers.output is None and len(outputs) > 1:
        raise UsageError(
            "several_outputs", f"the model has {len(outputs)} outputs: {listed}", "Select one with `--output NAME`."
        )
    chosen = [port for port in outputs if answers.output in (None, port.name)]
    if not chosen:
        raise UsageError("unknown_output", f"the model has no output {answers.output}, only {listed}")
    port = chosen[0]
    if port.dtype not in ("float", "float16", "double"):
        raise no_classifier(f"its output {port.name} is {port.dtype}, expected a score for each class")
    return port


def _ask(
    batches: Iterable[NDArray[np.uint8]], *, path: Path, picture: PictureInput, output: str, steps: Sequence[Step]
) -> list[NDArray[Any]]:
    """Run the original model on each batch of pixels and return outputs of [N, classes]. Raises VerificationError."""
    run = _open(path, picture, output)
    answers = (run(to_tensor(pixels, steps)) for pixels in batches)
    return [scores.reshape(len(scores), -1) for scores in answers]


def _open(path: Path, picture: PictureInput, output: str) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Return a function that runs the original model and fills up a fixed batch. Raises VerificationError."""
    try:
        session = open_session(path, default_threads({}))
    except FaultError as error:
        raise VerificationError("unusable_model", f"cannot use model file {path}", reason=error) from error

    def run(batch: NDArray[Any]) -> NDArray[Any]:
        full = np.resize(batch, (picture.batch, *batch.shape[1:])) if picture.batch > len(batch) else batch
        try:
            result: NDArray[Any] = session.run([output], {picture.name: full})[0]
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise VerificationError(
                "unusable_model", f"model file {path} fails with a test image", reason=error
            ) from error
        return result[: len(batch)] if result.ndim else result

    return run


def _takes_batches(run: Callable[[NDArray[Any]], NDArray[Any]], preprocess: Preprocess) -> bool:
    """Tell whether the model accepts several images at once: a free batch dimension can be fixed inside the graph."""
    try:
        return len(run(to_tensor(next(fixed_pixels(preprocess, (3,))), preprocess.arithmetic))) == 3
    except (VerificationError, TypeError):
        return False


def _scores(answers: list[NDArray[Any]]) -> NDArray[np.float64]:
    """Return the outputs for single images as [N, classes]. Raises VerificationError for another shape."""
    shape = answers[0].shape
    if len(shape) < 2 or shape[0] != 1 or any(size != 1 for size in shape[2:]):
        shown = f"shape {in_words(shape)}" if shape else "a single number"
        raise no_classifier(f"for one image it returns {shown}, expected one score for each class")
    if shape[1] < 2:
        raise no_classifier("it returns only one score, but a classifier has at least two classes")
    scores = np.concatenate(answers).reshape(len(answers), -1).astype(np.float64)
    if not np.isfinite(scores).all():
        raise VerificationError("unusable_model", "the model returns NaN or infinity for random images")
    return scores


def _output_kind(
    graph: GraphProto, output: str, scores: NDArray[np.float64], *, answers: Answers, said: Metadata | None
) -> OutputKind:
    """Tell logits from probabilities by the option, the last operator or the sum of the scores. Raises UsageError."""
    bounded = bool((scores >= 0).all() and (scores <= 1 + 1e-3).all())
    told = answers.output_kind or (said.output if said else None)
    if told not in (None, "logits", "probabilities"):
        raise UsageError("invalid_output_kind", f"--output-kind must be logits or probabilities, got {told}")
    if told == "probabilities" and not bounded:
        message = f"the model returns scores from {scores.min():.3g} to {scores.max():.3g}, which are not probabilities"
        raise UsageError("invalid_output_kind", message, "Use `--output-kind logits`.")
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
    """Flatten the output to [N, classes], and free a fixed batch of several images. shape: of an output."""
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
    """Return the model's origin. A file that mlinfer created keeps its provenance, because its graph does not change."""
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
    """Return the type of most weights."""
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
