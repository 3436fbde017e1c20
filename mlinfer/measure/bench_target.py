"""Open the target of a measurement: a process, a local container, or the function in AWS."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, assert_never

from ..config import COMMAND_LINE, Config
from ..errors import UsageError
from ..files import file_lock
from ..names import ALIAS, Names
from . import process
from .instance import Start

if TYPE_CHECKING:
    from ..clients.aws import Session
    from ..clients.docker import Engine
    from ..clients.waiter import Waiter
    from ..container_image.builder import BuiltImage
    from .live import DeployedFunction


@dataclass(frozen=True)
class BenchTarget:
    """The target of a measurement. start: takes a memory size in MB and returns how to start an instance. image: or None."""

    start: Callable[[int], Start]
    memory: int
    arch: str
    image: BuiltImage | None = None


@dataclass(frozen=True)
class BenchTools:
    """Factories for the clients of the targets. note: takes a message for the user. log: takes the handler's log lines."""

    environment: Mapping[str, str]
    connect: Callable[[], Engine]
    build: Callable[[Engine], BuiltImage]
    open_session: Callable[[], Session]
    make_waiter: Callable[[], Waiter]
    note: Callable[[str], None]
    log: Callable[[str], None]
    s3_environment: Callable[[], Mapping[str, str]] | None = None  # for a function that downloads its model


@contextmanager
def open_target(config: Config, tools: BenchTools, cold: int) -> Iterator[BenchTarget]:
    """Yield the configured target and clean up afterwards. cold: number of cold starts. Raises MlinferError."""
    if config.target == "embedded":
        start = partial(process.start, config, tools.environment, tools.log)
        yield BenchTarget(lambda _: start, config.memory, config.arch)
    elif config.target == "local":
        with _open_local(config, tools) as target:
            yield target
    elif config.target == "aws":
        with _borrow_latest(config, tools) if cold else nullcontext(_find_live(config, tools)) as target:
            yield target
    else:
        assert_never(config.target)


@contextmanager
def _open_local(config: Config, tools: BenchTools) -> Iterator[BenchTarget]:
    from ..local import address
    from ..local.container import FRESH_LABEL, require_local
    from ..local.container import stop as stop_containers
    from ..local.function import describe_shortage, make_function
    from ..local.ports import find_free_port
    from . import container

    s3_environment = tools.s3_environment() if tools.s3_environment else None
    engine = tools.connect()
    require_local(engine)
    built = tools.build(engine)

    def start_with(memory: int) -> Start:
        for note in describe_shortage(memory, engine.machine()):
            tools.note(note)
        chosen = replace(config, memory=memory, port=find_free_port(address.HOST))
        return partial(container.start, engine, make_function(chosen, built.tag, s3_environment), tools.log)

    with file_lock(f"mlinfer-bench-{config.project}"):
        stop_containers(engine, config.project, FRESH_LABEL)  # left by a command that was killed
        yield BenchTarget(start_with, config.memory, config.arch, built)


@contextmanager
def _borrow_latest(config: Config, tools: BenchTools) -> Iterator[BenchTarget]:
    """Yield $LATEST, which can be started cold without touching the deployed version. Raises MlinferError."""
    from . import live

    deployed = _find_function(config, tools)
    with live.borrow(deployed, tools.note) as before:
        tools.note(f"Measuring $LATEST of {deployed.names.function}. The deployed version is not changed.")

        def start_with(memory: int) -> Start:
            return partial(live.start, deployed, before, memory)

        yield BenchTarget(start_with, _given_memory(config) or before.memory, before.arch)


def _find_live(config: Config, tools: BenchTools) -> BenchTarget:
    """Return the deployed version, which cannot be started cold on demand. Raises MlinferError."""
    from ..clients.aws_errors import explained
    from ..cloud.resources.function import wait_until_ready
    from . import live

    deployed = _find_function(config, tools)
    if _given_memory(config):
        message = "--memory cannot be used with --target aws and --cold 0 (this measures the deployed version)"
        raise UsageError("usage", message, "Omit --memory or --cold 0.")
    with explained(f"function {deployed.names.function}", "lambda:GetFunction on the function"):
        settings = wait_until_ready(deployed.functions, deployed.names, deployed.waiter, version=ALIAS).settings
    asked = live.LiveInstance(deployed, ALIAS)
    return BenchTarget(lambda _: lambda: nullcontext(asked), settings.memory, settings.arch)


def _find_function(config: Config, tools: BenchTools) -> DeployedFunction:
    from ..clients.invocation import SLACK_S
    from ..targets.aws import read_live_timeout
    from .live import DeployedFunction

    session, names = tools.open_session(), Names(config.project)
    functions = session.client("lambda")
    invoker = session.client("lambda", read_timeout=read_live_timeout(functions, names) + SLACK_S)
    return DeployedFunction(functions, invoker, names, tools.make_waiter(), tools.log)


def _given_memory(config: Config) -> int:
    """Return the memory from the command line in MB, 0 if not given."""
    return config.memory if config.origins["memory"] == COMMAND_LINE else 0
