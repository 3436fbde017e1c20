"""`mlinfer inspect`: show a model file or the configuration."""

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


@command("mlinfer inspect models/resnet18.onnx", "mlinfer inspect --config")
def inspect(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="Model file.", show_default="model in mlinfer.toml, or starter"),
    ] = None,
    *,
    config: Annotated[
        bool, typer.Option("--config", help="Show the configuration and where each value comes from.")
    ] = False,
    output: OutputOptions,
) -> None:
    """Show a model file or the configuration.

    For a model file, it shows name, hash, inputs, outputs, pre-processing, labels and origin.
    """
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
        terminal.note("The file has no mlinfer metadata (labels and pre-processing). Add it with `mlinfer export`.")


def _show_config(terminal: Terminal, config: Config) -> None:
    if terminal.as_json:
        terminal.document({name: {"value": value, "origin": origin} for name, value, origin in config.items()})
    else:
        rows = [(name, "(none)" if value in ("", 0) else str(value), origin) for name, value, origin in config.items()]
        terminal.rows(rows, header=("key", "value", "from"))
