"""Run the Lambda image on this machine as Lambda would: its memory, CPU share, user, file system and timeout.

What the emulator in the base image leaves out is done by the Engine. Three things stay apart: the CPU is not boosted
during the start, so that cold starts below 1,769 MB look worse than in Lambda; the start counts towards the timeout;
and one request at a time is answered: a second one at the same moment ends the emulator, which the Engine then starts again.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from ..clients.docker import Container, Engine
from ..clients.invocation import failure, read_answer
from ..errors import MissingError, MlinferError, RemoteError
from ..names import PROJECT_LABEL
from .address import HOST, listens, post
from .function import LocalFunction, container_options, describe_shortage
from .ports import find_port_holder

Lock = Callable[[], AbstractContextManager[None]]

FRESH_LABEL = "mlinfer.fresh"  # of containers that are measured
_LABEL = "mlinfer.run-local"  # its value: a hash of how the container was started
_MAX_RESTARTS = 5
_BOOT_S = 20.0
_POLL_S = 0.02
_LOG_S = 2.0
_LAST_LINES = 12
_NARRATION = re.compile(r"\(rapid\)|^(START|END|REPORT) RequestId: ")
_EXIT = re.compile(r"\(rapid\) Process runtime-\d+ exited: (.+)")
_MORE = "Give it more time or memory: timeout and memory in mlinfer.toml."
_DESCRIBE = {"requestContext": {"http": {"method": "GET"}}}


@dataclass(frozen=True)
class RunningContainer:
    """A container that answers. notes: what this machine could not give; model: as the handler names it."""

    name: str
    url: str
    model: Mapping[str, Any]
    notes: tuple[str, ...]
    outcome: str


@dataclass(frozen=True)
class FreshContainer:
    """A container that was asked nothing yet. boot_s: seconds until its emulator listened."""

    container: Container
    boot_s: float


def run(engine: Engine, function: LocalFunction, lock: Lock) -> tuple[RunningContainer, Container]:
    """Start the function and wait until it answers, or find it running so already. Raises MlinferError.

    lock: makes the context in which each request is made: the emulator answers one at a time.
    """
    require_local(engine)
    machine = engine.machine()
    options, notes = container_options(function, machine, _LABEL), describe_shortage(function.memory, machine)
    for container in find(engine, function.project):
        if container.labels.get(_LABEL) == options["labels"][_LABEL] and container.state().status == "running":
            with suppress(RemoteError):  # it hangs, or has ended just now: another is started
                _wait_until_listening(container, function)
                model = _ask_for_model(container, function, lock)
                return RunningContainer(container.name, function.url, model, notes, "unchanged"), container
        container.remove()
    container = start(engine, function)
    try:
        model = _ask_for_model(container, function, lock)
        if not container.restart_on_failure(_MAX_RESTARTS):  # not before: a start that fails is to be seen
            raise explain_crash(container, "the container ended right after its start")
    except BaseException:
        container.remove()
        raise
    return RunningContainer(container.name, function.url, model, notes, "created"), container


def start(engine: Engine, function: LocalFunction, label: str = _LABEL) -> Container:
    """Start a container and wait until its emulator listens; the function is loaded by its first invocation only."""
    require_local(engine)
    _check_port(engine, function.port)
    container = engine.start(function.image, **container_options(function, engine.machine(), label))
    try:
        _wait_until_listening(container, function)
    except BaseException:
        container.remove()
        raise
    return container


@contextmanager
def start_fresh(engine: Engine, function: LocalFunction) -> Iterator[FreshContainer]:
    """Start a container whose first request will find it cold, beside the one that runs; remove it at the end."""
    began = time.perf_counter()
    container = start(engine, function, FRESH_LABEL)
    try:
        yield FreshContainer(container, time.perf_counter() - began)
    finally:
        container.remove()


def require_local(engine: Engine) -> None:
    """Refuse an Engine on another machine: it sees no file of this one, and its ports are not this one's. Raises MissingError."""
    if engine.remote:
        message = (
            f"the Docker Engine runs on another machine ({engine.remote}): it cannot mount the model file, and its "
            "containers do not listen on this machine"
        )
        hint = (
            "Use an Engine on this machine: unset DOCKER_HOST, docker context use default. Or run mlinfer on that "
            "machine, or use no Docker: mlinfer run-local --no-docker. build, push and deploy work with a remote Engine."
        )
        raise MissingError("docker_remote", message, hint)


def find(engine: Engine, project: str, label: str = _LABEL) -> list[Container]:
    """Return the project's containers, and no other project's."""
    return [c for c in engine.containers({PROJECT_LABEL: project}) if label in c.labels]


def stop(engine: Engine, project: str, label: str = _LABEL) -> list[str]:
    """Stop and remove the project's containers and return their names."""
    found = find(engine, project, label)
    for container in found:
        container.remove()
    return [container.name for container in found]


def explain_crash(container: Container, happened: str) -> MlinferError:
    """Return the error that says how the container ended, with its last lines."""
    state = container.state()
    lines = "".join(f"\n    {line}" for line in select_handler_lines(container.log(200))[-_LAST_LINES:])
    if state.out_of_memory:
        hint = "Give it more: memory in mlinfer.toml, or --memory."
        return RemoteError("out_of_memory", f"{happened}: its memory is too small{lines}", hint)
    if "exec format error" in lines or "exec format error" in state.error:
        hint = "Build it for this machine: mlinfer build --arch x86_64 (or arm64)."
        return RemoteError(
            "wrong_architecture", f"{happened}: the image is for processors of another architecture", hint
        )
    if state.status in ("removing", "removed"):
        hint = (
            "mlinfer run-local --stop does that, and run-local with other settings. Start it again: mlinfer run-local"
        )
        return RemoteError("container_crashed", f"{happened}: it was removed", hint)
    how = f"status {state.status}, exit code {state.exit_code}"
    hint = "The lines above are its last." if lines else "It wrote nothing."
    return RemoteError("container_crashed", f"{happened} ({how}){lines}", hint)


def _check_port(engine: Engine, port: int) -> None:
    """Refuse a port that is taken, and say by what. Raises MissingError."""
    if taken := find_port_holder(HOST, port):
        other, hint = engine.publisher(port), "Choose another port: --port 9001"
        if other:
            taken, hint = f"the container {other.name}", f"{hint}. Or stop that container: docker rm -f {other.name}"
            project = other.labels.get(PROJECT_LABEL)
            if project and _LABEL in other.labels:
                taken += f" of project {project}"
                hint = f"Choose another port: --port 9001. Or stop it: mlinfer run-local --stop --project {project}"
        raise MissingError("port_taken", f"port {port} is taken by {taken}", hint)


def _wait_until_listening(container: Container, function: LocalFunction) -> None:
    """Wait until the emulator listens. Raises RemoteError."""
    deadline = time.monotonic() + _BOOT_S
    while not listens(function.url):
        if container.state().status in ("exited", "dead", "removed"):
            raise explain_crash(container, "the container ended before it could answer")
        if time.monotonic() > deadline:
            raise explain_crash(container, f"the container did not listen within {_BOOT_S:.0f} s")
        time.sleep(_POLL_S)


def _ask_for_model(container: Container, function: LocalFunction, lock: Lock) -> Mapping[str, Any]:
    """Ask by HTTP GET for what the handler says of itself, and return the model that it names. Raises RemoteError."""
    try:
        with lock():
            payload = post(function.url, json.dumps(_DESCRIBE).encode(), function.timeout + 10)
        body: dict[str, Any] = json.loads(read_answer(payload, "the function")["body"])
        return dict(body["model"])
    except TimeoutError as error:
        raise _failed_start(
            RemoteError("function_timeout", "it does not answer", _MORE), container, function
        ) from error
    except OSError as error:
        raise explain_crash(container, "the container ended while the function was starting") from error
    except RemoteError as error:
        raise _failed_start(error, container, function) from error


def _failed_start(error: MlinferError, container: Container, function: LocalFunction) -> MlinferError:
    log = container.log(200)
    if error.code == "function_crashed":
        # The emulator's answer to an end during the start is empty, and what its log says of it comes a moment later.
        until = time.monotonic() + _LOG_S
        while not any(map(_EXIT.search, log)) and time.monotonic() < until:
            time.sleep(_POLL_S)
            log = container.log(200)
        if exits := [how for line in log for how in _EXIT.findall(line)]:
            document = {"errorType": "Runtime.ExitError", "errorMessage": f"Runtime exited with error: {exits[-1]}"}
            error = failure(document, "the function")
    lines = "".join(f"\n    {line}" for line in select_handler_lines(log)[-_LAST_LINES:])
    if error.code == "function_timeout":
        message = f"the function did not start within its timeout of {function.timeout} s, which here includes the start{lines}"
        return RemoteError("slow_start", message, error.hint)
    return RemoteError(error.code, f"the start failed: {error}{lines}", error.hint)


def select_handler_lines(log: list[str]) -> list[str]:
    """Return the lines that are not the emulator's own narration; the figures of its REPORT are made up, too."""
    lines = (line.rstrip().replace("\xa0", " ") for line in log)  # the runtime's indentation of a traceback
    return [line for line in lines if line and not _NARRATION.search(line)]
