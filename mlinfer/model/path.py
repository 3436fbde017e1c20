"""Find the model file: the configured one, or the starter model in the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..config import STARTER as STARTER_NAME
from ..config import Config
from ..errors import MissingError, UsageError

if TYPE_CHECKING:
    from .modelfile import ModelFile

STARTER = Path(__file__).parents[1] / "starter.onnx"


def model_path(config: Config) -> Path:
    """Return the configured model file, or the starter model. Raises MissingError, UsageError."""
    path = STARTER if config.model in ("", STARTER_NAME) else Path(config.model)
    if path.is_dir():
        from .formats import recognise_folder
        from .modelfile import not_a_model

        raise not_a_model(path, recognise_folder(path))
    if path.exists() and not path.is_file():
        message = f"model {path} (from {config.origins['model']}) must be a regular file, not a pipe or a device"
        raise UsageError("not_a_file", message, "Save the model as a file and use its path.")
    if not path.is_file():
        hint = "Check the path, or omit the model to use the starter model."
        raise MissingError(
            "model_not_found", f"model file {path} (from {config.origins['model']}) does not exist", hint
        )
    return path


def read_configured_model(config: Config) -> ModelFile:
    """Return the configured model file. Raises MissingError, UsageError if a function cannot use it."""
    from .modelfile import read_model_file, require_metadata

    model = read_model_file(model_path(config))
    require_metadata(model)
    return model


def find_configured_model(config: Config) -> ModelFile | None:
    """Return the configured model file, None if it does not exist. Raises UsageError."""
    from .modelfile import read_model_file

    try:
        return read_model_file(model_path(config))
    except MissingError:
        return None
