"""How the steps of a deployment look."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...terminal import Terminal, printable

if TYPE_CHECKING:
    from ...cloud.plan import StepResult


def show_step(terminal: Terminal, step: StepResult, *, dry_run: bool) -> None:
    """Write the line of a step that has ended; in a plan, with what would change."""
    outcome = describe_outcome(step, dry_run=dry_run).replace("_", " ")
    write = terminal.text if dry_run and not terminal.as_json else terminal.note  # a plan is the result
    detail = re.sub("([0-9a-f]{12})[0-9a-f]{52}", r"\1...", step.change.detail)
    took = "" if dry_run else f" {step.seconds:>6.1f} s"
    write(printable(f"{step.label:<10} {outcome:<{12 if dry_run else 10}}{took}  {detail}".rstrip()))
    if dry_run and step.change.difference:
        write(printable("\n".join(f"    {line}" for line in step.change.difference.splitlines())))


def describe_outcome(step: StepResult, *, dry_run: bool) -> str:
    """Return what became of a step, or would."""
    plan = {"created": "would_create", "changed": "would_change"} if dry_run else {}
    return plan.get(step.change.outcome, step.change.outcome)


def describe_steps(done: Sequence[StepResult], *, dry_run: bool = False) -> list[dict[str, Any]]:
    """Return the steps for a JSON document."""
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
