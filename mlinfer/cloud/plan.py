"""The steps of a command that changes AWS. They can be shown as a plan or applied in order."""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Outcome = Literal["created", "changed", "unchanged", "skipped"]
Document = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """What a step changes. detail: a short text. difference: unified diff from AWS to the expected state, "" if none."""

    outcome: Outcome
    detail: str = ""
    difference: str = ""


@dataclass(frozen=True)
class StepResult:
    """What a step did, and its duration in seconds. In a preview: what it would do."""

    name: str
    change: Change
    seconds: float = 0.0

    @property
    def label(self) -> str:
        """Return the name that people read; `name` is the value under `--json`."""
        return "verify" if self.name == "proof" else self.name


@dataclass(frozen=True)
class Step:
    """One step of a plan. change: what it would do, given AWS at planning time.

    apply: reads AWS again, makes the changes still needed, and returns them. Raises MlinferError.
    """

    name: str
    change: Change
    apply: Callable[[], Change]


@dataclass(frozen=True)
class Plan:
    """The steps, in the order in which they must be done."""

    steps: tuple[Step, ...]

    def preview(self) -> tuple[StepResult, ...]:
        """Return what the steps would do, with durations of 0 s."""
        return tuple(StepResult(step.name, step.change) for step in self.steps)


def apply(plan: Plan, report: Callable[[StepResult], None]) -> tuple[StepResult, ...]:
    """Apply the plan, and report each step when it ends. Raises MlinferError."""
    done: list[StepResult] = []
    for step in plan.steps:
        since = time.perf_counter()
        change = step.apply()
        done.append(StepResult(step.name, change, round(time.perf_counter() - since, 3)))
        report(done[-1])
    return tuple(done)


def compare(name: str, there: Document | None, wanted: Document, *, detail: str = "") -> Change:
    """Return the change from what exists (None if nothing does) to what is wanted."""
    if there == wanted:
        return Change("unchanged", detail)
    return Change("changed" if there is not None else "created", detail, difference(name, there or {}, wanted))


def difference(name: str, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return the unified diff of two documents, by sorted keys."""
    before, after = (_lines(document) for document in (there, wanted))
    return "\n".join(difflib.unified_diff(before, after, f"{name} (in AWS)", f"{name} (expected)", lineterm="", n=2))


def _lines(document: Mapping[str, Any]) -> list[str]:
    return json.dumps(document, indent=2, sort_keys=True).splitlines() if document else []
