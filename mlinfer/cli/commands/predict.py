"""`mlinfer predict`: name the classes of images."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from ...config import COMMAND_LINE, Config
from ...errors import ImageError, InvocationError, MlinferError, UsageError
from ...names import Names
from ...terminal import Terminal
from ..options import (
    AccountOptions,
    AwsOptions,
    ModelFlag,
    OutputOptions,
    PortFlag,
    command,
    configuration,
    deploy_remedy,
    model_words,
    one_at_a_time,
    read_pictures,
    report_unused,
)
from ..views.predictions import result_line, say_who_answered, show_predictions

if TYPE_CHECKING:
    from ...targets import Result, Target

CLOUD_JOBS = 8
MANY = 16  # images, from which on further sessions are worth their load
_ENGINE_S = 3.0  # for the Docker Engine to say whose container answers


@command
def predict(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Image files; - reads one from stdin.")],
    *,
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
    aws: AwsOptions,
    output: OutputOptions,
) -> int:
    """Name the classes of images:  mlinfer predict cat.jpg

    One image gives a table, or with --json the handler's document. Several give a line each, or JSON Lines in the order of the input. An image that cannot be read stops no other; the exit code is then 5. What no other image could pass either, such as expired credentials, ends the batch: each image that is missing then has a line with the error.
    """
    from ... import targets

    terminal = output.terminal()
    config = configuration(aws, model=model, target=target, top_k=top_k, port=port)
    _check_flags(terminal, config, jobs, aws.project, url=by_url, **vars(aws.account))
    if images.count("-") > 1:
        raise UsageError("usage", "- is given more than once, and stdin holds one image", "Give - once.")
    pictures = read_pictures(images)
    at_once = _within_memory(terminal, config, min(_jobs(config, len(pictures), jobs), len(pictures)))
    ask = _target(terminal, config, at_once, by_url=by_url, account=aws.account)
    results: list[Result] = []
    try:
        for result in terminal.track(
            targets.predict(pictures, ask, config.top_k, jobs=at_once), len(pictures), "Predicting"
        ):
            results.append(result)
            if output.as_json and len(pictures) > 1:
                terminal.document(result_line(result), lines=True)
    finally:  # an interrupted batch shows what it has
        if not output.as_json:
            show_predictions(terminal, results, config, alone=len(pictures) == 1)
    failed = [result.error for result in results if result.error]
    if len(pictures) == 1:
        if failed:
            raise failed[0]
        if output.as_json:
            terminal.document(results[0].body)
    say_who_answered(terminal, results, config)
    return _explain(terminal, failed, len(pictures))


def _explain(terminal: Terminal, failed: list[MlinferError], images: int) -> int:
    """Say which of the images failed, unless their lines do, and why; return the exit code."""
    from ...targets import ends_batch

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


def _check_flags(terminal: Terminal, config: Config, jobs: int | None, project: str | None, **flags: object) -> None:
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
    from ...targets.embedded import count_threads

    if given or config.target == "aws":
        return given or CLOUD_JOBS
    return count_threads(config) if config.target == "embedded" and pictures >= MANY else 1


def _within_memory(terminal: Terminal, config: Config, jobs: int) -> int:
    """Return how many of the jobs the memory here is enough for, and say so if these are fewer. Raises MissingError."""
    if jobs == 1:
        return 1
    from ...measure.machine import available_memory
    from ...model.footprint import jobs_that_fit
    from ...model.path import model_path

    size = model_path(config).stat().st_size if config.target == "embedded" else 0
    available = available_memory()
    if available is None or (fitting := jobs_that_fit(jobs, size, available)) == jobs:
        return jobs
    held = f" with a model file of {size / 2**20:,.0f} MB each" if size else ""
    terminal.note(
        f"{fitting} images at once instead of {jobs}{held}: {available / 2**20:,.0f} MB of memory are available."
    )
    return fitting


def _target(terminal: Terminal, config: Config, jobs: int, *, by_url: bool, account: AccountOptions) -> Target:
    """Return what answers, with the clients that it needs."""
    from ...targets import answers, embedded

    if config.target == "embedded":
        return embedded.make_target(config, terminal.detail, jobs)
    from ...clients import aws
    from ...clients.invocation import SLACK_S
    from ...targets import payload

    reduce = payload.reduce_large(terminal.note, config.max_pixels)
    if config.target == "local":
        from ...clients import docker
        from ...local.address import address, require_own_project
        from ...targets import emulator

        named = answers.find_named_model(config, _run_local(config))
        require_own_project(config.port, config.project, partial(docker.connect, os.environ, _ENGINE_S))
        client = aws.make_emulator_client(address(config.port), read_timeout=config.timeout + SLACK_S)
        return answers.refuse_other_models(
            emulator.make_target(client, reduce, one_at_a_time(config)), named, config.target
        )
    from ...clients.waiter import Waiter
    from ...targets import aws as aws_target

    named = answers.find_named_model(config, deploy_remedy(config))
    session = account.session(terminal)
    names, functions = Names(config.project), session.client("lambda")
    timeout = aws_target.read_live_timeout(functions, names) + SLACK_S
    make_payload = (
        payload.stage_large(session.client("s3"), config.bucket, names, tell=terminal.note, kms_key=config.kms_key)
        if config.bucket
        else reduce
    )
    waiter = Waiter(time.sleep, terminal.note)
    if by_url:
        from ...targets import url as url_target

        url = url_target.read_live_url(functions, names)
        asked = url_target.make_target(session.url_caller(url, timeout), url, make_payload, waiter=waiter)
        return answers.refuse_other_models(asked, named, config.target)
    log = terminal.detail if terminal.is_verbose else None
    asked = aws_target.make_target(
        session.client("lambda", read_timeout=timeout), names, make_payload, waiter=waiter, log=log
    )
    return answers.refuse_other_models(asked, named, config.target)


def _run_local(config: Config) -> str:
    """Return the hint that lets target local answer with the named model."""
    port = f" --port {config.port}" if config.origins["port"] == COMMAND_LINE else ""
    return f"Start it with that model: mlinfer run-local --detach{port}{model_words(config)}"
