"""The command that asks a target: predict."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lambda_src.settings import MAX_IMAGE_BYTES

from ...config import COMMAND_LINE, Config
from ...errors import ImageError, InvocationError, MlinferError, UsageError
from ...names import Names
from ...terminal import Terminal, one_line
from ..options import (
    JsonFlag,
    ModelFlag,
    PortFlag,
    ProfileFlag,
    ProjectFlag,
    QuietFlag,
    RegionFlag,
    VerboseFlag,
    app,
    aws_session,
    configuration,
    model_words,
    one_at_a_time,
    report_unused,
)

if TYPE_CHECKING:
    from ...targets.embedded import Result, Target

CLOUD_JOBS = 8
MANY = 16  # images, from which on further sessions are worth their load
_ENGINE_S = 3.0  # for the Docker Engine to say whose container answers
SLACK_S = 15  # beyond the function's timeout: the start of a container and the way there


@app.command()
def predict(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Image files; - reads one from stdin.")],
    model: ModelFlag = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="embedded|local|aws",
            help="Where to ask: in this process, mlinfer run-local, or AWS.",
            show_default=False,
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            "--top-k",
            "-k",
            help="Classes per image; default: as configured, else 5, or 1 of several images.",
            show_default=False,
        ),
    ] = None,
    port: PortFlag = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            max=64,
            help="Images at once; default: 8 of aws, of many images a core each.",
            show_default=False,
        ),
    ] = None,
    by_url: Annotated[bool, typer.Option("--url", help="Ask target aws by the function's URL, signed.")] = False,
    project: ProjectFlag = None,
    region: RegionFlag = None,
    profile: ProfileFlag = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> int:
    """Name the classes of images:  mlinfer predict cat.jpg

    One image gives a table, or with --json the handler's document. Several give a line each, or JSON Lines in the order of the input. An image that cannot be read stops no other; the exit code is then 5. What no other image could pass either, such as expired credentials, ends the batch: each image that is missing then has a line with the error.
    """
    from ...targets import embedded as step

    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    config = configuration(model=model, target=target, top_k=top_k, port=port, project=project)
    _check_flags(terminal, config, jobs, url=by_url, project=project, region=region, profile=profile)
    if images.count("-") > 1:
        raise UsageError("usage", "- is given more than once, and stdin holds one image", "Give - once.")
    pictures = [step.Picture(name, partial(read_image, name)) for name in images]
    at_once = _within_memory(terminal, config, min(_jobs(config, len(pictures), jobs), len(pictures)))
    ask = _target(terminal, config, at_once, by_url=by_url, region=region, profile=profile)
    results: list[Result] = []
    try:
        for result in terminal.track(step.predict(pictures, ask, config.top_k, at_once), len(pictures), "Predicting"):
            results.append(result)
            if as_json and len(pictures) > 1:
                terminal.document(_line(result), lines=True)
    finally:  # an interrupted batch shows what it has
        if not as_json:
            _show_predictions(terminal, results, config, alone=len(pictures) == 1)
    failed = [result.error for result in results if result.error]
    if len(pictures) == 1:
        if failed:
            raise failed[0]
        if as_json:
            terminal.document(results[0].body)
    _say_who_answered(terminal, results, config)
    return _explain(terminal, failed, len(pictures))


def _explain(terminal: Terminal, failed: list[MlinferError], images: int) -> int:
    """Say which of the images failed, unless their lines do, and why; return the exit code."""
    from ...targets.embedded import ends_batch

    if not failed:
        return 0
    for error in failed:
        if not (terminal.as_json or ends_batch(error)):
            terminal.failure(str(error))
    ended = next(filter(ends_batch, failed), None)
    if ended:
        terminal.explain(ended)
    terminal.note(f"{len(failed)} of {images} images could not be classified.")
    if ended:
        return ended.exit_code
    unanswered = any(isinstance(error, InvocationError) for error in failed)
    return InvocationError.exit_code if unanswered else ImageError.exit_code


def _check_flags(terminal: Terminal, config: Config, jobs: int | None, *, project: str | None, **flags: object) -> None:
    """Refuse what has no effect on the target. flags: those of target aws. Raises UsageError."""
    if config.target == "embedded":
        reason = "target embedded answers in this process"
        report_unused(terminal, config, reason, "port", project=project, **flags)
    elif config.target == "local":
        report_unused(terminal, config, "target local is a container on this machine", **flags)
        reason = "target local answers one image at a time"
        report_unused(terminal, config, reason, jobs=(jobs or 1) > 1)
    else:
        report_unused(terminal, config, "target aws has no local port", "port")


def _jobs(config: Config, pictures: int, given: int | None) -> int:
    """Return how many images are asked about at once: of the emulator one."""
    from ...targets.embedded import thread_count

    if given or config.target == "aws":
        return given or CLOUD_JOBS
    return thread_count(config) if config.target == "embedded" and pictures >= MANY else 1


def _within_memory(terminal: Terminal, config: Config, jobs: int) -> int:
    """Return how many of the jobs the memory here is enough for, and say so if these are fewer. Raises MissingError."""
    if jobs == 1:
        return 1
    from ...measure.machine import available_memory
    from ...model.footprint import jobs_that_fit
    from ...targets.embedded import model_path

    size = model_path(config).stat().st_size if config.target == "embedded" else 0
    available = available_memory()
    if available is None or (fitting := jobs_that_fit(jobs, size, available)) == jobs:
        return jobs
    held = f" with a model file of {size / 2**20:,.0f} MB each" if size else ""
    terminal.note(
        f"{fitting} images at once instead of {jobs}{held}: {available / 2**20:,.0f} MB of memory are available."
    )
    return fitting


def _target(
    terminal: Terminal, config: Config, jobs: int, *, by_url: bool, region: str | None, profile: str | None
) -> Target:
    """Return what answers, with the clients that it needs."""
    from ...targets import embedded as predict

    if config.target == "embedded":
        return predict.embedded(config, terminal.detail, jobs)
    from ...clients import aws
    from ...targets import payload

    reducing = payload.reducing(terminal.note, config.max_pixels)
    if config.target == "local":
        from ...clients import docker
        from ...local import owner
        from ...local.address import address
        from ...targets import emulator

        named = predict.named_model(config, _run_local(config))
        owner.require_ours(config.port, config.project, partial(docker.connect, os.environ, _ENGINE_S))
        client = aws.make_emulator_client(address(config.port), read_timeout=config.timeout + SLACK_S)
        return predict.only(named, emulator.emulator(client, reducing, one_at_a_time(config)), config.target)
    from ...clients.waiter import Waiter
    from ...targets import aws as invoke

    named = predict.named_model(config, f"Deploy it: mlinfer deploy{model_words(config)}")
    session = aws_session(terminal, region, profile)
    names, functions = Names(config.project), session.client("lambda")
    timeout = invoke.live_timeout(functions, names) + SLACK_S
    handed_over = (
        invoke.staging(session.client("s3"), config.bucket, names, terminal.note, config.kms_key)
        if config.bucket
        else reducing
    )
    waiter = Waiter(time.sleep, terminal.note)
    if by_url:
        url = invoke.live_url(functions, names)
        asked = invoke.by_url(session.url_caller(url, timeout), url, handed_over, waiter)
        return predict.only(named, asked, config.target)
    log = terminal.detail if terminal.is_verbose else None
    asked = invoke.cloud(session.client("lambda", read_timeout=timeout), names, handed_over, waiter, log)
    return predict.only(named, asked, config.target)


def _run_local(config: Config) -> str:
    """Return the hint that lets target local answer with the named model."""
    port = f" --port {config.port}" if config.origins["port"] == COMMAND_LINE else ""
    return f"Start it with that model: mlinfer run-local --detach{port}{model_words(config)}"


def read_image(name: str) -> bytes:
    """Read an image, and of what can be none only as much as shows it."""
    if not name:
        raise UsageError("usage", "the name of an image is empty", "See: mlinfer predict --help")
    if name != "-":
        with Path(name).open("rb") as file:
            return file.read(MAX_IMAGE_BYTES + 1)
    if sys.stdin.isatty():
        raise UsageError(
            "no_input", "- reads an image from stdin, but stdin is a terminal", "Pipe one: mlinfer predict - < cat.jpg"
        )
    return sys.stdin.buffer.read(MAX_IMAGE_BYTES + 1)


def _short_names(results: Sequence[Result]) -> dict[str, str]:
    """Return each image's name without its folder, unless two would then be the same."""
    full = {result.name for result in results}
    short = {name: Path(name).name for name in full}
    return short if len(set(short.values())) == len(full) else {name: name for name in full}


def _line(result: Result) -> dict[str, Any]:
    return {"image": result.name, **({"error": result.error.as_json()} if result.error else result.body)}


def _show_predictions(terminal: Terminal, results: list[Result], config: Config, *, alone: bool) -> None:
    """Draw one image's classes, or a line for each of several unless --top-k asks for more."""
    count = 1 if config.origins["top_k"] == "default" and not alone else config.top_k
    names, rows = _short_names(results), []
    for result in results:
        for place, prediction in enumerate(result.body.get("predictions", [])[:count]):
            name = () if alone else (one_line(names[result.name]) if place == 0 else "",)
            rows.append((*name, one_line(prediction["label"]), float(prediction["score"])))
    if rows:
        terminal.rows(rows)


def _say_who_answered(terminal: Terminal, results: list[Result], config: Config) -> None:
    model = next((result.body["model"] for result in results if not result.error), None)
    if model is None:
        return
    terminal.note(f"Answered by {model['name']} ({model['sha256'][:12]}), target {config.target}.")
    if model["name"] == "starter":
        terminal.note("It knows CIFAR-10's ten classes. For ResNet-18's thousand: mlinfer export resnet18")
