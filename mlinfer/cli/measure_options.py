"""Options that bench and tune share, and the checks of their combinations."""

from __future__ import annotations

import math
import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, assert_never

import typer

from ..config import COMMAND_LINE, FILE_NAME, Config
from ..errors import UsageError
from ..files import check_output
from ..terminal import Terminal
from .application import IMAGES, MEASUREMENT, MODEL, OUTPUT
from .options import AccountOptions, ArchFlag, AwsOptions, ModelSourceFlag, deploy_remedy, report_unused
from .views.image import build_for_engine

if TYPE_CHECKING:
    from ..measure.bench_target import BenchTools
    from ..targets.answers import NamedModel

ImagesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[IMAGE]...",
        help="Images to send in turn.",
        show_default="a generated 500 x 375 JPEG",
        rich_help_panel=IMAGES,
    ),
]
PlotFlag = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE.svg|png", help="Write a chart.", rich_help_panel=OUTPUT, show_default=False),
]
ForceFlag = Annotated[
    bool, typer.Option("--force", help="Replace output files that mlinfer did not write.", rich_help_panel=OUTPUT)
]


@dataclass(frozen=True)
class MeasureOptions:
    """What is measured, and the assumptions about cost."""

    arch: ArchFlag = None
    model_source: ModelSourceFlag = None
    from_s3: Annotated[
        bool,
        typer.Option(
            "--from-s3",
            help="Fetch the uploaded model from S3, as on Lambda (target local only).",
            rich_help_panel=MODEL,
        ),
    ] = False
    cold_share: Annotated[
        float,
        typer.Option(
            "--cold-share",
            min=0.0,
            max=1.0,
            metavar="SHARE",
            help="Share of requests with a cold start, to calculate the cost.",
            rich_help_panel=MEASUREMENT,
        ),
    ] = 0.01
    prices: Annotated[
        str | None,
        typer.Option(
            "--prices", metavar="FILE", help="Price table.", show_default="included", rich_help_panel=MEASUREMENT
        ),
    ] = None

    def check(self, terminal: Terminal, config: Config, aws: AwsOptions) -> None:
        """Raise UsageError for options that have no effect on the target, or that are not numbers."""
        if self.from_s3 and config.target != "local":
            raise UsageError("usage", "--from-s3 needs --target local", "Remove --from-s3.")
        require_number("--cold-share", self.cold_share)
        _refuse_unused(terminal, config, aws, from_s3=self.from_s3)

    def make_tools(self, terminal: Terminal, config: Config, account: AccountOptions) -> BenchTools:
        """Return the tools that the targets use."""
        from ..clients import docker
        from ..clients.waiter import Waiter
        from ..measure.bench_target import BenchTools

        return BenchTools(
            environment=os.environ,
            connect=partial(docker.connect, os.environ),
            build=lambda engine: build_for_engine(terminal, engine, config),
            open_session=partial(account.open_session, terminal),
            make_waiter=lambda: Waiter(time.sleep, terminal.note),
            note=terminal.note,
            log=terminal.detail,
            s3_environment=partial(account.read_s3_environment, terminal, config) if self.from_s3 else None,
        )


def require_number(flag: str, value: float | None) -> None:
    """Raise UsageError for nan, which passes Typer's limits."""
    if value is not None and not math.isfinite(value):
        raise UsageError("invalid_value", f"{flag} is {value}, not a number")


def check_files(config: Config, images: Sequence[str], *, table: Path | None, plot: Path | None, force: bool) -> None:
    """Check before the measurement that the output files can be written. Raises UsageError, MissingError."""
    from ..measure import bench
    from ..measure import plot as drawing

    if plot:
        drawing.check(plot)
    inputs = [Path(name) for name in (*images, config.model, config.prices, FILE_NAME) if name]
    for file, is_ours in ((table, bench.is_table), (plot, drawing.is_ours)):
        if file is None:
            continue
        if not file.parent.is_dir():
            raise UsageError(
                "no_such_folder",
                f"folder {file.parent} does not exist",
                f"Create it with `mkdir -p {shlex.quote(str(file.parent))}`.",
            )
        check_output(file, inputs, is_ours=is_ours, force=force)
    if table and plot and table.resolve() == plot.resolve():
        raise UsageError("usage", f"--csv and --plot have the same file {plot}", "Give each its own file.")


def find_required_model(config: Config) -> NamedModel | None:
    """Return the model that target aws must answer with, if one is named. Raises MissingError."""
    from ..targets.answers import find_named_model

    return find_named_model(config, deploy_remedy(config)) if config.target == "aws" else None


def _refuse_unused(terminal: Terminal, config: Config, options: AwsOptions, *, from_s3: bool) -> None:
    """Raise UsageError for options that have no effect on the target."""
    project, aws = options.project, vars(options.account)
    if config.target == "embedded":
        report_unused(terminal, config, "target embedded runs in this process", "model_source", project=project, **aws)
    elif config.target == "aws":
        keys = ("arch", "model_source", *(["memory"] if config.origins["memory"] != COMMAND_LINE else []))
        report_unused(terminal, config, "target aws is measured as deployed", *keys)
    elif config.target == "local":
        if not from_s3:
            report_unused(terminal, config, "without --from-s3 the function does not use AWS", **aws)
    else:
        assert_never(config.target)
