"""`mlinfer bench`: measure cold starts, warm requests and their cost."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import MissingError, UsageError
from ...files import write_whole
from ..measuring import (
    answered,
    check,
    check_files,
    exit_code,
    gather,
    named_model,
    place_of,
    prices_in_force,
    refuse_unused,
    requests,
    runtime,
)
from ..options import (
    AwsOptions,
    ForceFlag,
    ImagesArgument,
    MeasureOptions,
    ModelFlag,
    OutputOptions,
    PlotFlag,
    command,
    configuration,
    report_unused,
)
from ..views.measurements import draw_report, show_report

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
    from ...measure import bench as step
    from ...measure.machine import describe

    terminal = output.terminal()
    config = configuration(wanted, wanted.measured, aws)
    check(
        config.target,
        concurrency=wanted.at_once,
        from_s3=wanted.measured.from_s3,
        cold_share=wanted.measured.cold_share,
    )
    check_files(config, images or [], table=wanted.table, plot=wanted.plot, force=wanted.force)
    if not wanted.cold + wanted.warm:
        raise UsageError("usage", "--cold 0 with --warm 0 measures nothing", "Leave out one of them.")
    refuse_unused(terminal, config, aws, from_s3=wanted.measured.from_s3)
    report_unused(terminal, config, "there are no warm requests", concurrency=wanted.at_once > 1 and not wanted.warm)
    amount, costs, machine = (
        step.Amount(wanted.cold, wanted.warm, wanted.at_once),
        prices_in_force(config),
        describe(runtime(config)),
    )
    named, bodies = named_model(config), requests(config, images or [])
    samples: list[Sample] = []
    with (
        place_of(terminal, config, aws.account, from_s3=wanted.measured.from_s3, cold=wanted.cold) as place,
        closing(step.measure(place.start(place.memory), bodies, amount)) as measured,
    ):
        ended = gather(
            terminal.track(answered(measured, named, config), wanted.cold + wanted.warm, "Measuring"), samples
        )
    report = step.Report(
        target=config.target,
        complete=ended is None,
        error=ended.as_json() if ended else None,
        memory=place.memory,
        arch=place.arch,
        amount=amount,
        pictures=len(bodies),
        cold_share=wanted.measured.cold_share,
        prices=costs,
        figures=step.figures(samples, costs, place.memory, place.arch, wanted.measured.cold_share),
        image_bytes=place.image.bytes if place.image else None,
        layer_bytes=sum(place.image.layers.values()) if place.image else None,
        machine=machine,
    )
    try:  # before stdout, whose reader can be gone
        if wanted.table:
            write_whole(wanted.table, step.table(samples))
        if wanted.plot and samples:
            draw_report(wanted.plot, samples, report)
    except MissingError as error:  # the figures are shown all the same
        ended, report = ended or error, replace(report, error=report.error or error.as_json())
    show_report(terminal, report)
    return exit_code(terminal, ended)
