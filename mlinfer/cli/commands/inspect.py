"""`mlinfer inspect`: show what a model file says of itself, or the configuration."""

from __future__ import annotations

from typing import Annotated

import typer

from ...config import Config
from ...terminal import Terminal
from ..application import command
from ..options import (
    OutputOptions,
    read_configuration,
)
from ..views.model import show_model


@command
def inspect(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="Model file; default: the configured one.")
    ] = None,
    *,
    config: Annotated[
        bool, typer.Option("--config", help="Show the configuration and where each value came from.")
    ] = False,
    output: OutputOptions,
) -> None:
    """Show what a model file says of itself:  mlinfer inspect models/resnet18.onnx"""
    terminal = output.make_terminal()
    values = read_configuration(model=model)
    if config:
        _show_config(terminal, values)
        return
    from ...model import modelfile
    from ...model.path import model_path

    path = model_path(values)
    file = modelfile.read_model_file(path)
    show_model(terminal, file)
    if file.metadata is None:
        terminal.note(
            "The file has no mlinfer metadata: its labels and pre-processing are unknown, so it cannot predict yet."
        )


def _show_config(terminal: Terminal, config: Config) -> None:
    if terminal.as_json:
        terminal.document({name: {"value": value, "origin": origin} for name, value, origin in config.items()})
    else:
        rows = [(name, "(none)" if value in ("", 0) else str(value), origin) for name, value, origin in config.items()]
        terminal.rows(rows, header=("key", "value", "from"))
