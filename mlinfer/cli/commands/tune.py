"""`mlinfer tune`: find the memory size to take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...config import COMMAND_LINE, FILE_NAME, Config, with_value
from ...errors import MissingError, UsageError, VerificationError
from ...files import read_text, write_whole
from ...terminal import Terminal
from ..application import command
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


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """What is measured, and what the recommendation is for."""

    model: ModelFlag = None
    target: Annotated[
        str | None, typer.Option("--target", metavar="local|aws", help="What to measure.", show_default=False)
    ] = None
    sizes: Annotated[
        str | None,
        typer.Option(
            "--memory", metavar="MB,...", help="Sizes; default: those that this machine can give.", show_default=False
        ),
    ] = None
    cold: Annotated[
        int, typer.Option("--cold", min=1, metavar="N", help="Cold starts at each size, in each round.")
    ] = 3
    warm: Annotated[
        int, typer.Option("--warm", min=1, metavar="N", help="Warm requests at each size, in each round.")
    ] = 30
    max_latency: Annotated[
        float | None,
        typer.Option("--max-latency-ms", min=0.0, help="What the warm p90 may take.", show_default=False),
    ] = None
    apply: Annotated[bool, typer.Option("--apply", help="Write the recommendation to mlinfer.toml.")] = False
    measured: MeasureOptions
    plot: PlotFlag = None
    force: ForceFlag = False


@command
def tune(images: ImagesArgument = None, *, wanted: TuneOptions, aws: AwsOptions, output: OutputOptions) -> int:
    """Find the memory size to take:  mlinfer tune --max-latency-ms 50 --apply

    It recommends the cheapest size whose warm p90 is within --max-latency-ms; without that, within 1.5 times the fastest's. It measures in rounds, until the recommendation stands; Ctrl-C shows what there is by then.
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
            tell(f"{size} MB, after {len(trials)} requests")
            return check_answers(measure(target.start(size), events, amount), named, config.target)

        judge = make_judge(conditions, target.arch, limit_s)
        with closing(measure_sizes(sizes, measure_size, judge)) as tried:
            ended = collect(tried, trials)
    tuning = make_tuning(trials, ended, judge, sizes=sizes, arch=target.arch, conditions=conditions)
    try:
        _keep(terminal, tuning, wanted)
    except (MissingError, UsageError) as error:  # the figures are shown all the same
        ended, tuning = ended or error, replace(tuning, error=tuning.error or error.as_json())
    show_tuning(terminal, tuning)
    if ended:
        return show_end(terminal, ended)
    return 0 if tuning.recommended else VerificationError.exit_code


def _keep(terminal: Terminal, tuning: Tuning, wanted: TuneOptions) -> None:
    """Write the picture and the recommendation, before stdout, whose reader can be gone. Raises UsageError, MissingError."""
    if wanted.plot and any(not point.failure for point in tuning.points):
        draw_tuning(wanted.plot, tuning)
    if wanted.apply and tuning.recommended:
        _apply(terminal, tuning.recommended.memory)


def _tuned(config: Config) -> Config:
    """Return the configuration with a target that has a memory size: local, unless another one was asked for."""
    if config.target != "embedded":
        return config
    if config.origins["target"] == COMMAND_LINE:
        raise UsageError("usage", "target embedded has no memory size to tune", "Take --target local or aws.")
    return replace(config, target="local")


def _sizes(terminal: Terminal, config: Config, given: str | None) -> list[int]:
    """Return the memory sizes to try: those given, or those that can be measured rightly here. Raises UsageError."""
    from ...measure import tune

    if given is not None:
        try:
            sizes = sorted({int(size) for size in given.split(",")})
        except ValueError as error:
            hint = "Write it like this: --memory 512,1024,1769"
            raise UsageError("invalid_value", f"--memory is {given!r}, not whole numbers with commas", hint) from error
        return [read_configuration(memory=size).memory for size in sizes]
    if config.target == "aws":
        return [size for size in tune.SIZES if size <= tune.NEW_ACCOUNTS_MB]
    from ...clients import docker

    cores = docker.connect(os.environ).machine().cores
    sizes = tune.sizes_for(cores)
    if left_out := [f"{size:,}" for size in tune.SIZES if size not in sizes]:
        terminal.note(
            f"Left out: {', '.join(left_out)} MB, which give more vCPUs in Lambda than this machine's {cores}."
        )
    return sizes


def _apply(terminal: Terminal, memory: int) -> None:
    """Write the memory size into mlinfer.toml, which keeps all else. Raises UsageError, MissingError."""
    path = Path(FILE_NAME)
    text = read_text(path, keep_ends=True) if path.exists() else ""
    write_whole(path, with_value(text, "memory", memory).encode())
    terminal.note(f"{FILE_NAME}: memory = {memory}.")
    origin = read_configuration().origins["memory"]
    if origin != FILE_NAME:
        terminal.note(f"{origin} overrides it.")
