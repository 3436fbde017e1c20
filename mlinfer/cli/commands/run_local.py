"""`mlinfer run-local`: run the Lambda container image on this machine, or serve without Docker."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...config import COMMAND_LINE, Config
from ...errors import UsageError
from ...files import file_lock
from ...terminal import Terminal
from ..application import MODEL, command
from ..options import (
    AccountOptions,
    ArchFlag,
    AwsOptions,
    MemoryFlag,
    ModelFlag,
    ModelSourceFlag,
    OutputOptions,
    PortFlag,
    TimeoutFlag,
    make_request_lock,
    read_configuration,
    report_unused,
    require,
)
from ..views.image import build_for_engine
from ..views.model import warn_of_size

if TYPE_CHECKING:
    from ...clients.docker import Container
    from ...local.container import RunningContainer
    from ...local.function import LocalFunction


@dataclass(frozen=True)
class RunOptions:
    """The function to run, and how to run it."""

    model: ModelFlag = None
    port: PortFlag = None
    memory: MemoryFlag = None
    timeout: TimeoutFlag = None
    arch: ArchFlag = None
    model_source: ModelSourceFlag = None
    from_s3: Annotated[
        bool, typer.Option("--from-s3", help="Fetch the uploaded model from S3, as on Lambda.", rich_help_panel=MODEL)
    ] = False
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Run in the background.")] = False
    stop: Annotated[bool, typer.Option("--stop", help="Stop this project's container.")] = False
    no_docker: Annotated[
        bool, typer.Option("--no-docker", help="Run in this process, without Docker and Lambda's limits.")
    ] = False


@command(
    "mlinfer run-local",
    "mlinfer run-local --detach --memory 512",
    "mlinfer run-local --no-docker",
    "mlinfer run-local --stop",
)
def run_local(*, wanted: RunOptions, aws: AwsOptions, output: OutputOptions) -> None:
    """Run the Lambda function on this machine.

    It runs in its container with Lambda's limits of memory, CPU, time and disk, and listens on 127.0.0.1:9000 until you press Ctrl-C. With --detach it runs in the background until --stop.
    """
    terminal = output.make_terminal()
    config = read_configuration(wanted, aws)
    if wanted.no_docker:
        _refuse_with_no_docker(terminal, config, wanted, aws)
        _serve(terminal, config)
    elif wanted.stop:
        others = {name: value for name, value in vars(wanted).items() if name != "stop"}
        report_unused(terminal, config, "--stop only stops the container", **others, **vars(aws.account))
        _stop(terminal, config)
    else:
        if not wanted.from_s3:
            report_unused(terminal, config, "without --from-s3 the function does not use AWS", **vars(aws.account))
        _run(terminal, config, wanted, aws.account)


def _run(terminal: Terminal, config: Config, wanted: RunOptions, account: AccountOptions) -> None:
    """Run the function in a container; build its container image first if needed. Raises MlinferError."""
    from ...clients import docker
    from ...local import container
    from ...local.function import make_function
    from ...model.path import model_path

    require(lambda: docker.connect(os.environ), lambda: model_path(config))
    engine = docker.connect(os.environ)
    container.require_local(engine)
    # Report these problems before the build starts.
    warn_of_size(terminal, config)
    s3_environment = account.read_s3_environment(terminal, config) if wanted.from_s3 else None
    function = make_function(config, "", s3_environment)
    function = replace(function, image=build_for_engine(terminal, engine, config).tag)
    with file_lock(
        f"mlinfer-run-local-{config.project}"
    ):  # a second call at the same time finds the container of the first
        running, started = container.run(engine, function, make_request_lock(config))
    with _until_left(started, keep=wanted.detach):
        _show_running(terminal, config, function, running)
        if not wanted.detach:
            _follow(terminal, started)


def _refuse_with_no_docker(terminal: Terminal, config: Config, wanted: RunOptions, aws: AwsOptions) -> None:
    """Raise UsageError for options that --no-docker does not use."""
    if wanted.detach or wanted.stop or wanted.from_s3:
        raise UsageError(
            "usage",
            "--no-docker cannot be combined with --detach, --stop or --from-s3",
            "Remove one of them. Ctrl-C stops `run-local --no-docker`.",
        )
    keys = ("memory", "timeout", "arch", "model_source")
    report_unused(terminal, config, "--no-docker runs in this process", *keys, project=aws.project, **vars(aws.account))


@contextmanager
def _until_left(started: Container, *, keep: bool) -> Iterator[None]:
    """Remove the container at the end, also after an error; with keep, only after an error."""
    try:
        yield
    except BaseException:
        started.remove()
        raise
    if not keep:
        started.remove()


def _show_running(terminal: Terminal, config: Config, function: LocalFunction, running: RunningContainer) -> None:
    for note in running.notes:
        terminal.note(note)
    if terminal.as_json:
        terminal.document({key: value for key, value in asdict(running).items() if key != "notes"}, lines=True)
    else:
        terminal.text(running.url)
    ready = {"created": "Ready", "unchanged": "Already running"}[running.outcome]
    model = f"{running.model['name']} ({running.model['sha256'][:12]})"
    terminal.note(f"{ready}: {model}, {function.memory} MB, timeout {function.timeout} s.")
    _show_how_to_ask(terminal, config, running.url)


def _show_how_to_ask(terminal: Terminal, config: Config, url: str) -> None:
    """Show two commands that work for any image, in any folder."""
    port = f" --port {config.port}" if config.origins["port"] == COMMAND_LINE else ""
    terminal.note(f"Try it: mlinfer predict --target local{port} cat.jpg")
    body = """(printf '{"image": "'; base64 < cat.jpg; printf '"}')"""  # curl -d removes base64's line breaks
    terminal.note(f"  or:   {body} | curl -d @- {url}")


def _follow(terminal: Terminal, started: Container) -> None:
    """Show the log until Ctrl-C. Raises RemoteError if the container stops."""
    from ...local import container

    terminal.note("Log of the function (press Ctrl-C to stop):")
    try:
        while True:
            for line in started.follow():
                for shown in [line] if terminal.is_verbose else container.select_handler_lines([line]):
                    terminal.note(shown.rstrip("\r"))
            if started.state().status not in ("running", "restarting"):
                raise container.explain_crash(started, "the container stopped")
    except KeyboardInterrupt:
        terminal.note("Stopping and removing the container.")
        raise


def _stop(terminal: Terminal, config: Config) -> None:
    """Stop the project's containers. Raises MlinferError."""
    from ...clients import docker
    from ...local import container

    names = container.stop(docker.connect(os.environ), config.project)
    if terminal.as_json:
        terminal.document({"stopped": names})
    terminal.note(f"Stopped and removed {', '.join(names)}." if names else "No container of this project is running.")


def _serve(terminal: Terminal, config: Config) -> None:
    """Serve from this process until Ctrl-C. Raises MlinferError."""
    from ...local import address, serve
    from ...targets import embedded

    log: Callable[[str], Any] = terminal.note
    server = serve.Server(embedded.make_service(config, log=log), config.port, config.project)
    url = address.address(config.port) + address.INVOCATIONS
    if terminal.as_json:
        terminal.document({"url": url}, lines=True)
    else:
        terminal.text(url)
    terminal.note(
        "Ready, without Docker and without Lambda's limits of memory, CPU, time and disk. Press Ctrl-C to stop."
    )
    _show_how_to_ask(terminal, config, url)
    try:
        server.serve_forever()
    finally:
        server.server_close()
