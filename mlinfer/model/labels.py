"""Read class labels from a text file (one per line), a JSON list, a JSON object, or a model's config.json."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..files import read_text

_SHOWN = 5  # items of a list in a message


def read_labels(path: Path) -> tuple[str, ...]:
    """Read labels, in the order of the classes, from a file or a pipe. Raises UsageError, MissingError.

    Text: one label per line. JSON: a list of strings, an object (index to label, or label to index), or an object with
    one of these as `id2label` or `label2id`, such as a Hugging Face config.json.
    """
    text = read_text(path)
    if path.suffix.lower() != ".json" and not text.lstrip().startswith(("[", "{")):
        return tuple(line.strip() for line in text.rstrip().split("\n")) if text.strip() else ()
    try:
        value = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise UsageError("invalid_labels", f"{path} is not valid JSON", reason=error) from error
    if isinstance(value, list) and all(isinstance(label, str) for label in value):
        return tuple(label.strip() for label in value)
    if isinstance(value, _Pairs):
        return _by_index(path, _label_pairs(path, value))
    raise UsageError("invalid_labels", f"{path} must contain a JSON list of strings or an object of indices and labels")


class _Pairs:
    """The pairs of a JSON object, so that duplicate names are found."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.pairs = pairs

    def get(self, name: str) -> Any:
        return next((value for key, value in self.pairs if key == name), None)


def _label_pairs(path: Path, found: _Pairs) -> list[tuple[int, str]]:
    """Return (index, label) of each pair. Raises UsageError."""
    inner = (found.get("id2label"), found.get("label2id"))
    found = next((part for part in inner if isinstance(part, _Pairs)), found)
    pairs = found.pairs
    if pairs and all(isinstance(value, int) and not isinstance(value, bool) for _, value in pairs):
        return [(index, label.strip()) for label, index in pairs]
    if pairs and all(key.isascii() and key.isdigit() and len(key) < 10 and isinstance(v, str) for key, v in pairs):
        return [(int(key), label.strip()) for key, label in pairs]
    hint = 'Use `{"0": "cat", "1": "dog"}`, `{"cat": 0, "dog": 1}`, or an object with `id2label` or `label2id`.'
    raise UsageError(
        "invalid_labels", f"the JSON object in {path} does not map indices to labels or labels to indices", hint
    )


def _by_index(path: Path, pairs: list[tuple[int, str]]) -> tuple[str, ...]:
    """Return the labels in the order of their indices, which must be 0 to N - 1. Raises UsageError."""
    indices = [index for index, _ in pairs]
    if twice := sorted(index for index, count in Counter(indices).items() if count > 1):
        raise UsageError("invalid_labels", f"{path} has several labels for the same index: {_listed(twice)}")
    if missing := sorted(set(range(len(pairs))) - set(indices)):
        other = sorted(set(indices) - set(range(len(pairs))))
        message = (
            f"{path} has {len(pairs):,} labels, but none for index {_listed(missing)} (unexpected: {_listed(other)})"
        )
        raise UsageError("invalid_labels", message, "Number the labels from 0 without gaps.")
    return tuple(label for _, label in sorted(pairs))


def check_labels(labels: Sequence[str], classes: int) -> None:
    """Check that there is one label for each class. Raises UsageError."""
    if len(labels) != classes:
        between = f" (from {labels[0]!r} to {labels[-1]!r})" if labels else ""
        message = f"the model has {classes:,} classes, but there are {len(labels):,} labels{between}"
        raise UsageError("wrong_labels", message, "Write one label for each class, in the order of the classes.")
    if not all(labels):
        raise UsageError("wrong_labels", f"label {list(labels).index('')} is empty")


def duplicates(labels: Sequence[str]) -> str:
    """Return a note about labels that several classes share, "" if there are none.

    This is not an error: ImageNet has two classes named `crane`.
    """
    classes: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        classes.setdefault(label, []).append(index)
    shared = [f"{label!r} ({_listed(found)})" for label, found in classes.items() if len(found) > 1]
    if not shared:
        return ""
    return f"Several classes have the same label: {_listed(shared)}."


def _listed(items: Sequence[object]) -> str:
    def some() -> Iterator[str]:
        yield from map(str, items[:_SHOWN])
        if len(items) > _SHOWN:
            yield f"{len(items) - _SHOWN:,} more"

    return ", ".join(some())
