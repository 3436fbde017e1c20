"""A classifier to export, from torchvision or an ONNX file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lambda_src.inference.metadata import Metadata

from ..errors import MissingError, UsageError, VerificationError
from ..files import read_text
from .parity import Ask


@dataclass(frozen=True)
class Source:
    """A classifier to export: its metadata, and how to write and run it.

    ask: runs the original model. one_by_one: the model does not accept batches. hint: what to do if the exported file
    fails. files: other files that it reads, in addition to the user's. old_schema: it is a model file of schema 1.
    """

    metadata: Metadata
    write: Callable[[Metadata, Path], None]
    ask: Ask
    one_by_one: bool = False
    hint: str = ""
    files: tuple[Path, ...] = ()
    old_schema: bool = False


@dataclass(frozen=True)
class Answers:
    """The user's options for metadata that the model lacks, None if not given.

    labels: by index. preprocess: imagenet, none, JSON or a JSON file. output: the name of one of several outputs.
    """

    name: str | None = None
    labels: tuple[str, ...] | None = None
    preprocess: str | None = None
    output_kind: str | None = None
    output: str | None = None


def missing_extra(module: str, libraries: str) -> MissingError:
    """Return the error for a missing module of the `export` extra. libraries: what to install."""
    hint = f"Install it with `pip install {libraries}`."
    return MissingError("missing_extra", f"this command requires {module}, which is not installed", hint)


def no_classifier(reason: str) -> VerificationError:
    """Return the error for a model that does not return one score for each class."""
    return VerificationError("no_classifier", "the model is not an image classifier", reason=reason)


def checked_name(name: str) -> str:
    """Return the name if it is valid for a file and an S3 key. Raises UsageError."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        return name
    raise UsageError(
        "invalid_name", f"invalid model name {name!r}: use up to 100 letters, digits, dots, dashes and underscores"
    )


def safe_name(text: str) -> str:
    """Return the text as a valid name, with dashes for other characters."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:100] or "model"


def json_object(text: str) -> dict[str, Any]:
    """Read a JSON object from text or from a file. Raises UsageError, MissingError."""
    if not text.lstrip().startswith("{") and not text.endswith(".json"):
        raise UsageError(
            "invalid_preprocess", f"--preprocess must be imagenet, none, JSON or a JSON file, got {text!r}"
        )
    try:
        value = json.loads(text if text.lstrip().startswith("{") else read_text(Path(text)))
    except ValueError as error:
        raise UsageError("invalid_preprocess", "--preprocess is not valid JSON", reason=error) from error
    if not isinstance(value, dict):
        raise UsageError("invalid_preprocess", "--preprocess must be a JSON object")
    return value
