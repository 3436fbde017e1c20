"""The flags that bench and tune share, and which of them go together."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..config import COMMAND_LINE, FILE_NAME, Config
from ..errors import UsageError
from ..files import check_output
from ..terminal import Terminal
from .options import AccountOptions, ArchFlag, AwsOptions, ModelSourceFlag, deploy_remedy, report_unused
from .views.image import build_image

if TYPE_CHECKING:
    from ..measure.bench_target import BenchTools
    from ..targets.answers import NamedModel

ImagesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[IMAGE]...", help="What to ask about, in turn; default: a drawn 500 x 375 JPEG."),
]
PlotFlag = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE.svg|png", help="Draw the figures.", show_default=False)
]
ForceFlag = Annotated[bool, typer.Option("--force", help="Replace files that mlinfer did not write.")]


@dataclass(frozen=True)
class MeasureOptions:
    """What is measured, and what the cost is counted with."""

    arch: ArchFlag = None
    model_source: ModelSourceFlag = None
    from_s3: Annotated[
        bool, typer.Option("--from-s3", help="Target local: let the function fetch the uploaded model, as in Lambda.")
    ] = False
    cold_share: Annotated[
        float,
        typer.Option("--cold-share", min=0.0, max=1.0, help="How many of all predictions meet a cold start: 0 to 1."),
    ] = 0.01
    prices: Annotated[
        str | None,
        typer.Option(
            "--prices", metavar="FILE", help="Price table; default: the package's, dated.", show_default=False
        ),
    ] = None

    def check(self, terminal: Terminal, config: Config, aws: AwsOptions) -> None:
        """Refuse flags that have no effect on the target, or that are no numbers. Raises UsageError."""
        if self.from_s3 and config.target != "local":
            raise UsageError("usage", "--from-s3 goes with --target local", "Leave it out.")
        require_number("--cold-share", self.cold_share)
        _refuse_unused(terminal, config, aws, from_s3=self.from_s3)

    def make_tools(self, terminal: Terminal, config: Config, account: AccountOptions) -> BenchTools:
        """Return what the targets need."""
        from ..clients import docker
        from ..clients.waiter import Waiter
        from ..container_image.contents import make_build_spec
        from ..measure.bench_target import BenchTools

        return BenchTools(
            environment=os.environ,
            connect=partial(docker.connect, os.environ),
            build=lambda engine: build_image(terminal, engine, make_build_spec(config, os.environ)),
            open_session=partial(account.open_session, terminal),
            make_waiter=lambda: Waiter(time.sleep, terminal.note),
            note=terminal.note,
            log=terminal.detail,
            s3_environment=partial(account.read_s3_environment, terminal, config) if self.from_s3 else None,
        )


def require_number(flag: str, value: float | None) -> None:
    """Refuse nan, which Typer's limits let pass. Raises UsageError."""
    if value is not None and not math.isfinite(value):
        raise UsageError("invalid_value", f"{flag} is {value}, not a number")


def check_files(config: Config, images: Sequence[str], *, table: Path | None, plot: Path | None, force: bool) -> None:
    """Refuse, before anything is measured, files that cannot or must not be written afterwards. Raises UsageError, MissingError."""
    from ..measure import bench
    from ..measure import plot as drawing

    if plot:
        drawing.check(plot)
    inputs = [Path(name) for name in (*images, config.model, config.prices, FILE_NAME) if name]
    for file, is_ours in ((table, bench.is_table), (plot, drawing.is_ours)):
        if file is None:
            continue
        if not file.parent.is_dir():
            raise UsageError("no_such_folder", f"there is no folder {file.parent} for {file.name}", "Make it first.")
        check_output(file, inputs, is_ours=is_ours, force=force)
    if table and plot and table.resolve() == plot.resolve():
        raise UsageError("usage", f"--csv and --plot name the same file, {plot}", "Name two files.")


def find_required_model(config: Config) -> NamedModel | None:
    """Return the model that must answer in AWS, if one is named: here it is started with that model. Raises MissingError."""
    from ..targets.answers import find_named_model

    return find_named_model(config, deploy_remedy(config)) if config.target == "aws" else None


def _refuse_unused(terminal: Terminal, config: Config, options: AwsOptions, *, from_s3: bool) -> None:
    """Refuse what has no effect on the target. Raises UsageError."""
    project, aws = options.project, vars(options.account)
    if config.target == "embedded":
        report_unused(terminal, config, "target embedded is this process", "model_source", project=project, **aws)
    elif config.target == "aws":
        keys = ("arch", "model_source", *(["memory"] if config.origins["memory"] != COMMAND_LINE else []))
        report_unused(terminal, config, "target aws is measured as it is deployed", *keys)
    elif not from_s3:
        report_unused(terminal, config, "without --from-s3 the function uses no AWS", **aws)
