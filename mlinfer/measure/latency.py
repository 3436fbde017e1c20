"""Summarize durations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Latency:
    """Count, mean and percentiles of durations, in seconds."""

    count: int
    min_s: float
    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float
    max_s: float


def summarize(seconds: Sequence[float]) -> Latency | None:
    """Summarize the durations; None if there are none."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    p50, p90, p99 = (percentile(ordered, percent) for percent in (50, 90, 99))
    return Latency(len(ordered), ordered[0], sum(ordered) / len(ordered), p50, p90, p99, ordered[-1])


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return a percentile by nearest rank, so it is always a measured value.

    With fewer than 100 values, p99 is the largest one.
    """
    return ordered[max(1, math.ceil(percent / 100 * len(ordered))) - 1]
