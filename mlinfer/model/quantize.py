"""Quantize a model to int8, about a quarter of the size and much faster on most networks, and measure the loss.

Activations are unsigned bytes and weights have 7 bits (-64..64), with one scale per output channel. This is fast and
safe: x86 processors without VNNI, which Lambda also uses, add pairs of products in 16 bits and saturate (`vpmaddubsw`).
255 x 64 + 255 x 64 = 32,640 fits. With 8-bit weights, 255 x 127 x 2 = 64,770 does not, and the output would depend on the
machine. `tests/model/test_quantize.py` checks this bound for the written weights. On an emulated Haswell
(`qemu-x86_64 -cpu Haswell`), the starter model with 7 bits gave identical output to a processor with VNNI for 400 of 400
images. With 8-bit weights, the best class changed for 40. Signed activations are as slow as float on a processor with VNNI.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from lambda_src.errors import FaultError
from lambda_src.images.preprocess import Preprocess
from lambda_src.inference.classifier import Classifier
from lambda_src.inference.metadata import Metadata
from lambda_src.settings import default_threads

from ..errors import MlinferError, VerificationError
from .graph import read_graph, stamp
from .modelfile import read_model_file, read_ports, require_metadata
from .nodes import int8_share, is_quantised, model_nodes, to_float32
from .parity import run
from .pixel_input import remove_pixel_input, to_tensor, write_pixel_model
from .samples import SamplePicture, spread
from .source import missing_extra
from .space_to_depth import fold_stem

T = TypeVar("T")

MIN_AGREEMENT = 0.95
MIN_INT8_SHARE = 0.5  # share of the weights
MAX_CALIBRATION, MAX_JUDGED = 200, 2000  # images; more take time without a measurable effect
ENOUGH_TO_HOLD_OUT = 40
PER_CHANNEL_OPSET = 13  # https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html
SPEED_RUNS, SPEED_SECONDS = 20, 5.0  # whichever ends first, but at least three runs
# Tried in this order until one agrees with float. Convolutional networks are fastest with all operators in int8. In a
# transformer, normalization and softmax lose too much accuracy, and the products take most of the time.
PLANS: dict[str, list[str] | None] = {"all": None, "products": ["Conv", "Gemm", "MatMul"]}


class Track(Protocol):
    """Yield items unchanged, and optionally show the progress."""

    def __call__(self, items: Iterator[T], total: int, what: str) -> Iterator[T]:
        """Yield the items."""


@dataclass(frozen=True)
class QuantizationFigures:
    """The costs and gains of int8. Shares are in 0..1. Accuracies are None if no directory has the name of a class.

    operators: the plan. held_out: whether evaluation and calibration used different images. speed_ratio: float's time
    divided by int8's, with one thread and one image at a time, on the machine that quantized.
    """

    operators: str
    calibrated_on: int
    judged_on: int
    held_out: bool
    top1_agreement: float
    float_accuracy: float | None
    int8_accuracy: float | None
    size_ratio: float
    speed_ratio: float

    def warnings(self) -> Iterator[str]:
        """Yield reasons not to use the int8 model or not to trust these figures."""
        if not self.held_out:
            yield f"int8 was calibrated and evaluated with the same {self.judged_on} images. Use {ENOUGH_TO_HOLD_OUT} or more."
        if self.speed_ratio < 1:
            yield f"int8 is slower than float on this machine ({self.speed_ratio:g} times its speed)."
        if self.size_ratio > 1:
            yield f"The int8 model is larger than the float model ({self.size_ratio:g} times its size)."


def quantize(
    source: Path,
    target: Path,
    pictures: Sequence[SamplePicture],
    *,
    track: Track,
    allow_drop: bool,
    plans: Sequence[str] = tuple(PLANS),
) -> QuantizationFigures:
    """Write an int8 model file with the figures in its metadata.

    plans: names in PLANS, in the order to try. Raises VerificationError, MlinferError.
    """
    metadata = _metadata_to_quantise(source)
    calibrating, judging = split(pictures)
    tried: dict[Path, QuantizationFigures] = {}
    for plan in plans:
        form = target.with_suffix(f".{plan}.onnx")
        try:
            shown = track(iter(calibrating), len(calibrating), "Calibrating")
            _write_int8(source, form, plan, metadata=metadata, pictures=shown)
            tried[form] = _judge((source, form), plan, (calibrating, judging), track=track)
        except VerificationError:
            if plan == plans[-1] and not tried:
                raise
            continue
        if tried[form].top1_agreement >= MIN_AGREEMENT:
            break
    form, figures = max(tried.items(), key=lambda item: item[1].top1_agreement)
    if figures.top1_agreement < MIN_AGREEMENT and not allow_drop:
        message = (
            f"int8 and float predict the same class for only {figures.top1_agreement:.1%} of {figures.judged_on} images "
            f"(minimum {MIN_AGREEMENT:.0%})"
        )
        hint = "Calibrate with more typical images, or accept the loss with `--allow-drop`."
        raise VerificationError("accuracy_drop", message, hint)
    figures = replace(figures, speed_ratio=_speed_ratio((source, form), judging))
    stamp(form, replace(metadata, provenance=metadata.provenance | {"quantization": asdict(figures)}), target)
    return figures


def split(pictures: Sequence[SamplePicture]) -> tuple[list[SamplePicture], list[SamplePicture]]:
    """Return the images for calibration and for evaluation. They are the same if there are too few."""
    if len(pictures) < ENOUGH_TO_HOLD_OUT:
        return list(pictures), list(pictures)
    calibrating = spread(pictures, min(MAX_CALIBRATION, len(pictures) // 2))
    used = set(map(id, calibrating))
    return calibrating, spread([picture for picture in pictures if id(picture) not in used], MAX_JUDGED)


def _metadata_to_quantise(source: Path) -> Metadata:
    metadata = Classifier(source, "", 1).metadata
    if metadata.provenance.get("precision") == "int8" or is_quantised(read_graph(source)):
        raise VerificationError("already_int8", "the model is already int8", "Quantize the original float model.")
    steps = metadata.preprocess.arithmetic
    if steps and steps[-1] == {"dtype": "float16"}:
        steps = steps[:-1]  # like the graph from `_write_float`
    spec = replace(metadata.preprocess, arithmetic=steps)
    return replace(metadata, preprocess=spec, provenance=metadata.provenance | {"precision": "int8"})


def _write_int8(
    source: Path, target: Path, plan: str, *, metadata: Metadata, pictures: Iterator[SamplePicture]
) -> None:
    """Write the graph with QDQ pairs for the plan's operators. Raises VerificationError if most weights stay float."""
    folded, bare = target.with_suffix(".folded.onnx"), target.with_suffix(".bare.onnx")
    with _quiet():
        _write_float(source, folded)
        try:
            fold_stem(folded, metadata.preprocess.size)
            _add_pairs(folded, bare, plan, preprocess=metadata.preprocess, pictures=pictures)
        except MlinferError:
            raise
        except Exception as error:  # the quantizer raises any exception for an unknown graph
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise VerificationError(
                "not_quantizable",
                "onnxruntime cannot quantize this model to int8",
                "Export the model without `--quantize`.",
                reason=reason,
            ) from error
    _check_int8(bare)
    write_pixel_model(read_graph(bare), metadata, target, folder=bare.parent)


def _add_pairs(
    folded: Path, bare: Path, plan: str, *, preprocess: Preprocess, pictures: Iterator[SamplePicture]
) -> None:
    """Calibrate the range of each tensor with the images, and write the graph with pairs of QDQ nodes."""
    try:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise missing_extra("onnx", "onnx") from error

    inputs, _ = read_ports(folded)

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # untyped
        def get_next(self) -> dict[str, NDArray[Any]] | None:
            picture = next(pictures, None)
            return (
                None
                if picture is None
                else {inputs[0].name: to_tensor(picture.pixels(preprocess), preprocess.arithmetic)}
            )

    quant_pre_process(folded, folded, skip_symbolic_shape=True)
    left = _flatten_biases(folded)
    quantize_static(
        folded,
        bare,
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=PLANS[plan],
        nodes_to_exclude=left,
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def _check_int8(path: Path) -> None:
    """Refuse an int8 model whose weights are mostly not int8. Raises VerificationError."""
    graph = read_graph(path)
    if (share := int8_share(graph)) >= MIN_INT8_SHARE:
        return
    message = f"only {share:.0%} of the weights can be quantized to int8 (minimum {MIN_INT8_SHARE:.0%})"
    hint = "Export the model without `--quantize`."
    if fused := sorted({node.op_type for node in model_nodes(graph) if node.domain == "com.microsoft"}):
        message += f": onnxruntime optimized this model, and {', '.join(fused)} cannot be quantized"
        hint = "Quantize the original model, without onnxruntime's optimizations."
    raise VerificationError("not_quantizable", message, hint)


def _flatten_biases(path: Path) -> list[str]:
    """Flatten the bias of each `Gemm` to one dimension, as the quantizer requires. Return the nodes that have no such bias.

    A bias of [1, N] comes from MatMul and Add, which onnxruntime merges into a Gemm.
    """
    import onnx

    model = onnx.load(path)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    left = []
    for node in model.graph.node:
        if node.op_type != "Gemm" or len(node.input) < 3 or not node.input[2]:
            continue
        bias, kernel = weights.get(node.input[2]), weights.get(node.input[1])
        if bias is None or kernel is None or len(kernel.dims) != 2:
            continue
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        size = kernel.dims[0 if transposed else 1]
        if list(bias.dims) == [size]:
            continue
        values = onnx.numpy_helper.to_array(bias)
        if values.size not in (1, size) or (values.ndim == 2 and values.shape[0] != 1):
            node.name = node.name or node.output[0]
            left.append(node.name)
            continue
        name = f"{node.output[0]}_bias"
        flat = np.broadcast_to(values.reshape(-1), (size,)).copy()
        model.graph.initializer.append(onnx.numpy_helper.from_array(flat, name))
        node.input[2] = name
    onnx.save(model, path)
    return left


def _write_float(source: Path, target: Path) -> None:
    """Copy the network, without the nodes for its pixels, as float32, with an opset that has one scale per channel. Raises VerificationError."""
    import onnx

    model = onnx.load(source)
    remove_pixel_input(model, require_metadata(read_model_file(source)).preprocess)
    if to_float32(model):
        del model.graph.value_info[:]
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if opset < PER_CHANNEL_OPSET:
        try:
            model = onnx.version_converter.convert_version(model, PER_CHANNEL_OPSET)
        except Exception as error:  # the converter raises any exception for an unknown graph
            raise VerificationError(
                "opset_too_old",
                f"int8 requires opset {PER_CHANNEL_OPSET} or later, and the model (opset {opset}) cannot be converted",
                f"Export the model again with opset {PER_CHANNEL_OPSET} or later.",
                reason=error,
            ) from error
    onnx.save(model, target)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the quantizer's log messages, which are for developers."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)


def _judge(
    files: tuple[Path, Path],
    plan: str,
    pictures: tuple[Sequence[SamplePicture], Sequence[SamplePicture]],
    *,
    track: Track,
) -> QuantizationFigures:
    """Compare float and int8 on every image for evaluation. Raises VerificationError."""
    calibrating, judging = pictures
    try:
        models = [Classifier(path, "", default_threads({})) for path in files]
        best = np.array([_best(models, p) for p in track(iter(judging), len(judging), "Comparing")])
    except FaultError as error:
        raise VerificationError("unusable_model", "the int8 model fails", reason=error) from error
    labels = models[0].metadata.labels
    labelled = [i for i, picture in enumerate(judging) if picture.label]
    hits = [[labels[best[i, m]] == judging[i].label for i in labelled] for m in range(2)]
    accuracies = [float(f"{np.mean(hit):.4f}") if labelled else None for hit in hits]
    return QuantizationFigures(
        operators=plan,
        calibrated_on=len(calibrating),
        judged_on=len(judging),
        held_out=calibrating != judging,
        top1_agreement=float(f"{(best[:, 0] == best[:, 1]).mean():.4f}"),
        float_accuracy=accuracies[0],
        int8_accuracy=accuracies[1],
        size_ratio=float(f"{files[1].stat().st_size / files[0].stat().st_size:.3f}"),
        speed_ratio=math.nan,  # measured once, for the model that is kept
    )


def _best(models: Sequence[Classifier], picture: SamplePicture) -> list[int]:
    return [int(run(model, picture.pixels(model.metadata.preprocess))[0].argmax()) for model in models]


def _speed_ratio(files: tuple[Path, Path], pictures: Sequence[SamplePicture]) -> float:
    """Return float's median time divided by int8's. They run alternately, so that other load slows down both."""
    models = [Classifier(path, "", threads=1) for path in files]
    batches = [pictures[0].pixels(model.metadata.preprocess) for model in models]
    turns: list[list[float]] = []
    end = math.inf
    while len(turns) <= 3 or (len(turns) <= SPEED_RUNS and time.perf_counter() < end):
        turns.append([_second_run(model, batch) for model, batch in zip(models, batches, strict=True)])
        end = min(end, time.perf_counter() + SPEED_SECONDS)
    slow, fast = np.median(turns[1:], axis=0)  # without the first run, which allocates memory
    return float(f"{slow / fast:.2f}")


def _second_run(model: Classifier, batch: NDArray[np.uint8]) -> float:
    """Return the seconds of the second of two runs. The first fills the caches, which hold the other model."""
    run(model, batch)
    started = time.perf_counter()
    run(model, batch)
    return time.perf_counter() - started
