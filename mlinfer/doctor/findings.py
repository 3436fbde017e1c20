"""The result of a check of doctor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..names import Account

ANSWER_S = 8.0  # for one response of Docker or AWS
# Errors that the credentials check reports, so that the other checks do not repeat them.
OF_CREDENTIALS = {"no_credentials", "no_region", "expired_credentials", "invalid_credentials", "invalid_aws_setting"}
OF_CREDENTIALS |= {"mfa_needed", "missing_library"}

State = Literal["ok", "warning", "missing"]
PolicyFor = Callable[[Account], Mapping[str, Any]]


@dataclass(frozen=True)
class Finding:
    """The result of one check. state: "missing" means required but absent; "warning" means possibly a problem, or unknown."""

    check: str
    state: State
    finding: str
    remedy: str = ""
