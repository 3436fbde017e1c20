"""`mlinfer export`: write a self-describing model file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ..application import IMAGES, MODEL, OUTPUT, command
from ..options import (
    OutputOptions,
)
from ..views.model import show_model


@dataclass(frozen=True)
class ExportOptions:
    """The source of the model file, and its path."""

    weights: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|random|FILE",
            help="Torchvision weights by name, or a state dict file.",
            show_default="the best",
            rich_help_panel=MODEL,
        ),
    ] = None
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Class names: one per line, JSON, or a config.json of Hugging Face.",
            rich_help_panel=MODEL,
        ),
    ] = None
    preprocess: Annotated[
        str | None,
        typer.Option(metavar="imagenet|none|JSON", help="Pre-processing of an ONNX model.", rich_help_panel=MODEL),
    ] = None
    output_kind: Annotated[
        str | None,
        typer.Option(
            metavar="logits|probabilities", help="What the output of an ONNX model holds.", rich_help_panel=MODEL
        ),
    ] = None
    output: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The output to keep, if there are several.", rich_help_panel=MODEL),
    ] = None
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Model name.", show_default="name of the architecture or file", rich_help_panel=MODEL
        ),
    ] = None
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Path of the model file.", show_default="models/NAME.onnx", rich_help_panel=OUTPUT
        ),
    ] = None
    quantize: Annotated[
        str | None,
        typer.Option(
            metavar="int8",
            help="Quantize to int8: a quarter of the size, about three times as fast.",
            rich_help_panel=MODEL,
        ),
    ] = None
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Images for the int8 check. Subfolders named like the classes add the accuracy.",
            rich_help_panel=IMAGES,
        ),
    ] = None
    allow_drop: Annotated[
        bool,
        typer.Option("--allow-drop", help="Keep an int8 model that gives different answers.", rich_help_panel=MODEL),
    ] = False
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace a file at --out that mlinfer did not write.", rich_help_panel=OUTPUT),
    ] = False


@command(
    "mlinfer export resnet18",
    "mlinfer export mobilenet_v3_small --quantize int8 --calibration photos/",
    "mlinfer export net.onnx --labels labels.txt --preprocess imagenet",
)
def export(
    model: Annotated[
        str, typer.Argument(metavar="[ARCH|FILE.onnx]", help="Name of a torchvision classifier, or an ONNX file.")
    ] = "resnet18",
    *,
    wanted: ExportOptions,
    output: OutputOptions,
) -> None:
    """Export a torchvision or ONNX model to a self-describing file.

    The file holds the model, its labels and its pre-processing. mlinfer verifies that it gives the same answers as the source, and records the result in the file.
    """
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
