"""Write the steps of a deployment."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ...terminal import Terminal, printable

if TYPE_CHECKING:
    from ...cloud.plan import StepResult


@contextmanager
def steps_shown(terminal: Terminal) -> Iterator[Callable[[StepResult], None]]:
    """Yield a function that writes a line for a finished step; unchanged steps in a row share one line."""
    unchanged: list[str] = []

    def fold() -> None:
        if unchanged:
            terminal.note(f"{terminal.mark(done=False)} unchanged: {', '.join(unchanged)}")
            unchanged.clear()

    def show(step: StepResult) -> None:
        if step.change.outcome == "unchanged":
            unchanged.append(step.label)
            return
        fold()
        outcome = "passed" if step.label == "verify" and step.change.outcome == "created" else step.change.outcome
        facts = f"{step.label:<9}  {outcome:<9} {step.seconds:>6.1f} s  {_shortened(step.change.detail)}"
        terminal.note(f"{terminal.mark(done=outcome != 'skipped')} {facts.rstrip()}")

    try:
        yield show
    finally:
        fold()


def show_planned_step(terminal: Terminal, step: StepResult) -> None:
    """Write a planned step and the difference that it would make."""
    outcome = describe_outcome(step, dry_run=True).replace("_", " ")
    if step.label == "verify":
        outcome = outcome.replace("create", "run")
    write = terminal.note if terminal.as_json else terminal.text  # the plan is the result
    write(printable(f"{step.label:<9}  {outcome:<12}  {_shortened(step.change.detail)}".rstrip()))
    if step.change.difference:
        write(printable("\n".join(f"    {line}" for line in step.change.difference.splitlines())))


def _shortened(detail: str) -> str:
    return re.sub("([0-9a-f]{12})[0-9a-f]{52}", r"\1...", detail)


def describe_outcome(step: StepResult, *, dry_run: bool) -> str:
    """Return the outcome of a step; for a plan, what it would be."""
    plan = {"created": "would_create", "changed": "would_change"} if dry_run else {}
    return plan.get(step.change.outcome, step.change.outcome)


def describe_steps(done: Sequence[StepResult], *, dry_run: bool = False) -> list[dict[str, Any]]:
    """Return the steps as JSON values."""
    return [
        {
            "name": step.name,
            "outcome": describe_outcome(step, dry_run=dry_run),
            "detail": step.change.detail,
            "seconds": step.seconds,
        }
        | ({"difference": step.change.difference} if step.change.difference else {})
        for step in done
    ]
