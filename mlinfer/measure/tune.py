"""Choose a memory size: what each one takes and costs, which of them no other beats, and which to take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from lambda_src.settings import MB_PER_VCPU

from ..errors import RemoteError
from .bench import Figures
from .machine import Machine
from .prices import Prices

# 1,769 MB are one vCPU; 3,008 are what new accounts may have; the last ones are three and six vCPUs.
SIZES = (512, 1024, 1769, 3008, 5307, 10240)
TOLERANCE = 1.5  # how many times as slow as the fastest size a recommended one may be

_FAILURES = ("out_of_memory", "container_crashed", "function_crashed", "function_timeout")


@dataclass(frozen=True)
class Point:
    """One memory size, MB. latency_s: p90 of the warm requests. cold_s: p50. cost: US dollars per million predictions.

    best: no other size is both faster and cheaper. failure: why it could not be measured, "" if it was.
    """

    memory: int
    latency_s: float
    cold_s: float
    cost: float
    best: bool = False
    failure: str = ""


@dataclass(frozen=True)
class Tuning:
    """Everything that a reader needs to judge the recommendation. error: what ended it early, Ctrl-C or a failure."""

    target: str
    complete: bool
    error: Mapping[str, str] | None
    model: Mapping[str, str]
    arch: str
    cold_share: float
    prices: Prices
    points: Sequence[Point]
    recommended: Point | None
    sentence: str
    machine: Machine


def sizes_for(cores: int) -> list[int]:
    """Return the sizes whose CPU share a machine of so many cores can give."""
    return [size for size in SIZES if size <= cores * MB_PER_VCPU] or list(SIZES[:1])


def tune(sizes: Sequence[int], measure: Callable[[int], Figures]) -> Iterator[Point]:
    """Measure each size; one that the function fails at is told as that. Raises MlinferError for other failures."""
    for size in sizes:
        try:
            figures = measure(size)
        except RemoteError as error:
            if error.code not in _FAILURES:
                raise
            yield Point(size, 0.0, 0.0, 0.0, failure=str(error).partition("\n")[0])
            continue
        if figures.warm and figures.cold and figures.per_million is not None:
            yield Point(size, figures.warm.p90_s, figures.cold.p50_s, figures.per_million)


def mark_best(points: Sequence[Point]) -> list[Point]:
    """Mark the Pareto frontier: the sizes that no other one beats in latency without costing more, or in cost."""
    good = [point for point in points if not point.failure]

    def beaten(point: Point) -> bool:
        return any(
            (other.latency_s, other.cost) != (point.latency_s, point.cost)
            and other.latency_s <= point.latency_s
            and other.cost <= point.cost
            for other in good
        )

    return [replace(point, best=not point.failure and not beaten(point)) for point in points]


def recommend(points: Sequence[Point], limit_s: float | None = None) -> Point | None:
    """Return the cheapest size within the limit; without one, within TOLERANCE times the fastest's latency."""
    good = [point for point in points if not point.failure]
    if not good:
        return None
    most = limit_s if limit_s is not None else TOLERANCE * min(point.latency_s for point in good)
    return min((point for point in good if point.latency_s <= most), key=lambda point: point.cost, default=None)


def say(points: Sequence[Point], chosen: Point | None, limit_s: float | None = None) -> str:
    """Return the recommendation and its rule in one sentence."""
    good = [point for point in points if not point.failure]
    if not good:
        return "No size is recommended: the function answered at none of them."
    fastest = min(good, key=lambda point: point.latency_s)
    best = f"the fastest, {fastest.memory:,} MB, takes {_ms(fastest.latency_s)}"
    if chosen is None:
        return f"No size is recommended: none has a warm p90 within {_ms(limit_s or 0.0)}; {best}."
    rule = f"within {_ms(limit_s)}" if limit_s is not None else f"at most {TOLERANCE} times the fastest's"
    figures = f"warm p90 {_ms(chosen.latency_s)}, ${chosen.cost:.2f} per million"
    other = "it is the fastest too" if chosen == fastest else best
    return f"Recommended: {chosen.memory:,} MB ({figures}), the cheapest whose warm p90 is {rule}; {other}."


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.1f} ms"
