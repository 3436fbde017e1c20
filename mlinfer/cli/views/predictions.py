"""Write predictions: a table, or a line for each image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...config import Config
from ...terminal import Terminal, one_line

if TYPE_CHECKING:
    from ...targets import Result


def _short_names(results: Sequence[Result]) -> dict[str, str]:
    """Return the file name of each image, or the full path if two file names are equal."""
    full = {result.name for result in results}
    short = {name: Path(name).name for name in full}
    return short if len(set(short.values())) == len(full) else {name: name for name in full}


def describe_result(result: Result) -> dict[str, Any]:
    """Return the JSON Lines document for one image of several."""
    return {"image": result.name, **({"error": result.error.as_json()} if result.error else result.body)}


def show_predictions(terminal: Terminal, results: list[Result], config: Config, *, alone: bool) -> None:
    """Write the classes of one image; for several, one class each unless --top-k asks for more."""
    count = 1 if config.origins["top_k"] == "default" and not alone else config.top_k
    names, rows = _short_names(results), []
    for result in results:
        for place, prediction in enumerate(result.body.get("predictions", [])[:count]):
            name = () if alone else (one_line(names[result.name]) if place == 0 else "",)
            rows.append((*name, one_line(prediction["label"]), float(prediction["score"])))
    if rows:
        terminal.rows(rows)


def say_who_answered(terminal: Terminal, results: list[Result], config: Config) -> None:
    """Write which model answered, and where."""
    model = next((result.body["model"] for result in results if not result.error), None)
    if model is None:
        return
    terminal.note(f"Answered by {model['name']} ({model['sha256'][:12]}), target {config.target}.")
    if model["name"] == "starter":
        terminal.note("The starter model has 10 classes (CIFAR-10). For 1000 classes: mlinfer export resnet18")
