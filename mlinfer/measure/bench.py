"""Measure cold starts, warm requests and the cost of a function."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from ..config import Config, TargetName
from ..errors import MlinferError
from ..model.runtime import IMAGE_ONNXRUNTIME
from .bench_target import BenchTarget
from .instance import PARTS, Instance, Sample, Start
from .latency import Latency, summarize
from .machine import Machine, describe
from .prices import TABLE, Prices, per_million, read_prices

T = TypeVar("T")
R = TypeVar("R")

_BEGIN = b"kind,started_s,seconds,"
_HEADER = ("kind", "started_s", "seconds", "billed_s", "boot_s", *PARTS)


@dataclass(frozen=True)
class Amount:
    """The number of requests. cold: one per new instance. warm: requests to the last instance, `concurrency` at a time."""

    cold: int
    warm: int
    concurrency: int = 1


@dataclass(frozen=True)
class Conditions:
    """The conditions of a measurement. cold_share: assumed fraction of requests that hit a cold start, 0..1."""

    target: str
    machine: Machine
    prices: Prices
    cold_share: float


@dataclass(frozen=True)
class Figures:
    """The result of a measurement. None means not measured.

    cold_parts, warm_parts: the parts of the median request, so that they add up. boot_s: the container start before the
    median cold request. throughput: warm requests per second while at least one was running. per_million: US dollars.
    model: name and sha256 of the model that made the predictions.
    """

    cold: Latency | None
    cold_parts: Mapping[str, float]
    boot_s: float | None
    warm: Latency | None
    warm_parts: Mapping[str, float]
    throughput: float | None
    peak_bytes: int | None
    per_million: float | None
    model: Mapping[str, str]


@dataclass(frozen=True)
class Report:
    """The report of `mlinfer bench`. error: why it stopped early (Ctrl-C or a failure), or None. memory: MB.

    image_bytes, layer_bytes: uncompressed size of the container image, with and without its base; None without an image.
    """

    target: str
    complete: bool
    error: Mapping[str, str] | None
    memory: int
    arch: str
    amount: Amount
    pictures: int
    cold_share: float
    prices: Prices
    figures: Figures
    image_bytes: int | None
    layer_bytes: int | None
    machine: Machine
    percentiles: str = "nearest rank"


class StoppedError(MlinferError):
    """Ctrl-C stopped a measurement."""

    exit_code = 130


def read_conditions(config: Config, cold_share: float) -> Conditions:
    """Return the conditions of a measurement on this machine. Raises UsageError."""
    runtimes: dict[TargetName, str] = {
        "embedded": "",  # this Python
        "local": f"{config.base_image}, onnxruntime {IMAGE_ONNXRUNTIME}",
        "aws": "calling AWS Lambda",
    }
    prices = read_prices(Path(config.prices) if config.prices else TABLE)
    return Conditions(config.target, describe(runtimes[config.target]), prices, cold_share)


def collect(items: Iterable[T], found: list[T]) -> MlinferError | None:
    """Append each item to `found`; return the error that stopped them early, or None.

    Ctrl-C becomes a StoppedError. A MlinferError before the first item is raised.
    """
    try:
        for item in items:
            found.append(item)
    except KeyboardInterrupt:
        return StoppedError("interrupted", "interrupted")
    except MlinferError as error:
        if not found:
            raise
        return error
    return None


def make_report(
    samples: Sequence[Sample],
    ended: MlinferError | None,
    target: BenchTarget,
    *,
    conditions: Conditions,
    amount: Amount,
    pictures: int,
) -> Report:
    """Return the report for the samples. ended: the error that stopped them early."""
    prices, cold_share = conditions.prices, conditions.cold_share
    return Report(
        target=conditions.target,
        complete=ended is None,
        error=ended.as_json() if ended else None,
        memory=target.memory,
        arch=target.arch,
        amount=amount,
        pictures=pictures,
        cold_share=cold_share,
        prices=prices,
        figures=figures(samples, prices=prices, memory=target.memory, arch=target.arch, cold_share=cold_share),
        image_bytes=target.image.bytes if target.image else None,
        layer_bytes=sum(target.image.layers.values()) if target.image else None,
        machine=conditions.machine,
    )


def measure(start: Start, bodies: Sequence[bytes], amount: Amount) -> Generator[Sample, None, None]:
    """Send the requests and yield a sample for each. bodies: the events as JSON, used in rotation. Raises MlinferError.

    Without cold starts one request is sent first to warm up, and is not yielded.
    """
    turns = itertools.cycle(bodies)
    rounds = max(amount.cold, 1)
    for number in range(1, rounds + 1):
        with start() as instance:
            first = instance.ask(next(turns))
            if amount.cold:
                yield replace(first, peak_bytes=instance.peak_bytes())
            if number == rounds:
                yield from _warm(instance, turns, amount)


def _warm(instance: Instance, turns: Iterator[bytes], amount: Amount) -> Iterator[Sample]:
    asked = itertools.islice(turns, amount.warm)
    one_by_one = amount.concurrency == 1
    samples = map(instance.ask, asked) if one_by_one else side_by_side(instance.ask, asked, amount.concurrency)
    for number, sample in enumerate(samples, 1):
        yield replace(sample, peak_bytes=instance.peak_bytes()) if number == amount.warm else sample


def side_by_side(work: Callable[[T], R], items: Iterable[T], at_once: int) -> Iterator[R]:
    """Yield the result of `work` for each item in order, with at most `at_once` running in parallel."""
    pool = ThreadPoolExecutor(at_once)
    try:
        waiting = [pool.submit(work, item) for item in items]
        yield from (future.result() for future in waiting)
    finally:
        pool.shutdown(cancel_futures=True)


def figures(samples: Sequence[Sample], *, prices: Prices, memory: int, arch: str, cold_share: float) -> Figures:
    """Summarize the samples. memory: MB. cold_share: assumed fraction of requests that hit a cold start, 0..1."""
    cold, warm = ([sample for sample in samples if sample.cold is kind] for kind in (True, False))
    middle_cold, middle_warm = middle(cold), middle(warm)
    warm_s, cold_s = ([sample.billed_s for sample in group] for group in (warm, cold))
    return Figures(
        cold=summarize([sample.seconds for sample in cold]),
        cold_parts=middle_cold.parts if middle_cold else {},
        boot_s=middle_cold.boot_s if middle_cold else None,
        warm=summarize([sample.seconds for sample in warm]),
        warm_parts=middle_warm.parts if middle_warm else {},
        throughput=_throughput(warm),
        peak_bytes=max((sample.peak_bytes for sample in samples if sample.peak_bytes), default=None),
        per_million=per_million(prices, warm_s, cold_s, memory=memory, arch=arch, cold_share=cold_share),
        model=samples[-1].model if samples else {},
    )


def middle(samples: Sequence[Sample]) -> Sample | None:
    """Return the sample with the median duration (p50); None if there are no samples."""
    ordered = sorted(samples, key=lambda sample: sample.seconds)
    return ordered[(len(ordered) - 1) // 2] if ordered else None


def is_table(path: Path) -> bool:
    """Return whether a file is empty or was written by `table`."""
    with path.open("rb") as file:
        return file.read(len(_BEGIN)) in (_BEGIN, b"")


def table(samples: Iterable[Sample]) -> bytes:
    """Return a CSV file with one row per sample, in seconds."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_HEADER)
    first: float | None = None
    for sample in samples:
        first = sample.started if first is None else first
        values = [sample.started - first, sample.seconds, sample.billed_s, sample.boot_s]
        parts = [sample.parts.get(part, 0.0) for part in PARTS]
        writer.writerow(["cold" if sample.cold else "warm", *(f"{value:.6f}" for value in values + parts)])
    return text.getvalue().encode()


def _throughput(warm: Sequence[Sample]) -> float | None:
    """Return the requests per second, counting only time in which at least one was running."""
    busy, until = 0.0, -math.inf
    for sample in sorted(warm, key=lambda sample: sample.started):
        ended = sample.started + sample.seconds
        busy += max(0.0, ended - max(sample.started, until))
        until = max(until, ended)
    return len(warm) / busy if warm else None
