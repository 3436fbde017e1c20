"""`mlinfer predict`: classify images."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, assert_never

import typer

from ...config import COMMAND_LINE, TARGETS, Config
from ...errors import ImageError, InvocationError, MlinferError, UsageError
from ...names import Names
from ...terminal import Terminal
from ..application import AWS, IMAGES, MODEL, command
from ..options import (
    AccountOptions,
    AwsOptions,
    ModelFlag,
    OutputOptions,
    PortFlag,
    deploy_remedy,
    make_request_lock,
    model_words,
    read_configuration,
    read_pictures,
    report_unused,
)
from ..views.predictions import describe_result, say_who_answered, show_predictions

if TYPE_CHECKING:
    from ...targets import Result, Target

_ENGINE_S = 3.0  # how long to wait for the Docker Engine


@dataclass(frozen=True)
class PredictOptions:
    """Which model answers, and where it runs."""

    model: ModelFlag = None
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="|".join(TARGETS),
            help="Where the model runs: in this process, in `mlinfer run-local`, or on AWS.",
            show_default="embedded",
            rich_help_panel=MODEL,
        ),
    ] = None
    top_k: Annotated[
        int | None,
        typer.Option(
            "--top-k",
            "-k",
            metavar="N",
            help="Classes per image.",
            show_default="5, or 1 for several images",
            rich_help_panel=IMAGES,
        ),
    ] = None
    port: PortFlag = None
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            max=64,
            metavar="N",
            help="Images to classify in parallel.",
            show_default="8 for aws, one per core for 16 or more local images",
            rich_help_panel=IMAGES,
        ),
    ] = None
    by_url: Annotated[
        bool,
        typer.Option("--url", help="Call the function URL, with a signature (target aws only).", rich_help_panel=AWS),
    ] = False


@command(
    "mlinfer predict cat.jpg",
    "mlinfer predict photos/*.jpg --json > answers.jsonl",
    "mlinfer predict --target aws cat.jpg",
)
def predict(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Image files. `-` reads one image from stdin.")
    ],
    *,
    wanted: PredictOptions,
    aws: AwsOptions,
    output: OutputOptions,
) -> int:
    """Classify images.

    One image gives a table of classes, or one JSON document with --json. Several images give a line each, or JSON Lines in the order of the arguments. If an image cannot be read, the others are still classified and the exit code is 5.
    """
    from ...targets.jobs import choose_jobs

    terminal = output.make_terminal()
    config = read_configuration(wanted, aws)
    _refuse_unused(terminal, config, wanted, aws)
    if images.count("-") > 1:
        raise UsageError("usage", "`-` is given more than once", "Give `-` only once: stdin holds one image.")
    jobs = choose_jobs(config, len(images), wanted.jobs, terminal.note)
    target = _make_target(terminal, config, aws.account, jobs=jobs, by_url=wanted.by_url)
    results = _ask(terminal, config, target, images, jobs)
    failed = [result.error for result in results if result.error]
    if len(images) == 1:
        if failed:
            raise failed[0]
        if output.as_json:
            terminal.document(results[0].body)
    say_who_answered(terminal, results, config)
    return _explain(terminal, failed, len(images))


def _ask(terminal: Terminal, config: Config, target: Target, images: list[str], jobs: int) -> list[Result]:
    """Classify each image and show the answers; with --json, several images are written one by one."""
    from ...targets import predict as ask

    results: list[Result] = []
    answers = ask(read_pictures(images), target, config.top_k, jobs=jobs)
    try:
        for result in terminal.track(answers, len(images), "Predicting"):
            results.append(result)
            if terminal.as_json and len(images) > 1:
                terminal.document(describe_result(result), lines=True)
    finally:  # an interrupted batch shows the answers so far
        if not terminal.as_json:
            show_predictions(terminal, results, config, alone=len(images) == 1)
    return results


def _explain(terminal: Terminal, failed: list[MlinferError], images: int) -> int:
    """Report the images that failed and return the exit code."""
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


def _refuse_unused(terminal: Terminal, config: Config, wanted: PredictOptions, aws: AwsOptions) -> None:
    """Raise UsageError for options that have no effect on the target."""
    of_aws = {"url": wanted.by_url, **vars(aws.account)}
    if config.target == "embedded":
        reason = "target embedded runs in this process"
        report_unused(terminal, config, reason, "port", project=aws.project, **of_aws)
    elif config.target == "local":
        report_unused(terminal, config, "target local does not use AWS", **of_aws)
        reason = "target local classifies one image at a time"
        report_unused(terminal, config, reason, jobs=(wanted.jobs or 1) > 1)
    elif config.target == "aws":
        report_unused(terminal, config, "target aws does not use a local port", "port")
    else:
        assert_never(config.target)


def _make_target(terminal: Terminal, config: Config, account: AccountOptions, *, jobs: int, by_url: bool) -> Target:
    """Return the target; outside this process, it must answer with the named model, if one is named. Raises MlinferError."""
    from ...targets import answers, embedded

    if config.target == "embedded":
        return embedded.make_target(config, terminal.detail, jobs)
    if config.target == "local":
        named = answers.find_named_model(config, _run_local_remedy(config))
        target = _make_local_target(terminal, config)
    elif config.target == "aws":
        named = answers.find_named_model(config, deploy_remedy(config))
        target = _make_aws_target(terminal, config, account, by_url=by_url)
    else:
        assert_never(config.target)
    return answers.refuse_other_models(target, named, config.target)


def _make_local_target(terminal: Terminal, config: Config) -> Target:
    from ...clients import aws, docker
    from ...clients.invocation import SLACK_S
    from ...local.address import address, require_own_project
    from ...targets import emulator, payload

    require_own_project(config.port, config.project, partial(docker.connect, os.environ, _ENGINE_S))
    client = aws.make_emulator_client(address(config.port), read_timeout=config.timeout + SLACK_S)
    return emulator.make_target(
        client, payload.reduce_large(terminal.note, config.max_pixels), make_request_lock(config)
    )


def _make_aws_target(terminal: Terminal, config: Config, account: AccountOptions, *, by_url: bool) -> Target:
    from ...clients.invocation import SLACK_S
    from ...clients.waiter import Waiter
    from ...targets import aws, payload, url

    session = account.open_session(terminal)
    names, functions = Names(config.project), session.client("lambda")
    timeout = aws.read_live_timeout(functions, names) + SLACK_S
    make_payload = payload.reduce_large(terminal.note, config.max_pixels)
    if config.bucket:
        s3 = session.client("s3")
        make_payload = payload.stage_large(s3, config.bucket, names, tell=terminal.note, kms_key=config.kms_key)
    waiter = Waiter(time.sleep, terminal.note)
    if by_url:
        live_url = url.read_live_url(functions, names)
        return url.make_target(session.url_caller(live_url, timeout), live_url, make_payload, waiter=waiter)
    client = session.client("lambda", read_timeout=timeout)
    log = terminal.detail if terminal.is_verbose else None
    return aws.make_target(client, names, make_payload, waiter=waiter, log=log)


def _run_local_remedy(config: Config) -> str:
    """Return the hint to start a local function with the model that was asked for."""
    port = f" --port {config.port}" if config.origins["port"] == COMMAND_LINE else ""
    return f"Start it with `mlinfer run-local --detach{port}{model_words(config)}`."
