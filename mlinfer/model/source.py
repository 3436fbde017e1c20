"""A classifier on its way to becoming a model file, wherever it comes from."""

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
    """What the file will say of itself, and what writes it with that.

    ask: how the original answers; it is held in memory no longer than that takes, where it can be. one_by_one: it takes
    no batches. hint: what to do if the file does not answer. files: what else it reads, beside what the user named.
    """

    metadata: Metadata
    write: Callable[[Metadata, Path], None]
    ask: Ask
    one_by_one: bool = False
    hint: str = ""
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Answers:
    """What the user says of the model where it does not say it itself; None where nothing was said.

    labels: by index. preprocess: imagenet, none, JSON or a JSON file. output: the name of one of several outputs.
    """

    name: str | None = None
    labels: tuple[str, ...] | None = None
    preprocess: str | None = None
    output_kind: str | None = None
    output: str | None = None


def missing_extra(module: str, libraries: str) -> MissingError:
    """Return the error for a module of the `export` extra that is not installed; libraries: what to install."""
    hint = f"Install it with: pip install {libraries}"
    return MissingError("missing_extra", f"this needs {module}, which is not installed", hint)


def no_classifier(reason: str) -> VerificationError:
    """Return the error for a graph that does not answer one picture with one score for each class."""
    return VerificationError("no_classifier", f"this is no image classifier: {reason}")


def checked_name(name: str) -> str:
    """Return the name if it can be a file's and a key's. Raises UsageError."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        return name
    raise UsageError("invalid_name", f"the name {name!r} is not of letters, digits, dots, dashes and underscores")


def safe_name(text: str) -> str:
    """Return the text with what a name cannot hold made a dash."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:100] or "model"


def json_object(text: str) -> dict[str, Any]:
    """Read a JSON object given as text, or as the name of a file that holds it. Raises UsageError, MissingError."""
    if not text.lstrip().startswith("{") and not text.endswith(".json"):
        raise UsageError("invalid_preprocess", f"--preprocess is {text!r}: not imagenet, none, JSON or a JSON file")
    try:
        value = json.loads(text if text.lstrip().startswith("{") else read_text(Path(text)))
    except ValueError as error:
        raise UsageError("invalid_preprocess", f"--preprocess is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise UsageError("invalid_preprocess", "--preprocess is no JSON object")
    return value
