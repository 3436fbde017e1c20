"""Choose a memory size: what each one takes and costs, which of them no other beats, and which to take."""

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

# 1,769 MB are one vCPU; 3,008 are what new accounts may have; the last ones are three and six vCPUs.
SIZES = (512, 1024, 1769, 3008, 5307, 10240)
NEW_ACCOUNTS_MB = 3008  # what they may have at most
ROUNDS = 5  # after which a recommendation that still changes is not decided
TOLERANCE = 1.5  # how many times as slow as the fastest size a recommended one may be

_FAILURES = ("out_of_memory", "container_crashed", "function_crashed", "function_timeout")


@dataclass(frozen=True)
class Trial:
    """One request, or why a size could not be measured: failure. rounds count from 1. memory: MB."""

    round: int
    memory: int
    sample: Sample | None
    failure: str = ""


@dataclass(frozen=True)
class Point:
    """One memory size, MB. latency_s: p90 of the warm requests. cold_s: p50. cost: US dollars per million predictions.

    low_s, high_s: the lowest and the highest p90 of a round. requests: measured ones. best: no other size is both faster
    and cheaper. failure: why it could not be measured, "" if it was.
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
    """Everything that a reader needs to judge the recommendation. error: what ended it early, Ctrl-C or a failure.

    decided: the rounds agree, also where they agree that no size is to be recommended.
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
    """Tells what trials come to. figures: takes a memory size and its samples. limit_s: what the warm p90 may take."""

    figures: Callable[[int, Sequence[Sample]], Figures]
    limit_s: float | None = None

    def points(self, trials: Sequence[Trial]) -> list[Point]:
        """Return a point for each size that has been measured, or has failed, with the frontier marked."""
        sizes = dict.fromkeys(trial.memory for trial in trials)
        points = [self._point(size, [trial for trial in trials if trial.memory == size]) for size in sizes]
        return mark_best([point for point in points if point])

    def picks(self, trials: Sequence[Trial]) -> list[int | None]:
        """Return the memory size that each round recommends by itself, None for no size."""
        rounds = sorted({trial.round for trial in trials})
        return [self.pick([trial for trial in trials if trial.round == number]) for number in rounds]

    def pick(self, trials: Sequence[Trial]) -> int | None:
        """Return the memory size that the trials recommend together."""
        chosen = recommend(self.points(trials), self.limit_s)
        return chosen.memory if chosen else None

    def stands(self, trials: Sequence[Trial]) -> bool:
        """Tell whether the last two rounds and all rounds together recommend the same; a single size has no rival."""
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
    """Return who judges the sizes of a function of that architecture."""

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
    """Return what the trials come to. ended: what ended them early. sizes: that were to be tried."""
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
    """Return the sizes whose CPU share a machine of so many cores can give."""
    return [size for size in SIZES if size <= cores * MB_PER_VCPU] or list(SIZES[:1])


def tune(
    sizes: Sequence[int], measure: Callable[[int], Iterable[Sample]], judge: Judge
) -> Generator[Trial, None, None]:
    """Measure each size in turn, in rounds, until the recommendation stands or ROUNDS are over.

    A size that the function fails at is measured no more. Raises MlinferError for other failures.
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


def say_undecided(picks: Sequence[int | None]) -> str:
    """Return which sizes the rounds recommend, in one sentence."""
    counts = Counter("no size" if pick is None else f"{pick:,} MB" for pick in picks).most_common()
    told = ", ".join(f"{count} recommend {name}" for name, count in counts)
    return f"Not decided on this machine: of {len(picks)} rounds, {told}. Try a quieter machine, or more requests (--warm)."


def say_incomplete(points: Sequence[Point], sizes: int) -> str:
    """Return how far a search came that was ended early, in one sentence."""
    good = sum(not point.failure for point in points)
    return f"Incomplete: {good} of {sizes} sizes have figures, and no recommendation is made."


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.1f} ms"
