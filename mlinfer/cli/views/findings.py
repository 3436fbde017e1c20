"""Write the findings of `doctor`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...doctor.findings import Finding

STYLES = {"ok": "green", "warning": "yellow", "missing": "bold red"}


def list_findings(findings: list[Finding]) -> Iterator[tuple[str, str, str]]:
    """Yield a row for each finding, and one for its remedy. Checks in a row with the same finding share one."""
    for (state, found, remedy), same in groupby(findings, lambda each: (each.state, each.finding, each.remedy)):
        yield state, "\n".join(finding.check for finding in same), found
        if remedy:
            yield "", "", f"-> {remedy}"
