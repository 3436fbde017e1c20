"""Convert a model file of schema 1 to the current schema: its graph gets the arithmetic that the handler did before."""

from __future__ import annotations

from pathlib import Path

from ..errors import MissingError
from .graph import read_graph
from .modelfile import read_model_file, require_metadata
from .pixel_input import write_pixel_model
from .source import missing_extra


def write_upgraded(source: Path, target: Path) -> None:
    """Write a copy of a model file of schema 1 that takes pixels. Raises MlinferError.

    It does not verify the answers: `mlinfer export` does, and `rollback` compares them with those of the function.
    """
    try:
        metadata = require_metadata(read_model_file(source, old=True))
        write_pixel_model(read_graph(source), metadata, target, folder=source.parent)
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "onnx", "onnx") from error
    except OSError as error:
        raise MissingError("cannot_write", f"cannot write {target}: {error.strerror}") from error
