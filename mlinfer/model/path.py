"""Which model file is meant: the configured one, or the starter model that the package holds."""

from __future__ import annotations

from pathlib import Path

from ..config import STARTER as STARTER_NAME
from ..config import Config
from ..errors import MissingError, UsageError

STARTER = Path(__file__).parents[1] / "starter.onnx"


def model_path(config: Config) -> Path:
    """Return the configured model file, or the starter model. Raises MissingError, UsageError."""
    path = STARTER if config.model in ("", STARTER_NAME) else Path(config.model)
    if path.is_dir():
        from .formats import recognise_folder
        from .modelfile import not_a_model

        raise not_a_model(path, recognise_folder(path))
    if path.exists() and not path.is_file():
        message = f"{path} (from {config.origins['model']}) is a pipe or a device, and a model must be a regular file"
        raise UsageError("not_a_file", message, "Save the model as a file, and name that.")
    if not path.is_file():
        hint = "Give another file, or leave it out to use the starter model."
        raise MissingError("model_not_found", f"there is no model file {path} (from {config.origins['model']})", hint)
    return path
