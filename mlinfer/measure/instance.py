"""The interface of a measured instance of the function, and the samples that it returns.

process.py starts an instance as a process, container.py as a container, live.py in AWS.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import ImageError

# The parts of a request's time, in order. Those before pre-processing occur only in a cold start.
PARTS = {
    "start_s": "Python start",
    "imports_s": "imports",
    "fetch_s": "model download",  # the wait after the imports, which run in parallel with the download
    "session_s": "ONNX session",
    "preprocess_s": "pre-processing",
    "inference_s": "inference",
    "rest_s": "other",
}
_VALUE = re.compile(r"(Duration|Billed Duration|Init Duration|Max Memory Used): ([\d.]+) ")


@dataclass(frozen=True)
class Sample:
    """The measurement of one request, in seconds.

    started: on a clock shared by all samples of a measurement. billed_s: the billed duration before rounding. parts: see
    PARTS; they add up to `seconds`. model: name and sha256 of the model that made the prediction. boot_s: the start of the
    instance before the request, not part of `seconds`. peak_bytes: peak memory, or None.
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
    """A running instance of the function. Both methods raise MlinferError."""

    def ask(self, body: bytes) -> Sample:
        """Send an event as JSON and measure."""

    def peak_bytes(self) -> int | None:
        """Return the peak memory so far in bytes, or None if unknown."""


# Starts a new instance and stops it afterwards.
Start = Callable[[], AbstractContextManager[Instance]]


def split_time(
    seconds: float, line: Mapping[str, Any], *, start_s: float = 0.0, imports_s: float = 0.0
) -> dict[str, float]:
    """Split a request's time into its PARTS. line: the handler's log line. start_s, imports_s: measured by the caller."""
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
    """Return the seconds that the handler spent loading its model. line: its log line."""
    return float(sum(line.get("load", {}).values()))


def require_prediction(answer: Mapping[str, Any]) -> None:
    """Raise ImageError unless the response is a prediction."""
    if answer["statusCode"] != 200:
        error = answer["body"]["error"]
        raise ImageError(error["code"], "cannot classify the image", reason=error["message"])


def handlers_line(lines: Iterable[str]) -> dict[str, Any]:
    """Return the handler's last JSON line in a log; {} if it is missing or incomplete."""
    found: dict[str, Any] = {}
    for line in lines:
        if line.startswith('{"request_id"'):
            with suppress(ValueError):
                found = json.loads(line)
    return found


@dataclass(frozen=True)
class InvocationReport:
    """The REPORT line of Lambda or its emulator. request: the request id. peak_bytes: not real in the emulator."""

    request: str
    duration_s: float
    billed_s: float
    init_s: float
    peak_bytes: int


def last_report(lines: Iterable[str]) -> InvocationReport | None:
    """Return the last REPORT in a log, or None."""
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
