"""`mlinfer tune`: find the cheapest memory size that is fast enough."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...config import COMMAND_LINE, FILE_NAME, TARGETS, Config, with_value
from ...errors import MissingError, UsageError, VerificationError
from ...files import read_text, write_whole
from ...terminal import Terminal
from ..application import MEASUREMENT, MODEL, OUTPUT, command
from ..measure_options import (
    ForceFlag,
    ImagesArgument,
    MeasureOptions,
    PlotFlag,
    check_files,
    find_required_model,
    require_number,
)
from ..options import AwsOptions, ModelFlag, OutputOptions, read_configuration, read_pictures
from ..views.measurements import draw_tuning, show_end, show_tuning

if TYPE_CHECKING:
    from ...measure.instance import Sample
    from ...measure.tune import Trial, Tuning

_TARGETS = [name for name in TARGETS if name != "embedded"]  # it has no memory size


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """What to measure, and the limit for the recommendation."""

    model: ModelFlag = None
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="|".join(_TARGETS),
            help="Where the function runs.",
            show_default="local",
            rich_help_panel=MODEL,
        ),
    ] = None
    sizes: Annotated[
        str | None,
        typer.Option(
            "--memory",
            metavar="MB,...",
            help="Memory sizes.",
            show_default="all that fit this machine",
            rich_help_panel=MEASUREMENT,
        ),
    ] = None
    cold: Annotated[
        int,
        typer.Option(
            "--cold", min=1, metavar="N", help="Cold starts for each size and round.", rich_help_panel=MEASUREMENT
        ),
    ] = 3
    warm: Annotated[
        int,
        typer.Option(
            "--warm", min=1, metavar="N", help="Warm requests for each size and round.", rich_help_panel=MEASUREMENT
        ),
    ] = 30
    max_latency: Annotated[
        float | None,
        typer.Option(
            "--max-latency-ms",
            min=0.0,
            metavar="MS",
            help="Limit for the warm p90.",
            rich_help_panel=MEASUREMENT,
            show_default=False,
        ),
    ] = None
    apply: Annotated[
        bool, typer.Option("--apply", help="Write the recommended size to mlinfer.toml.", rich_help_panel=OUTPUT)
    ] = False
    measured: MeasureOptions
    plot: PlotFlag = None
    force: ForceFlag = False


@command(
    "mlinfer tune",
    "mlinfer tune --max-latency-ms 50 --apply",
    "mlinfer tune --target aws --memory 1024,1769,3008",
)
def tune(images: ImagesArgument = None, *, wanted: TuneOptions, aws: AwsOptions, output: OutputOptions) -> int:
    """Find the cheapest memory size that is fast enough.

    Fast enough means that the warm p90 is at most --max-latency-ms. Without that option, the limit is 1.5 times the p90 of the fastest size. It measures in rounds until the recommendation is stable. Ctrl-C stops early and shows the results so far.
    """
    from ...measure.bench import Amount, collect, measure, read_conditions
    from ...measure.bench_target import open_target
    from ...measure.events import check_answers, make_events
    from ...measure.tune import make_judge, make_tuning
    from ...measure.tune import tune as measure_sizes

    terminal = output.make_terminal()
    config = _tuned(read_configuration(wanted, wanted.measured, aws))
    wanted.measured.check(terminal, config, aws)
    require_number("--max-latency-ms", wanted.max_latency)
    check_files(config, images or [], table=None, plot=wanted.plot, force=wanted.force)
    conditions = read_conditions(config, wanted.measured.cold_share)
    named, events = find_required_model(config), make_events(config, read_pictures(images or []))
    sizes, amount = _sizes(terminal, config, wanted.sizes), Amount(wanted.cold, wanted.warm)
    limit_s = None if wanted.max_latency is None else wanted.max_latency / 1000
    trials: list[Trial] = []
    with (
        open_target(config, wanted.measured.make_tools(terminal, config, aws.account), wanted.cold) as target,
        terminal.progress("Measuring") as tell,
    ):

        def measure_size(size: int) -> Iterator[Sample]:
            tell(f"{size} MB, {len(trials)} requests done")
            return check_answers(measure(target.start(size), events, amount), named, config.target)

        judge = make_judge(conditions, target.arch, limit_s)
        with closing(measure_sizes(sizes, measure_size, judge)) as tried:
            ended = collect(tried, trials)
    tuning = make_tuning(trials, ended, judge, sizes=sizes, arch=target.arch, conditions=conditions)
    try:
        _keep(terminal, tuning, wanted)
    except (MissingError, UsageError) as error:  # still show the results
        ended, tuning = ended or error, replace(tuning, error=tuning.error or error.as_json())
    show_tuning(terminal, tuning)
    if ended:
        return show_end(terminal, ended)
    return 0 if tuning.recommended else VerificationError.exit_code


def _keep(terminal: Terminal, tuning: Tuning, wanted: TuneOptions) -> None:
    """Write the chart and the recommendation, before stdout, which can be closed. Raises UsageError, MissingError."""
    if wanted.plot and any(not point.failure for point in tuning.points):
        draw_tuning(wanted.plot, tuning)
    if wanted.apply and tuning.recommended:
        _apply(terminal, tuning.recommended.memory)


def _tuned(config: Config) -> Config:
    """Return the configuration with a target that has a memory size: local by default. Raises UsageError."""
    if config.target != "embedded":
        return config
    if config.origins["target"] == COMMAND_LINE:
        raise UsageError(
            "usage", "target embedded has no memory size to tune", "Use `--target local` or `--target aws`."
        )
    return replace(config, target="local")


def _sizes(terminal: Terminal, config: Config, given: str | None) -> list[int]:
    """Return the memory sizes to try: those given, or all that this machine can measure. Raises UsageError."""
    from ...measure import tune

    if given is not None:
        try:
            sizes = sorted({int(size) for size in given.split(",")})
        except ValueError as error:
            hint = "Separate the sizes with commas, as in `--memory 512,1024,1769`."
            raise UsageError("invalid_value", f"--memory {given!r} is not a list of whole numbers", hint) from error
        return [read_configuration(memory=size).memory for size in sizes]
    if config.target == "aws":
        return [size for size in tune.SIZES if size <= tune.NEW_ACCOUNTS_MB]
    from ...clients import docker

    cores = docker.connect(os.environ).machine().cores
    sizes = tune.sizes_for(cores)
    if left_out := [f"{size:,}" for size in tune.SIZES if size not in sizes]:
        terminal.note(
            f"Skipped: {', '.join(left_out)} MB, because Lambda gives them more vCPUs than this machine has ({cores})."
        )
    return sizes


def _apply(terminal: Terminal, memory: int) -> None:
    """Set the memory size in mlinfer.toml. Raises UsageError, MissingError."""
    path = Path(FILE_NAME)
    text = read_text(path, keep_ends=True) if path.exists() else ""
    write_whole(path, with_value(text, "memory", memory).encode())
    terminal.note(f"{FILE_NAME}: memory = {memory}.")
    origin = read_configuration().origins["memory"]
    if origin != FILE_NAME:
        terminal.note(f"{origin} overrides this value.")
