"""An instance of the function: what Lambda would start, ask once while it is cold, then keep warm. It is what gets measured.

`process` starts one as a process, `container` as a container, `live` in AWS.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import ImageError

# Where a request's time goes, in this order; what stands before pre-processing happens in a cold start alone.
PARTS = {
    "start_s": "start of Python",
    "imports_s": "imports",
    "fetch_s": "waiting for the model",  # after the imports, which overlap with its fetch
    "session_s": "session",
    "preprocess_s": "pre-processing",
    "inference_s": "inference",
    "rest_s": "the rest",
}
_VALUE = re.compile(r"(Duration|Billed Duration|Init Duration|Max Memory Used): ([\d.]+) ")


@dataclass(frozen=True)
class Sample:
    """One request as it was measured, in seconds.

    started: of a clock that all samples of one measurement share. billed_s: what Lambda bills for, before it is rounded.
    parts: see PARTS; they add up to `seconds`. model: name and sha256 of the one that
    answered. boot_s: what the instance took until it could be asked, not in `seconds`.
    """

    cold: bool
    started: float
    seconds: float
    billed_s: float
    parts: Mapping[str, float]
    model: Mapping[str, str]
    boot_s: float = 0.0
    peak_bytes: int | None = None


class Instance(Protocol):
    """A running instance of the function. Both raise MlinferError."""

    def ask(self, body: bytes) -> Sample:
        """Send the JSON of an event, and measure."""

    def peak_bytes(self) -> int | None:
        """Return the most memory that it has held until now; None where that cannot be told."""


# Starts an instance that nobody has asked yet, and ends it afterwards.
Start = Callable[[], AbstractContextManager[Instance]]


def split_time(
    seconds: float, line: Mapping[str, Any], *, start_s: float = 0.0, imports_s: float = 0.0
) -> dict[str, float]:
    """Split a request's time into its PARTS. line: what the handler logged of it. start_s, imports_s: known from outside."""
    load, timings = line.get("load", {}), line.get("timings", {})
    parts = {
        "start_s": start_s,
        "imports_s": imports_s + load.get("imports_s", 0.0),
        "fetch_s": load.get("fetch_wait_s", 0.0),
        "session_s": load.get("session_s", 0.0),
        "preprocess_s": timings.get("preprocess_s", 0.0),
        "inference_s": timings.get("inference_s", 0.0),
    }
    return parts | {"rest_s": max(0.0, seconds - sum(parts.values()))}


def load_s(line: Mapping[str, Any]) -> float:
    """Return the seconds that the handler spent on its model, of its log line."""
    return float(sum(line.get("load", {}).values()))


def require_prediction(answer: Mapping[str, Any]) -> None:
    """Refuse to measure what is no prediction. Raises ImageError."""
    if answer["statusCode"] != 200:
        error = answer["body"]["error"]
        raise ImageError(error["code"], f"the picture cannot be classified: {error['message']}")


def handlers_line(lines: Iterable[str]) -> dict[str, Any]:
    """Return the handler's last JSON line of a log; {} if it is not there, or not whole."""
    found: dict[str, Any] = {}
    for line in lines:
        if line.startswith('{"request_id"'):
            with suppress(ValueError):
                found = json.loads(line)
    return found


@dataclass(frozen=True)
class InvocationReport:
    """What Lambda, or its emulator, logs of an invocation. request: its id. peak_bytes: made up by the emulator."""

    request: str
    duration_s: float
    billed_s: float
    init_s: float
    peak_bytes: int


def last_report(lines: Iterable[str]) -> InvocationReport | None:
    """Return the last REPORT of a log; None if there is none."""
    found = None
    for line in lines:
        if line.startswith("REPORT RequestId: "):
            values = {name: float(value) for name, value in _VALUE.findall(line)}
            found = InvocationReport(
                request=line.split()[2],
                duration_s=values.get("Duration", 0.0) / 1000,
                billed_s=values.get("Billed Duration", 0.0) / 1000,
                init_s=values.get("Init Duration", 0.0) / 1000,
                peak_bytes=int(values.get("Max Memory Used", 0.0)) * 2**20,
            )
    return found
