"""A classifier on its way to becoming a model file, wherever it comes from."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lambda_src.metadata import Metadata

from ..errors import MissingError, UsageError
from .parity import Ask


@dataclass(frozen=True)
class Source:
    """What the file will say of itself, and what writes it with that.

    ask: how the original answers; it is held in memory no longer than that takes, where it can be. one_by_one: it takes
    no batches.
    """

    metadata: Metadata
    write: Callable[[Metadata, Path], None]
    ask: Ask
    one_by_one: bool = False


@dataclass(frozen=True)
class Answers:
    """What the user says of the model where it does not say it itself; None where nothing was said.

    labels: a file. preprocess: imagenet, none, JSON or a JSON file. output: the name of one of several outputs.
    """

    name: str | None = None
    labels: Path | None = None
    preprocess: str | None = None
    output_kind: str | None = None
    output: str | None = None


def missing_extra(module: str) -> MissingError:
    """Return the error for a module of the `export` extra that is not installed."""
    hint = "Install it with: pip install 'mlinfer[export]'"
    return MissingError("missing_extra", f"this needs {module}, which is not installed", hint)


def checked_name(name: str) -> str:
    """Return the name if it can be a file's and a key's. Raises UsageError."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        return name
    raise UsageError("invalid_name", f"the name {name!r} is not of letters, digits, dots, dashes and underscores")


def safe_name(text: str) -> str:
    """Return the text with what a name cannot hold made a dash."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:100] or "model"


def read_labels(path: Path) -> tuple[str, ...]:
    """Read a JSON list of strings, or one label per line. Raises UsageError, MissingError."""
    text = read_text(path)
    if not text.lstrip().startswith("["):
        return tuple(line.strip() for line in text.rstrip().splitlines())
    try:
        labels = json.loads(text)
    except ValueError as error:
        raise UsageError("invalid_labels", f"{path} is not valid JSON: {error}") from error
    if not all(isinstance(label, str) for label in labels):
        raise UsageError("invalid_labels", f"{path} is not a JSON list of strings")
    return tuple(labels)


def check_labels(labels: Sequence[str], classes: int) -> None:
    """Check that there is one label for each class. Raises UsageError."""
    if len(labels) != classes:
        raise UsageError("wrong_labels", f"there are {len(labels):,} labels, and the model has {classes:,} classes")
    if not all(labels):
        raise UsageError("wrong_labels", f"label {list(labels).index('')} is empty: give one label per line")


def read_text(path: Path) -> str:
    """Read a text file that the user named. Raises MissingError, UsageError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise MissingError("file_not_found", f"there is no file {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("file_unreadable", f"{path} cannot be read: {error}") from error


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
