"""Write the results of bench and tune: tables and charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import MlinferError
from ...files import write_whole
from ...measure.instance import PARTS
from ...terminal import Terminal, counted

if TYPE_CHECKING:
    from ...measure.bench import Report
    from ...measure.instance import Sample
    from ...measure.machine import Machine
    from ...measure.prices import Prices
    from ...measure.tune import Point, Tuning


def show_report(terminal: Terminal, report: Report) -> None:
    """Write the results of a measurement and its conditions."""
    if terminal.as_json:
        terminal.document(asdict(report))
        return
    found = report.figures
    columns = [(latency.count, latency) if latency else (0, None) for latency in (found.cold, found.warm)]
    rows: list[tuple[str, ...]] = [("requests", *(f"{count:,}" for count, _ in columns))]
    for name in ("p50", "p90", "p99", "min", "max"):
        rows.append((name, *(_ms(getattr(latency, f"{name}_s") if latency else None) for _, latency in columns)))
    for name, words in PARTS.items():
        parts = [found.cold_parts.get(name), found.warm_parts.get(name)]
        if any(parts):
            rows.append((f"  {words}", *(_ms(part or None) for part in parts)))
    terminal.rows(rows, header=("", "cold", "warm"), right=(1, 2))
    terminal.text("")
    terminal.rows([*_facts(report), ("machine", _machine(report.machine))])
    _show_conditions(terminal, report.target, report.prices)


def show_end(terminal: Terminal, ended: MlinferError | None) -> int:
    """Report the error that ended the measurement early, if any, and return the exit code."""
    from ...measure.bench import StoppedError

    if ended and not isinstance(ended, StoppedError):
        terminal.explain(ended)
    return ended.exit_code if ended else 0


def _facts(report: Report) -> list[tuple[str, str]]:
    found, facts = report.figures, []
    if found.boot_s:
        facts.append(("container start", _ms(found.boot_s)))
    if found.throughput:
        at_once = report.amount.concurrency
        facts.append(("throughput", f"{found.throughput:,.1f} requests per second, {at_once} in parallel"))
    if found.peak_bytes:
        facts.append(("peak memory", f"{found.peak_bytes / 2**20:,.0f} of {report.memory:,} MB"))
    if report.image_bytes and report.layer_bytes:
        facts.append(
            (
                "container image",
                f"{report.image_bytes / 1e6:,.0f} MB, {report.layer_bytes / 1e6:,.0f} MB on top of the base image",
            )
        )
    conditions = f"{report.memory:,} MB, {report.arch}, {report.cold_share:.1%} cold starts"
    if found.per_million is None:
        facts.append(("cost per million", "unknown (needs warm requests and cold starts)"))
    else:
        facts.append(("cost per million", f"${found.per_million:,.2f} ({conditions})"))
    if found.model:
        facts.append(("model", f"{found.model['name']} ({found.model['sha256'][:12]}), target {report.target}"))
    return facts


def _show_conditions(terminal: Terminal, target: str, prices: Prices) -> None:
    """Write the method and the prices."""
    terminal.note(
        "Percentiles use the nearest rank. The steps are those of the p50 request. Compare latencies only on the same machine."
    )
    if target == "aws":
        terminal.note(
            "Latencies include the network between this machine and AWS. The cost covers only what Lambda bills."
        )
    if target == "embedded":
        terminal.note("Memory size and cost assume that Lambda is as fast as this process, which uses all cores.")
    terminal.note(
        f"Prices: {prices.region}, {prices.date}, without the free tier. Lambda also bills the start of Python."
    )


def show_tuning(terminal: Terminal, tuning: Tuning) -> None:
    """Write latency and cost of each memory size, and the recommendation."""
    if terminal.as_json:
        terminal.document(asdict(tuning))
        return
    if rows := [_tuned_row(point) for point in tuning.points if not point.failure]:
        header = ("MB", "warm p90", f"p90, {counted(tuning.rounds, 'round')}", "cold p50", "$/million", "")
        terminal.rows(rows, header=header, right=range(5))
    for point in tuning.points:
        if point.failure:
            terminal.text(f"{point.memory:,} MB failed: {point.failure}")
    terminal.text(tuning.sentence)
    if rows:
        terminal.note("* No other size is both faster and cheaper.")
    terminal.rows([("machine", _machine(tuning.machine))])
    _show_conditions(terminal, tuning.target, tuning.prices)


def _tuned_row(point: Point) -> tuple[str, ...]:
    spread = f"{_ms(point.low_s).removesuffix(' ms')} to {_ms(point.high_s)}"
    figures = (_ms(point.latency_s), spread, _ms(point.cold_s), f"{point.cost:.2f}")
    return (f"{point.memory:,}", *figures, "*" if point.best else "")


def draw_report(path: Path, samples: Sequence[Sample], report: Report) -> None:
    """Write a chart of a measurement. Raises MissingError."""
    from ...measure import plot

    found = report.figures
    parts = [
        f"{_ms(latency.p50_s)} {kind}" for kind, latency in (("cold", found.cold), ("warm", found.warm)) if latency
    ]
    title = f"{found.model['name']}, {report.target}: {', '.join(parts)}"
    cost = f"${found.per_million:,.2f} per million at {report.memory:,} MB. " if found.per_million is not None else ""
    write_whole(
        path,
        plot.draw_bench(
            samples, found, title=title, caption=cost + _machine(report.machine), kind=path.suffix[1:].lower()
        ),
    )


def draw_tuning(path: Path, tuning: Tuning) -> None:
    """Write a chart of latency and cost by memory size. Raises MissingError."""
    from ...measure import plot

    title = f"{tuning.model['name']}, {tuning.target}, {tuning.arch}: latency and cost by memory size"
    caption = f"{tuning.cold_share:.1%} cold starts. {_machine(tuning.machine)}"
    drawn = plot.draw_tune(
        tuning.points, tuning.recommended, title=title, caption=caption, kind=path.suffix[1:].lower()
    )
    write_whole(path, drawn)


def _machine(machine: Machine) -> str:
    memory = f", {machine.memory_bytes / 2**30:.0f} GB" if machine.memory_bytes else ""
    load = f"; load average {machine.load:.1f}" if machine.load is not None else ""
    return f"{machine.cpu}, {counted(machine.cores, 'core')}{memory}{load}; {machine.os}; {machine.runtime}"


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    value = seconds * 1000
    return f"{value:,.0f} ms" if value >= 1000 else f"{value:,.1f} ms" if value >= 10 else f"{value:,.2f} ms"
