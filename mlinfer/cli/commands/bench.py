"""`mlinfer bench`: measure cold starts, warm requests and their cost."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import MissingError, UsageError
from ...files import write_whole
from ...terminal import Terminal
from ..measuring import (
    SHARE,
    ForceFlag,
    FromS3Flag,
    ImagesArgument,
    PlotFlag,
    PricesFlag,
    ShareFlag,
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
    ArchFlag,
    JsonFlag,
    ModelFlag,
    ModelSourceFlag,
    ProfileFlag,
    ProjectFlag,
    QuietFlag,
    RegionFlag,
    VerboseFlag,
    app,
    configuration,
    report_unused,
)
from ..views.measurements import draw_report, show_report

if TYPE_CHECKING:
    from ...measure.instance import Sample


@app.command()
def bench(
    images: ImagesArgument = None,
    model: ModelFlag = None,
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="embedded|local|aws", help="What to measure.", show_default=False),
    ] = None,
    cold: Annotated[int, typer.Option("--cold", min=0, metavar="N", help="Cold starts, each of a new instance.")] = 5,
    warm: Annotated[int, typer.Option("--warm", min=0, metavar="N", help="Warm requests, to the last instance.")] = 50,
    concurrency: Annotated[
        int, typer.Option("--concurrency", min=1, max=64, help="Warm requests at once, of target aws.")
    ] = 1,
    memory: Annotated[int | None, typer.Option("--memory", metavar="MB", help="Of the function.")] = None,
    arch: ArchFlag = None,
    model_source: ModelSourceFlag = None,
    from_s3: FromS3Flag = False,
    cold_share: ShareFlag = SHARE,
    prices: PricesFlag = None,
    table: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write every request.", show_default=False)
    ] = None,
    plot: PlotFlag = None,
    force: ForceFlag = False,
    project: ProjectFlag = None,
    region: RegionFlag = None,
    profile: ProfileFlag = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> int:
    """Measure cold starts, warm requests and their cost:  mlinfer bench --target local

    Ctrl-C ends it early, with what there is by then. The figures hold for the machine that they name.
    """
    from ...measure import bench as step
    from ...measure.machine import describe

    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    config = configuration(
        model=model, target=target, memory=memory, arch=arch, model_source=model_source, prices=prices, project=project
    )
    check(config.target, concurrency=concurrency, from_s3=from_s3, cold_share=cold_share)
    check_files(config, images or [], table=table, plot=plot, force=force)
    if not cold + warm:
        raise UsageError("usage", "--cold 0 with --warm 0 measures nothing", "Leave out one of them.")
    refuse_unused(terminal, config, from_s3=from_s3, project=project, region=region, profile=profile)
    report_unused(terminal, config, "there are no warm requests", concurrency=concurrency > 1 and not warm)
    amount, costs, machine = step.Amount(cold, warm, concurrency), prices_in_force(config), describe(runtime(config))
    named, bodies = named_model(config), requests(config, images or [])
    samples: list[Sample] = []
    with (
        place_of(terminal, config, region, profile, from_s3=from_s3, cold=cold) as place,
        closing(step.measure(place.start(place.memory), bodies, amount)) as measured,
    ):
        ended = gather(terminal.track(answered(measured, named, config), cold + warm, "Measuring"), samples)
    report = step.Report(
        target=config.target,
        complete=ended is None,
        error=ended.as_json() if ended else None,
        memory=place.memory,
        arch=place.arch,
        amount=amount,
        pictures=len(bodies),
        cold_share=cold_share,
        prices=costs,
        figures=step.figures(samples, costs, place.memory, place.arch, cold_share),
        image_bytes=place.image.bytes if place.image else None,
        layer_bytes=sum(place.image.layers.values()) if place.image else None,
        machine=machine,
    )
    try:  # before stdout, whose reader can be gone
        if table:
            write_whole(table, step.table(samples))
        if plot and samples:
            draw_report(plot, samples, report)
    except MissingError as error:  # the figures are shown all the same
        ended, report = ended or error, replace(report, error=report.error or error.as_json())
    show_report(terminal, report)
    return exit_code(terminal, ended)
