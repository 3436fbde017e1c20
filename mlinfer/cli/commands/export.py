"""`mlinfer export`: make a model file that describes itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ..application import command
from ..options import (
    OutputOptions,
)
from ..views.model import show_model


@dataclass(frozen=True)
class ExportOptions:
    """What the model file is made of, and where to."""

    weights: Annotated[
        str | None,
        typer.Option(metavar="NAME|random|FILE", help="Weights of torchvision, or a state dict; default: the best."),
    ] = None
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Names of the classes: one per line, JSON, or a config.json of Hugging Face."
        ),
    ] = None
    preprocess: Annotated[
        str | None, typer.Option(metavar="imagenet|none|JSON", help="How a picture becomes an ONNX file's input.")
    ] = None
    output_kind: Annotated[
        str | None, typer.Option(metavar="logits|probabilities", help="What an ONNX file's output holds.")
    ] = None
    output: Annotated[str | None, typer.Option(metavar="NAME", help="Which of several outputs to keep.")] = None
    name: Annotated[str | None, typer.Option(help="Name of the model; default: the architecture's or file's.")] = None
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to; default: models/NAME.onnx.")] = None
    quantize: Annotated[
        str | None, typer.Option(metavar="int8", help="A quarter of the size and a third of the time, checked.")
    ] = None
    calibration: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Pictures to check with; a subfolder per class gives accuracies.")
    ] = None
    allow_drop: Annotated[bool, typer.Option("--allow-drop", help="Keep an int8 file that answers differently.")] = (
        False
    )
    force: Annotated[
        bool, typer.Option("--force", help="Replace a file at --out that is not a model file of mlinfer.")
    ] = False


@command
def export(
    model: Annotated[
        str, typer.Argument(metavar="[ARCH|FILE.onnx]", help="A classifier of torchvision by name, or an ONNX file.")
    ] = "resnet18",
    *,
    wanted: ExportOptions,
    output: OutputOptions,
) -> None:
    """Make one self-describing model file, and prove that it answers as its source does:  mlinfer export resnet18"""
    from ...model.export import Request
    from ...model.export import export as export_model
    from ...model.source import Answers

    terminal = output.make_terminal()
    answers = Answers(wanted.name, None, wanted.preprocess, wanted.output_kind, wanted.output)
    request = Request(
        model,
        wanted.weights,
        answers,
        wanted.out,
        wanted.quantize,
        wanted.calibration,
        wanted.allow_drop,
        wanted.labels,
        wanted.force,
    )
    file = export_model(request, tell=terminal.note, track=terminal.track)
    show_model(terminal, file)
