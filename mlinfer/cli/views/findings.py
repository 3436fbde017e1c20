"""Write the findings of `doctor`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...doctor.findings import Finding

STYLES = {"ok": "green", "warning": "yellow", "missing": "bold red"}


def list_findings(findings: list[Finding]) -> Iterator[tuple[str, str, str]]:
    """Yield a row for each finding, and one for its remedy."""
    for finding in findings:
        yield finding.state, finding.check, finding.finding
        if finding.remedy:
            yield "", "", f"-> {finding.remedy}"
