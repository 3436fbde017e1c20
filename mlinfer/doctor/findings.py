"""What a check of doctor found, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..names import Account

ANSWER_S = 8.0  # for one answer of the Engine or of AWS
# What the check of the credentials tells, and the others need not repeat.
OF_CREDENTIALS = {"no_credentials", "no_region", "expired_credentials", "invalid_credentials", "invalid_aws_setting"}
OF_CREDENTIALS |= {"mfa_needed", "missing_library"}

State = Literal["ok", "warning", "missing"]
PolicyFor = Callable[[Account], Mapping[str, Any]]


@dataclass(frozen=True)
class Finding:
    """What one check found. state: "missing" is needed and not there; "warning" may matter or is not known."""

    check: str
    state: State
    finding: str
    remedy: str = ""
