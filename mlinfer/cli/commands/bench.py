"""`mlinfer bench`: measure cold starts, warm requests and their cost."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...config import Config
from ...errors import MissingError, UsageError
from ...files import write_whole
from ...terminal import Terminal
from ..application import command
from ..measure_options import (
    ForceFlag,
    ImagesArgument,
    MeasureOptions,
    PlotFlag,
    check_files,
    find_required_model,
)
from ..options import AwsOptions, ModelFlag, OutputOptions, read_configuration, read_pictures, report_unused
from ..views.measurements import draw_report, show_end, show_report

if TYPE_CHECKING:
    from ...measure.instance import Sample


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What is measured, and where the figures go."""

    model: ModelFlag = None
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="embedded|local|aws", help="What to measure.", show_default=False),
    ] = None
    cold: Annotated[int, typer.Option("--cold", min=0, metavar="N", help="Cold starts, each of a new instance.")] = 5
    warm: Annotated[int, typer.Option("--warm", min=0, metavar="N", help="Warm requests, to the last instance.")] = 50
    at_once: Annotated[
        int, typer.Option("--concurrency", min=1, max=64, help="Warm requests at once, of target aws.")
    ] = 1
    memory: Annotated[int | None, typer.Option("--memory", metavar="MB", help="Of the function.")] = None
    measured: MeasureOptions
    table: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write every request.", show_default=False)
    ] = None
    plot: PlotFlag = None
    force: ForceFlag = False


@command
def bench(images: ImagesArgument = None, *, wanted: BenchOptions, aws: AwsOptions, output: OutputOptions) -> int:
    """Measure cold starts, warm requests and their cost:  mlinfer bench --target local

    Ctrl-C ends it early, with what there is by then. The figures hold for the machine that they name.
    """
    from ...measure.bench import Amount, collect, make_report, measure, read_conditions, table
    from ...measure.bench_target import open_target
    from ...measure.events import check_answers, make_events

    terminal = output.make_terminal()
    config = read_configuration(wanted, wanted.measured, aws)
    _check(terminal, config, wanted, aws)
    check_files(config, images or [], table=wanted.table, plot=wanted.plot, force=wanted.force)
    conditions = read_conditions(config, wanted.measured.cold_share)
    named, events = find_required_model(config), make_events(config, read_pictures(images or []))
    amount = Amount(wanted.cold, wanted.warm, wanted.at_once)
    samples: list[Sample] = []
    with (
        open_target(config, wanted.measured.make_tools(terminal, config, aws.account), wanted.cold) as target,
        closing(measure(target.start(target.memory), events, amount)) as measured,
    ):
        answers = check_answers(measured, named, config.target)
        ended = collect(terminal.track(answers, wanted.cold + wanted.warm, "Measuring"), samples)
    report = make_report(samples, ended, target, conditions=conditions, amount=amount, pictures=len(events))
    try:  # before stdout, whose reader can be gone
        if wanted.table:
            write_whole(wanted.table, table(samples))
        if wanted.plot and samples:
            draw_report(wanted.plot, samples, report)
    except MissingError as error:  # the figures are shown all the same
        ended, report = ended or error, replace(report, error=report.error or error.as_json())
    show_report(terminal, report)
    return show_end(terminal, ended)


def _check(terminal: Terminal, config: Config, wanted: BenchOptions, aws: AwsOptions) -> None:
    """Refuse what would measure nothing, or has no effect. Raises UsageError."""
    if wanted.at_once > 1 and config.target != "aws":
        message = f"--concurrency goes with --target aws; {config.target} answers one request at a time"
        raise UsageError("usage", message, "Leave it out.")
    if not wanted.cold + wanted.warm:
        raise UsageError("usage", "--cold 0 with --warm 0 measures nothing", "Leave out one of them.")
    wanted.measured.check(terminal, config, aws)
    report_unused(terminal, config, "there are no warm requests", concurrency=wanted.at_once > 1 and not wanted.warm)
