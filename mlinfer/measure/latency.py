"""What many durations come to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Latency:
    """How a number of durations are spread, in seconds."""

    count: int
    min_s: float
    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float
    max_s: float


def summarize(seconds: Sequence[float]) -> Latency | None:
    """Return the spread of the durations; None of none."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    p50, p90, p99 = (percentile(ordered, percent) for percent in (50, 90, 99))
    return Latency(len(ordered), ordered[0], sum(ordered) / len(ordered), p50, p90, p99, ordered[-1])


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return a percentile by the nearest rank: the smallest of the values that `percent` % of them do not exceed.

    So it is always a duration that was measured; with fewer than 100 values, p99 is the longest one.
    """
    return ordered[max(1, math.ceil(percent / 100 * len(ordered))) - 1]
