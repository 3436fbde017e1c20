"""Export a classifier to one model file with metadata, and verify that its predictions are the same."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from lambda_src.errors import FaultError
from lambda_src.inference.classifier import Classifier
from lambda_src.inference.metadata import Metadata
from lambda_src.settings import default_threads

from .. import __version__
from ..errors import UsageError, VerificationError
from ..files import check_output, workspace
from .graph import read_graph, stamp
from .labels import duplicates, read_labels
from .modelfile import ModelFile, has_old_schema, is_ours, read_model_file
from .onnx_import import read_onnx
from .parity import compare, fixed_pixels, run
from .quantize import Track, quantize
from .runtime import refusal
from .samples import SamplePicture, draw, find, spread
from .source import Answers, Source
from .torchvision_import import read_torchvision

FOLDER = Path("models")
PARITY_PICTURES = 64


@dataclass(frozen=True)
class Request:
    """What to export. model: a torchvision architecture or an .onnx file. calibration: a directory of images.

    weights: only for an architecture. labels: a file of labels, which replaces `answers.labels`. out: default
    models/NAME.onnx. quantize: int8, or None to keep the precision. force: replace a file that mlinfer did not create.
    """

    model: str
    weights: str | None = None
    answers: Answers = field(default_factory=Answers)
    out: Path | None = None
    quantize: str | None = None
    calibration: Path | None = None
    allow_drop: bool = False
    labels: Path | None = None
    force: bool = False


def export(request: Request, tell: Callable[[str], None], track: Track) -> ModelFile:
    """Write the file, but only if it is complete and verified. Raises MlinferError."""
    _check(request)
    try:
        return _export(request, tell, track)
    except MemoryError as error:
        message = f"this machine has too little memory to export {request.model}"
        raise VerificationError("out_of_memory", message, "Export it on a machine with more memory.") from error


def _export(request: Request, tell: Callable[[str], None], track: Track) -> ModelFile:
    with TemporaryDirectory(prefix="mlinfer-") as folder:
        return _export_with(request, Path(folder), tell=tell, track=track)


def _export_with(request: Request, scratch: Path, *, tell: Callable[[str], None], track: Track) -> ModelFile:
    if request.labels:
        labels = read_labels(request.labels)  # read only once, because it can be a pipe
        request = replace(request, answers=replace(request.answers, labels=labels))
        if shared := duplicates(labels):
            tell(shared)
    upgrades = _upgrades(request)
    source = _read(request, scratch, tell=tell)
    pictures = find(request.calibration, source.metadata.labels) if request.calibration else draw()
    suffix = f"-{request.quantize}" if request.quantize and not request.answers.name else ""
    metadata = replace(source.metadata, name=source.metadata.name + suffix)
    out = request.out or (Path(request.model) if upgrades else FOLDER / f"{metadata.name}.onnx")
    read = [*source.files, *(Path(picture.name) for picture in pictures if request.calibration)]
    _check_out(out, replace(request, model="") if upgrades else request, read)
    with workspace(out.resolve()) as folder:
        made = folder / "float.onnx"
        _write_verified(source, metadata, made, pictures=pictures)
        if request.quantize:
            figures = quantize(made, made := folder / "int8.onnx", pictures, track=track, allow_drop=request.allow_drop)
            for warning in figures.warnings():
                tell(warning)
        os.replace(made, out.resolve())  # a symbolic link stays a link
    return read_model_file(out)


def _check(request: Request) -> None:
    if request.quantize not in (None, "int8"):
        raise UsageError("unknown_precision", f"--quantize {request.quantize} is not supported: use int8")
    if request.quantize and not request.calibration:
        hint = "Add `--calibration DIR`, a directory of 50 or more typical images."
        raise UsageError("no_calibration", "--quantize int8 requires calibration images", hint)
    if request.allow_drop and not request.quantize:
        raise UsageError("usage", "--allow-drop requires --quantize int8")
    if request.calibration:
        find(request.calibration, ())  # fail before anything is downloaded or converted
    if request.out and not _upgrades(request):
        _check_out(request.out, request, [])
    if request.weights and _is_file(request.model):
        raise UsageError("usage", "--weights cannot be used with an .onnx file")


def _upgrades(request: Request) -> bool:
    """Tell whether the command only upgrades a model file of schema 1, which it replaces after the verification."""
    path = Path(request.model)
    if not _is_file(request.model) or request.answers != Answers() or request.labels or request.quantize:
        return False
    return (request.out is None or request.out.resolve() == path.resolve()) and has_old_schema(path)


def _check_out(out: Path, request: Request, read: Sequence[Path]) -> None:
    """Refuse to replace an input, a directory, or a file that is not a model of mlinfer. Raises UsageError."""
    told = request.answers.preprocess
    named = (request.model, request.weights, request.labels, told if told and told.endswith(".json") else None)
    inputs = [*(Path(name) for name in named if name), *read]
    check_output(out, inputs, is_ours=is_ours, force=request.force)


def _is_file(model: str) -> bool:
    """Tell whether it is a path: no torchvision name contains a dot or a slash."""
    return "." in model or os.sep in model


def _read(request: Request, scratch: Path, *, tell: Callable[[str], None]) -> Source:
    if _is_file(request.model):
        return read_onnx(Path(request.model), request.answers, scratch, tell=tell)
    return read_torchvision(request.model, request.weights, request.answers, tell=tell)


def _write_verified(source: Source, metadata: Metadata, path: Path, *, pictures: Sequence[SamplePicture]) -> None:
    """Write the file, compare its output with the source's, and add the result to its metadata.

    The handler's own class runs the file, after the source, so that only one is in memory. Raises VerificationError.
    """
    import onnx

    draft = path.with_suffix(".draft.onnx")
    source.write(metadata, draft)
    made = read_model_file(draft)
    if reason := refusal(made.ir_version, made.opset):
        raise VerificationError("unsupported_model", "the container image cannot run the exported model", reason=reason)
    expected = source.ask(_inputs(source, pictures))
    try:
        onnx.checker.check_model(read_graph(draft))
        classifier = Classifier(draft, made.sha256, default_threads({}))
        run(classifier, next(_inputs(source, pictures)))  # detects a model whose output depends on earlier inputs
        parity = compare(expected, [run(classifier, pixels) for pixels in _inputs(source, pictures)])
    except FaultError as error:
        raise VerificationError("unusable_model", str(error), source.hint) from error
    if not parity.holds:
        message = (
            f"the exported model's output differs from the source by up to {parity.max_abs_diff:g} "
            f"(relative {parity.max_relative_diff:.2g}, limit {parity.tolerance:g}), so no file was written"
        )
        raise VerificationError("parity", message, source.hint)
    provenance = {"parity": asdict(parity)} | metadata.provenance
    if source.old_schema:
        provenance["upgrade"] = {"from": "schema 1", "exporter": f"mlinfer {__version__}", "parity": asdict(parity)}
    stamp(draft, replace(metadata, provenance=provenance), path)


def _inputs(source: Source, pictures: Sequence[SamplePicture]) -> Iterator[NDArray[np.uint8]]:
    spec = source.metadata.preprocess
    fixed = fixed_pixels(spec, (1, 1, 1, 1) if source.one_by_one else (1, 3))
    return chain(fixed, (sample.pixels(spec) for sample in spread(pictures, PARITY_PICTURES)))
