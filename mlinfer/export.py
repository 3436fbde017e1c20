"""Make one self-describing model file of a classifier, and prove that it gives the same answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from lambda_src.errors import FaultError
from lambda_src.metadata import Metadata
from lambda_src.model import Classifier
from lambda_src.settings import default_threads

from .adopt import read_onnx
from .errors import UsageError, VerificationError
from .files import workspace
from .modelfile import ModelFile, read_model_file
from .parity import Parity, compare, fixed_inputs
from .quantize import Track, quantize
from .runtime import refusal
from .samples import Sample, draw, find, spread
from .source import Answers, Source
from .zoo import read_torchvision

if TYPE_CHECKING:
    from onnx import ModelProto

FOLDER = Path("models")
PARITY_PICTURES = 64


@dataclass(frozen=True)
class Request:
    """What to export. model: an architecture of torchvision, or a .onnx file. calibration: a folder of pictures.

    weights: of an architecture only. out: default models/NAME.onnx. quantize: int8, or None for the precision as it is.
    """

    model: str
    weights: str | None = None
    answers: Answers = Answers()
    out: Path | None = None
    quantize: str | None = None
    calibration: Path | None = None
    allow_drop: bool = False


def export(request: Request, tell: Callable[[str], None], track: Track) -> ModelFile:
    """Write the file: whole, verified and with its figures, or not at all. Raises MlinferError."""
    _check(request)
    source = _read(request, tell)
    pictures = find(request.calibration, source.metadata.labels) if request.calibration else draw()
    suffix = f"-{request.quantize}" if request.quantize and not request.answers.name else ""
    metadata = replace(source.metadata, name=source.metadata.name + suffix)
    out = request.out or FOLDER / f"{metadata.name}.onnx"
    with workspace(out) as folder:
        made = folder / "float.onnx"
        metadata = _verified(source, metadata, made, pictures)
        if request.quantize:
            made = quantize(made, folder / "int8.onnx", pictures, track, allow_drop=request.allow_drop)
        else:
            write_model(source.graph, metadata, made)
        read_model_file(made)
        os.replace(made, out)
    return read_model_file(out)


def write_model(graph: ModelProto, metadata: Metadata, path: Path) -> None:
    """Write one ONNX file with this metadata, in place of any that it had. Raises OSError."""
    import onnx

    kept = {p.key: p.value for p in graph.metadata_props if not p.key.startswith("mlinfer.")}
    onnx.helper.set_model_props(graph, kept | metadata.to_props())
    onnx.save(graph, path)


def _check(request: Request) -> None:
    if request.quantize and not request.calibration:
        hint = "Give --calibration DIR: a folder of pictures like those that the model will see, 50 or more."
        raise UsageError("no_calibration", "int8 needs pictures to find the range of each layer", hint)
    if request.weights and _is_file(request.model):
        raise UsageError("usage", "--weights belongs to an architecture; a .onnx file has its own")


def _is_file(model: str) -> bool:
    return model.lower().endswith(".onnx") or os.sep in model


def _read(request: Request, tell: Callable[[str], None]) -> Source:
    if _is_file(request.model):
        return read_onnx(Path(request.model), request.answers)
    return read_torchvision(request.model, request.weights, request.answers, tell)


def _verified(source: Source, metadata: Metadata, path: Path, pictures: Sequence[Sample]) -> Metadata:
    """Write the file to `path`, ask it and its source the same things, and return the metadata with the outcome.

    The file is asked through the handler's own class. Raises VerificationError.
    """
    write_model(source.graph, metadata, path)
    made = read_model_file(path)
    if reason := refusal(made.ir_version, made.opset):
        raise VerificationError("unsupported_model", f"the image cannot run this model: {reason}")
    try:
        classifier = Classifier(path, made.sha256, default_threads({}))
        parity = _parity(source, classifier, pictures)
    except FaultError as error:
        raise VerificationError("unusable_model", str(error)) from error
    if not parity.holds:
        message = f"the file's answers differ from its source's by up to {parity.max_abs_diff:g}; {parity.tolerance:g} is the limit"
        raise VerificationError("parity", message, "No file was written.")
    return replace(metadata, provenance=metadata.provenance | {"parity": asdict(parity)})


def _parity(source: Source, classifier: Classifier, pictures: Sequence[Sample]) -> Parity:
    spec = classifier.metadata.preprocess
    fixed = fixed_inputs(spec, (1, 1, 1, 1) if source.one_by_one else (1, 3))
    shown = (sample.tensor(spec) for sample in spread(pictures, PARITY_PICTURES))
    return compare(source.run, classifier.run, chain(fixed, shown))
