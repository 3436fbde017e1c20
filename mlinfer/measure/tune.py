"""Choose a memory size from the measured latency and cost of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from lambda_src.settings import MB_PER_VCPU

from ..errors import MlinferError, RemoteError
from .bench import Conditions, Figures, figures
from .instance import Sample
from .latency import summarize
from .machine import Machine
from .prices import Prices

# 1,769 MB is one vCPU, 3,008 MB the limit of new accounts, 5,307 MB three vCPUs, 10,240 MB six.
SIZES = (512, 1024, 1769, 3008, 5307, 10240)
NEW_ACCOUNTS_MB = 3008  # memory limit of new accounts
ROUNDS = 5  # give up after this many rounds without a stable recommendation
TOLERANCE = 1.5  # a recommended size may be this many times slower than the fastest

_FAILURES = ("out_of_memory", "container_crashed", "function_crashed", "function_timeout")


@dataclass(frozen=True)
class Trial:
    """One request with a memory size in MB. round: counts from 1. failure: why there is no sample."""

    round: int
    memory: int
    sample: Sample | None
    failure: str = ""


@dataclass(frozen=True)
class Point:
    """The result for one memory size in MB. latency_s: warm p90. cold_s: cold p50. cost: US dollars per million.

    low_s, high_s: lowest and highest warm p90 of a round. requests: how many were measured. best: on the Pareto frontier.
    failure: why it could not be measured, or "".
    """

    memory: int
    latency_s: float
    cold_s: float
    cost: float
    low_s: float = 0.0
    high_s: float = 0.0
    requests: int = 0
    best: bool = False
    failure: str = ""


@dataclass(frozen=True)
class Tuning:
    """The report of `mlinfer tune`. error: why it stopped early (Ctrl-C or a failure), or None.

    decided: whether the rounds agree on a size, or on none.
    """

    target: str
    complete: bool
    error: Mapping[str, str] | None
    model: Mapping[str, str]
    arch: str
    cold_share: float
    prices: Prices
    rounds: int
    points: Sequence[Point]
    decided: bool
    recommended: Point | None
    sentence: str
    machine: Machine


@dataclass(frozen=True)
class Judge:
    """Evaluates trials. figures: takes a memory size and its samples. limit_s: the highest acceptable warm p90."""

    figures: Callable[[int, Sequence[Sample]], Figures]
    limit_s: float | None = None

    def points(self, trials: Sequence[Trial]) -> list[Point]:
        """Return a point for each size that was measured or failed, with the Pareto frontier marked."""
        sizes = dict.fromkeys(trial.memory for trial in trials)
        points = [self._point(size, [trial for trial in trials if trial.memory == size]) for size in sizes]
        return mark_best([point for point in points if point])

    def picks(self, trials: Sequence[Trial]) -> list[int | None]:
        """Return the memory size that each round recommends on its own, or None."""
        rounds = sorted({trial.round for trial in trials})
        return [self.pick([trial for trial in trials if trial.round == number]) for number in rounds]

    def pick(self, trials: Sequence[Trial]) -> int | None:
        """Return the memory size that all trials together recommend, or None."""
        chosen = recommend(self.points(trials), self.limit_s)
        return chosen.memory if chosen else None

    def stands(self, trials: Sequence[Trial]) -> bool:
        """Return whether the last two rounds and all rounds together recommend the same size."""
        rivals = [point for point in self.points(trials) if not point.failure]
        if not rivals or (len(rivals) == 1 and self.limit_s is None):
            return True
        last = self.picks(trials)[-2:]
        return len(last) == 2 and {*last, self.pick(trials)} == {last[0]}

    def _point(self, size: int, trials: Sequence[Trial]) -> Point | None:
        failure = next((trial.failure for trial in trials if trial.failure), "")
        if failure:
            return Point(size, 0.0, 0.0, 0.0, failure=failure)
        samples = [trial.sample for trial in trials if trial.sample]
        figures = self.figures(size, samples)
        if not (figures.warm and figures.cold and figures.per_million is not None):
            return None
        rounds = {trial.round: [own.sample for own in trials if own.round == trial.round] for trial in trials}
        warm = [[sample.seconds for sample in own if sample and not sample.cold] for own in rounds.values()]
        tails = [latency.p90_s for latency in map(summarize, warm) if latency]
        spread = {"low_s": min(tails), "high_s": max(tails), "requests": len(samples)}
        return Point(size, figures.warm.p90_s, figures.cold.p50_s, figures.per_million, **spread)  # type: ignore[arg-type]


def make_judge(conditions: Conditions, arch: str, limit_s: float | None) -> Judge:
    """Return the judge for a function of that architecture."""

    def count(size: int, samples: Sequence[Sample]) -> Figures:
        return figures(samples, prices=conditions.prices, memory=size, arch=arch, cold_share=conditions.cold_share)

    return Judge(count, limit_s)


def make_tuning(
    trials: Sequence[Trial],
    ended: MlinferError | None,
    judge: Judge,
    *,
    sizes: Sequence[int],
    arch: str,
    conditions: Conditions,
) -> Tuning:
    """Return the report for the trials. ended: the error that stopped them early. sizes: those to measure."""
    points, decided = judge.points(trials), ended is None and judge.stands(trials)
    chosen = recommend(points, judge.limit_s) if decided else None
    if ended:
        sentence = say_incomplete(points, len(sizes))
    else:
        sentence = say(points, chosen, judge.limit_s) if decided else say_undecided(judge.picks(trials))
    return Tuning(
        target=conditions.target,
        complete=ended is None,
        error=ended.as_json() if ended else None,
        model=next((trial.sample.model for trial in trials if trial.sample), {}),
        arch=arch,
        cold_share=conditions.cold_share,
        prices=conditions.prices,
        rounds=max((trial.round for trial in trials), default=0),
        points=points,
        decided=decided,
        recommended=chosen,
        sentence=sentence,
        machine=conditions.machine,
    )


def sizes_for(cores: int) -> list[int]:
    """Return the sizes for which a machine has enough cores."""
    return [size for size in SIZES if size <= cores * MB_PER_VCPU] or list(SIZES[:1])


def tune(
    sizes: Sequence[int], measure: Callable[[int], Iterable[Sample]], judge: Judge
) -> Generator[Trial, None, None]:
    """Measure all sizes in rounds until the recommendation is stable, at most ROUNDS times.

    A size at which the function fails is not measured again. Raises MlinferError for other failures.
    """
    trials: list[Trial] = []
    for number in range(1, ROUNDS + 1):
        failed = {trial.memory for trial in trials if trial.failure}
        for size in (size for size in sizes if size not in failed):
            for trial in _tried(number, size, measure):
                trials.append(trial)
                yield trial
        if judge.stands(trials):
            return


def _tried(number: int, size: int, measure: Callable[[int], Iterable[Sample]]) -> Iterator[Trial]:
    try:
        for sample in measure(size):
            yield Trial(number, size, sample)
    except RemoteError as error:
        if error.code not in _FAILURES:
            raise
        yield Trial(number, size, None, str(error).partition("\n")[0])


def mark_best(points: Sequence[Point]) -> list[Point]:
    """Mark the Pareto frontier of latency and cost."""
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
    """Return the cheapest size within the limit, by default TOLERANCE times the latency of the fastest size."""
    good = [point for point in points if not point.failure]
    if not good:
        return None
    most = limit_s if limit_s is not None else TOLERANCE * min(point.latency_s for point in good)
    return min((point for point in good if point.latency_s <= most), key=lambda point: point.cost, default=None)


def say(points: Sequence[Point], chosen: Point | None, limit_s: float | None = None) -> str:
    """Return the recommendation and its reason as text."""
    good = [point for point in points if not point.failure]
    if not good:
        return "No recommendation: the function failed at every size."
    fastest = min(good, key=lambda point: point.latency_s)
    best = f"The fastest size is {fastest.memory:,} MB with {_ms(fastest.latency_s)}."
    if chosen is None:
        return f"No recommendation: no size has a warm p90 of at most {_ms(limit_s or 0.0)}. {best}"
    rule = f"{_ms(limit_s)}" if limit_s is not None else f"{TOLERANCE} times the fastest"
    figures = f"warm p90 {_ms(chosen.latency_s)}, ${chosen.cost:.2f} per million"
    other = "It is also the fastest size." if chosen == fastest else best
    return (
        f"Recommended: {chosen.memory:,} MB ({figures}), the cheapest size with a warm p90 of at most {rule}. {other}"
    )


def say_undecided(picks: Sequence[int | None]) -> str:
    """Return what each round recommends as text."""
    counts = Counter("no size" if pick is None else f"{pick:,} MB" for pick in picks).most_common()
    told = ", ".join(f"{name} in {count}" for name, count in counts)
    return f"No recommendation: {len(picks)} rounds disagree ({told}). Use a quieter machine or a larger --warm."


def say_incomplete(points: Sequence[Point], sizes: int) -> str:
    """Return the progress of a search that stopped early as text."""
    good = sum(not point.failure for point in points)
    return f"Incomplete: measured {good} of {sizes} sizes, so there is no recommendation."


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.1f} ms"
