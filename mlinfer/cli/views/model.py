"""Write the description of a model file, and warnings about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...config import FILE_NAME, Config
from ...terminal import Terminal

if TYPE_CHECKING:
    from ...model.modelfile import ModelFile


def show_model(terminal: Terminal, file: ModelFile) -> None:
    """Write the description of a model file."""
    from ...model import modelfile

    facts = modelfile.describe(file, *modelfile.read_ports(file.path))
    if terminal.as_json:
        terminal.document(facts)
    else:
        facts["image"]["supported"] = facts["image"].pop("takes_it")
        labels = {name: "container image" if name == "image" else name.replace("_", " ") for name in facts}
        terminal.rows((labels[name], modelfile.in_words(value)) for name, value in facts.items())


def warn_of_unused_model(terminal: Terminal, config: Config) -> None:
    """Note that a model named for this command is not copied into the container image. Raises MlinferError."""
    from ...model.path import read_configured_model

    origin = config.origins["model"]
    if config.model_source == "s3" and origin not in ("default", FILE_NAME):
        model = read_configured_model(config)
        terminal.note(
            f"{model.path} (from {origin}) is not in this container image: the function gets its model from S3. "
            "To include it, use --model-source image."
        )


def warn_of_size(terminal: Terminal, config: Config) -> None:
    """Warn if the model barely fits the function's memory or /tmp. Raises UsageError if it does not fit."""
    from ...model import footprint
    from ...model.path import model_path

    size = model_path(config).stat().st_size
    if note := footprint.foresee(size, config.memory, config.tmp if config.model_source == "s3" else None):
        terminal.note(note)
