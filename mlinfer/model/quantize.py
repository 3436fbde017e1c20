"""int8: a quarter of the size, and on most networks a fraction of the time, for a known loss.

Activations are unsigned bytes and weights are 7 bits (-64..64), one scale per output channel. That is what is both fast
and safe: x86 processors without VNNI, which Lambda has too, add pairs of products in 16 bits and saturate
(`vpmaddubsw`). 255 x 64 + 255 x 64 = 32,640 fits; with 8-bit weights 255 x 127 x 2 = 64,770 does not, and the answers
would depend on the machine. `tests/model/test_quantize.py` takes the bound over the weights that are written. Under an
emulated Haswell (`qemu-x86_64 -cpu Haswell`) the starter's 7-bit form gave the same bits as on a processor with VNNI for
400 of 400 pictures; with 8-bit weights the best class changed for 40 of them. Signed activations were measured too: as
slow as float on a processor that has VNNI.
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
from .modelfile import read_ports
from .nodes import int8_share, is_quantised, model_nodes, to_float32
from .samples import SamplePicture, spread
from .source import missing_extra
from .space_to_depth import fold_stem

T = TypeVar("T")

MIN_AGREEMENT = 0.95
MIN_INT8_SHARE = 0.5  # of the weights' numbers
MAX_CALIBRATION, MAX_JUDGED = 200, 2000  # pictures; more cost time and change nothing that was seen
ENOUGH_TO_HOLD_OUT = 40
PER_CHANNEL_OPSET = 13  # https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html
SPEED_RUNS, SPEED_SECONDS = 20, 5.0  # whichever ends first, but three runs at least
# Tried in this order until one agrees with float. Convolutional networks are fastest when no operator leaves int8; in a
# transformer the normalisations and softmax lose too much, and its time is in the products anyway.
PLANS: dict[str, list[str] | None] = {"all": None, "products": ["Conv", "Gemm", "MatMul"]}


class Track(Protocol):
    """Passes items on, and may show how far it is."""

    def __call__(self, items: Iterator[T], total: int, what: str) -> Iterator[T]:
        """Yield the items."""


@dataclass(frozen=True)
class QuantizationFigures:
    """What int8 costs and gains. Shares are in 0..1; accuracies are None where no folder names a class.

    operators: the plan. held_out: the pictures that judge are not those that calibrated. speed_ratio: float's time by
    int8's, one thread, one picture at a time, on the machine that quantised.
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
        """Yield what speaks against using the int8 form, or against trusting these figures."""
        if not self.held_out:
            yield f"Only {self.judged_on} pictures: those that calibrated int8 judged it. Give {ENOUGH_TO_HOLD_OUT} or more."
        if self.speed_ratio < 1:
            yield f"int8 is slower than float here: {self.speed_ratio:g} times its speed."
        if self.size_ratio > 1:
            yield f"int8 is larger than float: {self.size_ratio:g} times its size."


def quantize(
    source: Path,
    target: Path,
    pictures: Sequence[SamplePicture],
    *,
    track: Track,
    allow_drop: bool,
    plans: Sequence[str] = tuple(PLANS),
) -> QuantizationFigures:
    """Write an int8 form of a model file, with its figures in the metadata.

    plans: those of PLANS to try, in this order. Raises VerificationError, MlinferError.
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
            f"int8 names the same class as float for {figures.top1_agreement:.1%} of {figures.judged_on} pictures; "
            f"{MIN_AGREEMENT:.0%} is the least"
        )
        hint = "Calibrate with more pictures of the kind it will see, keep float, or accept it with --allow-drop."
        raise VerificationError("accuracy_drop", message, hint)
    figures = replace(figures, speed_ratio=_speed_ratio((source, form), judging))
    stamp(form, replace(metadata, provenance=metadata.provenance | {"quantization": asdict(figures)}), target)
    return figures


def split(pictures: Sequence[SamplePicture]) -> tuple[list[SamplePicture], list[SamplePicture]]:
    """Return the pictures to calibrate with and those to judge by: apart where there are enough, else the same."""
    if len(pictures) < ENOUGH_TO_HOLD_OUT:
        return list(pictures), list(pictures)
    calibrating = spread(pictures, min(MAX_CALIBRATION, len(pictures) // 2))
    used = set(map(id, calibrating))
    return calibrating, spread([picture for picture in pictures if id(picture) not in used], MAX_JUDGED)


def _metadata_to_quantise(source: Path) -> Metadata:
    metadata = Classifier(source, "", 1).metadata
    if metadata.provenance.get("precision") == "int8" or is_quantised(read_graph(source)):
        raise VerificationError(
            "already_int8", "the model is int8 already", "Quantise the float model that it is from."
        )
    spec = metadata.preprocess
    if spec.dtype == "float16":
        spec = replace(spec, dtype="float32")  # as `_write_float` makes the graph
    return replace(metadata, preprocess=spec, provenance=metadata.provenance | {"precision": "int8"})


def _write_int8(
    source: Path, target: Path, plan: str, *, metadata: Metadata, pictures: Iterator[SamplePicture]
) -> None:
    """Write the graph with QDQ pairs for what the plan names. Raises VerificationError where most weights stay as they are."""
    folded, bare = target.with_suffix(".folded.onnx"), target.with_suffix(".bare.onnx")
    with _quiet():
        _write_float(source, folded)
        try:
            fold_stem(folded, metadata.preprocess)
            _add_pairs(folded, bare, plan, preprocess=metadata.preprocess, pictures=pictures)
        except MlinferError:
            raise
        except Exception as error:  # the quantiser raises what it likes of a graph that it does not know
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            message = f"onnxruntime's quantiser cannot make int8 of this graph: {reason}"
            raise VerificationError("not_quantizable", message, "Keep the model in float.") from error
    _check_int8(bare)
    stamp(bare, metadata, target)


def _add_pairs(
    folded: Path, bare: Path, plan: str, *, preprocess: Preprocess, pictures: Iterator[SamplePicture]
) -> None:
    """Let onnxruntime find each tensor's range on the pictures, and write the graph with pairs of QDQ nodes."""
    try:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise missing_extra("onnx", "onnx") from error

    inputs, _ = read_ports(folded)

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # untyped
        def get_next(self) -> dict[str, NDArray[Any]] | None:
            picture = next(pictures, None)
            return None if picture is None else {inputs[0].name: picture.tensor(preprocess)}

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
    """Refuse an int8 form whose weights are mostly not int8. Raises VerificationError."""
    graph = read_graph(path)
    if (share := int8_share(graph)) >= MIN_INT8_SHARE:
        return
    message = f"only {share:.0%} of the weights became int8; {MIN_INT8_SHARE:.0%} is the least"
    hint = "Keep the model in float."
    if fused := sorted({node.op_type for node in model_nodes(graph) if node.domain == "com.microsoft"}):
        message += f": onnxruntime optimised this graph, and {', '.join(fused)} cannot be quantised"
        hint = "Quantise the model as it was before onnxruntime optimised it."
    raise VerificationError("not_quantizable", message, hint)


def _flatten_biases(path: Path) -> list[str]:
    """Give each `Gemm` a bias of one dimension, as the quantiser needs; return the nodes for which there is none.

    A bias of [1, N] comes from MatMul and Add, which onnxruntime's optimisation makes a Gemm.
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
    """Copy the model in float32, converted where its opset has no scale per channel yet. Raises VerificationError."""
    import onnx

    model = onnx.load(source)
    if to_float32(model):
        del model.graph.value_info[:]
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if opset < PER_CHANNEL_OPSET:
        try:
            model = onnx.version_converter.convert_version(model, PER_CHANNEL_OPSET)
        except Exception as error:  # the converter raises what it likes of a graph that it does not know
            message = f"int8 needs opset {PER_CHANNEL_OPSET}; the model has {opset}, and cannot be converted: {error}"
            raise VerificationError("opset_too_old", message, "Export it again with a later opset.") from error
    onnx.save(model, target)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the quantiser's advice, which is for its developers."""
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
    """Ask float and int8 about every picture to judge by, and time them in turns. Raises VerificationError."""
    calibrating, judging = pictures
    try:
        models = [Classifier(path, "", default_threads({})) for path in files]
        best = np.array([_best(models, p) for p in track(iter(judging), len(judging), "Comparing")])
    except FaultError as error:
        raise VerificationError("unusable_model", f"the int8 form does not run: {error}") from error
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
        speed_ratio=math.nan,  # measured once, of the form that is kept
    )


def _best(models: Sequence[Classifier], picture: SamplePicture) -> list[int]:
    return [int(model.run(picture.tensor(model.metadata.preprocess))[0].argmax()) for model in models]


def _speed_ratio(files: tuple[Path, Path], pictures: Sequence[SamplePicture]) -> float:
    """Return float's median time by int8's; they run in turns, so that another load on the machine slows both."""
    models = [Classifier(path, "", threads=1) for path in files]
    batches = [pictures[0].tensor(model.metadata.preprocess) for model in models]
    turns: list[list[float]] = []
    end = math.inf
    while len(turns) <= 3 or (len(turns) <= SPEED_RUNS and time.perf_counter() < end):
        turns.append([_second_run(model, batch) for model, batch in zip(models, batches, strict=True)])
        end = min(end, time.perf_counter() + SPEED_SECONDS)
    slow, fast = np.median(turns[1:], axis=0)  # the first turn allocates
    return float(f"{slow / fast:.2f}")


def _second_run(model: Classifier, batch: NDArray[Any]) -> float:
    """Return the seconds of the second of two runs: the first has the caches full of the other model."""
    model.run(batch)
    started = time.perf_counter()
    model.run(batch)
    return time.perf_counter() - started
