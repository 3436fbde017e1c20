"""`mlinfer bench`: measure cold starts, warm requests and cost."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...config import TARGETS, Config
from ...errors import MissingError, UsageError
from ...files import write_whole
from ...terminal import Terminal
from ..application import FUNCTION, MEASUREMENT, MODEL, OUTPUT, command
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
    """What to measure, and where to write the results."""

    model: ModelFlag = None
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="|".join(TARGETS),
            help="Where the model runs.",
            show_default="embedded",
            rich_help_panel=MODEL,
        ),
    ] = None
    cold: Annotated[
        int, typer.Option("--cold", min=0, metavar="N", help="Number of cold starts.", rich_help_panel=MEASUREMENT)
    ] = 5
    warm: Annotated[
        int, typer.Option("--warm", min=0, metavar="N", help="Number of warm requests.", rich_help_panel=MEASUREMENT)
    ] = 50
    at_once: Annotated[
        int,
        typer.Option(
            "--concurrency",
            min=1,
            max=64,
            metavar="N",
            help="Parallel warm requests (target aws only).",
            rich_help_panel=MEASUREMENT,
        ),
    ] = 1
    memory: Annotated[
        int | None,
        typer.Option("--memory", metavar="MB", help="Memory size.", show_default="1769", rich_help_panel=FUNCTION),
    ] = None
    measured: MeasureOptions
    table: Annotated[
        Path | None,
        typer.Option(
            "--csv", metavar="FILE", help="Write a row for each request.", rich_help_panel=OUTPUT, show_default=False
        ),
    ] = None
    plot: PlotFlag = None
    force: ForceFlag = False


@command(
    "mlinfer bench --target local",
    "mlinfer bench --target aws --cold 10 --warm 200",
    "mlinfer bench --plot bench.svg --csv bench.csv",
)
def bench(images: ImagesArgument = None, *, wanted: BenchOptions, aws: AwsOptions, output: OutputOptions) -> int:
    """Measure cold starts, warm requests and cost.

    It shows percentiles, the time of each step, and the cost of a million requests. Ctrl-C stops early and shows the results so far. Latencies are only comparable on the same machine.
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
    try:  # before stdout, which can be closed
        if wanted.table:
            write_whole(wanted.table, table(samples))
        if wanted.plot and samples:
            draw_report(wanted.plot, samples, report)
    except MissingError as error:  # still show the results
        ended, report = ended or error, replace(report, error=report.error or error.as_json())
    show_report(terminal, report)
    return show_end(terminal, ended)


def _check(terminal: Terminal, config: Config, wanted: BenchOptions, aws: AwsOptions) -> None:
    """Raise UsageError for options that measure nothing or have no effect."""
    if wanted.at_once > 1 and config.target != "aws":
        message = f"--concurrency needs --target aws (target {config.target} answers one request at a time)"
        raise UsageError("usage", message, "Remove --concurrency.")
    if not wanted.cold + wanted.warm:
        raise UsageError("usage", "--cold 0 with --warm 0 measures nothing", "Remove one of them.")
    wanted.measured.check(terminal, config, aws)
    report_unused(terminal, config, "there are no warm requests", concurrency=wanted.at_once > 1 and not wanted.warm)
