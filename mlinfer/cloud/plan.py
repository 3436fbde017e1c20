"""What a step did to something in AWS, or would do: the value that `deploy` and its plan are told in."""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Outcome = Literal["made", "changed", "unchanged", "skipped"]
Document = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """detail: a few words for people. difference: a unified diff of what is there and what is wanted, "" if none."""

    outcome: Outcome
    detail: str = ""
    difference: str = ""


@dataclass(frozen=True)
class Step:
    """One step that has ended, or in a plan: that would be done."""

    name: str
    change: Change
    seconds: float


class Steps:
    """Takes down what each step did as it ends, and how long it took."""

    def __init__(self, report: Callable[[Step], None]) -> None:
        self._report = report
        self._since = time.perf_counter()
        self.done: list[Step] = []

    def ended(self, name: str, change: Change) -> None:
        """Take down and report a step that began where the one before ended."""
        now = time.perf_counter()
        self.done.append(Step(name, change, round(now - self._since, 3)))
        self._report(self.done[-1])
        self._since = time.perf_counter()


def compare(name: str, there: Document | None, wanted: Document, detail: str = "") -> Change:
    """Say what it takes to get from what is there (None: nothing) to what is wanted."""
    if there == wanted:
        return Change("unchanged", detail)
    return Change("changed" if there is not None else "made", detail, difference(name, there or {}, wanted))


def difference(name: str, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return the unified diff of two documents, by sorted keys."""
    before, after = (_lines(document) for document in (there, wanted))
    return "\n".join(difflib.unified_diff(before, after, f"{name} in AWS", f"{name} as wanted", lineterm="", n=2))


def _lines(document: Mapping[str, Any]) -> list[str]:
    return json.dumps(document, indent=2, sort_keys=True).splitlines() if document else []
