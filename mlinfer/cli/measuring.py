"""What bench and tune share: what is asked, and where."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..clients.invocation import MAX_REQUEST_BYTES
from ..config import COMMAND_LINE, FILE_NAME, Config
from ..errors import MlinferError, UsageError
from ..files import check_output, file_lock
from ..names import ALIAS, Names
from ..targets.answers import NamedModel, require_model
from ..terminal import Terminal
from .options import (
    SLACK_S,
    AccountOptions,
    AwsOptions,
    model_words,
    read_image,
    report_unused,
)
from .views.image import build_image

if TYPE_CHECKING:
    from ..container_image.docker_build import BuiltImage
    from ..measure.instance import Sample, Start
    from ..measure.prices import Prices

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Where the function is measured. start: starts instances with so much memory. image: None where there is none."""

    start: Callable[[int], Start]
    memory: int
    arch: str
    image: BuiltImage | None = None


def check(target: str, *, concurrency: int, from_s3: bool, cold_share: float, max_latency: float | None = None) -> None:
    """Refuse flags that do not go together, and numbers that are none. Raises UsageError."""
    if concurrency > 1 and target != "aws":
        message = f"--concurrency goes with --target aws; {target} answers one request at a time"
        raise UsageError("usage", message, "Leave it out.")
    if from_s3 and target != "local":
        raise UsageError("usage", "--from-s3 goes with --target local", "Leave it out.")
    for flag, value in (("--cold-share", cold_share), ("--max-latency-ms", max_latency)):
        if value is not None and not math.isfinite(value):  # Typer's limits let nan pass
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


def refuse_unused(terminal: Terminal, config: Config, options: AwsOptions, *, from_s3: bool) -> None:
    """Refuse what has no effect on the target. Raises UsageError."""
    project, aws = options.project, vars(options.account)
    if config.target == "embedded":
        report_unused(terminal, config, "target embedded is this process", "model_source", project=project, **aws)
    elif config.target == "aws":
        keys = ("arch", "model_source", *(["memory"] if config.origins["memory"] != COMMAND_LINE else []))
        report_unused(terminal, config, "target aws is measured as it is deployed", *keys)
    elif not from_s3:
        report_unused(terminal, config, "without --from-s3 the function uses no AWS", **aws)


def prices_in_force(config: Config) -> Prices:
    """Return the configured price table, or the package's. Raises UsageError."""
    from ..measure import prices

    return prices.read_prices(Path(config.prices) if config.prices else prices.TABLE)


def runtime(config: Config) -> str:
    """Return what the function runs on; "" for this very Python."""
    from ..model.runtime import IMAGE_ONNXRUNTIME

    image = f"{config.base_image}, onnxruntime {IMAGE_ONNXRUNTIME}"
    return {"embedded": "", "local": image, "aws": "asking AWS Lambda"}[config.target]


def requests(config: Config, images: Sequence[str]) -> list[bytes]:
    """Return the requests; but for aws, the configured model has answered each in this process. Raises MlinferError."""
    from .. import targets
    from ..model import samples
    from ..targets import embedded

    found = [targets.Picture(name, partial(read_image, name)) for name in images]
    found = found or [targets.Picture("drawn.jpg", samples.draw_jpeg)]
    pictures = [targets.Picture(picture.name, partial(bytes, targets.read_picture(picture))) for picture in found]
    if config.target != "aws":
        for result in targets.predict(pictures, embedded.make_target(config, log=lambda _: None), config.top_k):
            if result.error:
                raise result.error
    bodies = [json.dumps(targets.make_event(picture.read(), config.top_k)).encode() for picture in pictures]
    largest = max(map(len, bodies))
    if largest > MAX_REQUEST_BYTES and config.target != "embedded":
        raise UsageError("usage", f"a picture makes a request of {largest:,} bytes; Lambda takes 6 MB", "Reduce it.")
    return bodies


def named_model(config: Config) -> NamedModel | None:
    """Return the model that must answer in AWS, if one is named: here it is started with that model. Raises MissingError."""
    from ..targets import answers

    if config.target != "aws":
        return None
    return answers.find_named_model(config, f"Deploy it: mlinfer deploy{model_words(config)}")


def answered(samples: Iterable[Sample], named: NamedModel | None, config: Config) -> Iterator[Sample]:
    """Pass the samples on while the named model answers. Raises VerificationError."""
    for sample in samples:
        require_model(sample.model, named, config.target)
        yield sample


@contextmanager
def place_of(
    terminal: Terminal, config: Config, account: AccountOptions, *, from_s3: bool, cold: int
) -> Iterator[Place]:
    """Return where the function is measured; what that needs is gone afterwards. Raises MlinferError."""
    if config.target == "embedded":
        from ..measure import process

        start = partial(process.start, config, os.environ, terminal.detail)
        yield Place(lambda _: start, config.memory, config.arch)
    elif config.target == "local":
        s3_environment = account.s3_environment(terminal, config) if from_s3 else None
        with _local_place(terminal, config, s3_environment) as place:
            yield place
    else:
        with _cloud_place(terminal, config, account, cold=cold) as place:
            yield place


@contextmanager
def _local_place(terminal: Terminal, config: Config, s3_environment: dict[str, str] | None) -> Iterator[Place]:
    from ..clients import docker as engine
    from ..container_image.contents import make_build_spec
    from ..local import address, container
    from ..local.function import describe_shortage, make_function
    from ..local.ports import find_free_port
    from ..measure import container as emulated

    docker = engine.connect(os.environ)
    container.require_local(docker)
    built = build_image(terminal, docker, make_build_spec(config, os.environ))

    def start_with(memory: int) -> Start:
        for note in describe_shortage(memory, docker.machine()):
            terminal.note(note)
        chosen = replace(config, memory=memory, port=find_free_port(address.HOST))
        function = make_function(chosen, built.tag, s3_environment)
        return partial(emulated.start, docker, function, terminal.detail)

    with file_lock(f"mlinfer-bench-{config.project}"):
        container.stop(docker, config.project, container.FRESH_LABEL)  # what a killed command has left
        yield Place(start_with, config.memory, config.arch, built)


@contextmanager
def _cloud_place(terminal: Terminal, config: Config, account: AccountOptions, *, cold: int) -> Iterator[Place]:
    """Without cold starts, ask what is live and change nothing; else borrow $LATEST."""
    from ..clients.aws_errors import explained
    from ..clients.waiter import Waiter
    from ..cloud.resources import function
    from ..measure import live as latest
    from ..targets import aws as aws_target

    session = account.session(terminal)
    names, functions, waiter = Names(config.project), session.client("lambda"), Waiter(time.sleep, terminal.note)
    given = config.memory if config.origins["memory"] == COMMAND_LINE else 0
    invoker = session.client("lambda", read_timeout=aws_target.read_live_timeout(functions, names) + SLACK_S)
    if not cold:
        if given:
            message = "--memory needs cold starts with --target aws: what is live has the memory that it has"
            raise UsageError("usage", message, "Leave out --memory, or --cold 0.")
        with explained(f"the function {names.function}", "lambda:GetFunction on the function"):
            live = function.wait_until_ready(functions, names, waiter, ALIAS).settings
        asked = latest.Latest(invoker, names, ALIAS, waiter, terminal.detail)
        yield Place(lambda _: lambda: nullcontext(asked), live.memory, live.arch)
        return
    with latest.borrow(functions, names, waiter, terminal.note) as before:
        terminal.note(f"Measuring $LATEST of {names.function}; what is live is left alone.")

        def start_with(memory: int) -> Start:
            return partial(latest.start, functions, invoker, names, before, memory, waiter, terminal.detail)

        yield Place(start_with, given or before.memory, before.arch)


def gather(items: Iterable[T], found: list[T]) -> MlinferError | None:
    """Keep each item as it comes; return what ended them early, Ctrl-C or a failure. Raises it if nothing came before."""
    try:
        for item in items:
            found.append(item)
    except KeyboardInterrupt:
        return _InterruptedError("interrupted", "interrupted")
    except MlinferError as error:
        if not found:
            raise
        return error
    return None


class _InterruptedError(MlinferError):
    exit_code = 130


def exit_code(terminal: Terminal, ended: MlinferError | None) -> int:
    """Say what ended the measurement early, if something did, and return the exit code."""
    if ended and not isinstance(ended, _InterruptedError):
        terminal.failure(str(ended))
        terminal.note(ended.hint)
    return ended.exit_code if ended else 0
