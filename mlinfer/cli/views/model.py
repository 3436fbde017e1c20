"""How a model file is described."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...terminal import Terminal

if TYPE_CHECKING:
    from ...model.modelfile import ModelFile


def show_model(terminal: Terminal, file: ModelFile) -> None:
    """Write what a model file says of itself."""
    from ...model import modelfile

    facts = modelfile.describe(file, *modelfile.read_ports(file.path))
    if terminal.as_json:
        terminal.document(facts)
    else:
        terminal.rows((name.replace("_", " "), modelfile.in_words(value)) for name, value in facts.items())
