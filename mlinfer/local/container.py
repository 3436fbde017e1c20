"""Run the container image on this machine with Lambda's memory, CPU share, user, file system and timeout.

Three things differ from Lambda. The CPU is not boosted during the start, so cold starts below 1,769 MB take longer. The
start counts towards the timeout. Two requests at the same time crash the emulator, and the Engine restarts it.
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

FRESH_LABEL = "mlinfer.fresh"  # on containers of a measurement
_LABEL = "mlinfer.run-local"  # value: a hash of the container's settings
_MAX_RESTARTS = 5
_BOOT_S = 20.0
_POLL_S = 0.02
_LOG_S = 2.0
_LAST_LINES = 12
_NARRATION = re.compile(r"\(rapid\)|^(START|END|REPORT) RequestId: ")
_EXIT = re.compile(r"\(rapid\) Process runtime-\d+ exited: (.+)")
_MORE = "Increase timeout or memory in mlinfer.toml."
_DESCRIBE = {"requestContext": {"http": {"method": "GET"}}}


@dataclass(frozen=True)
class RunningContainer:
    """A ready container. notes: limits that this machine cannot provide. model: as the handler reports it."""

    name: str
    url: str
    model: Mapping[str, Any]
    notes: tuple[str, ...]
    outcome: str


@dataclass(frozen=True)
class FreshContainer:
    """A container that has not had a request yet. boot_s: seconds until its emulator listened."""

    container: Container
    boot_s: float


def run(engine: Engine, function: LocalFunction, lock: Lock) -> tuple[RunningContainer, Container]:
    """Start the function and wait until it is ready, or return the running container with the same settings.

    lock: returns the context for each request, because the emulator handles one at a time. Raises MlinferError.
    """
    require_local(engine)
    machine = engine.machine()
    options, notes = container_options(function, machine, _LABEL), describe_shortage(function.memory, machine)
    for container in find(engine, function.project):
        if container.labels.get(_LABEL) == options["labels"][_LABEL] and container.state().status == "running":
            with suppress(RemoteError):  # it hangs or has just exited: start another
                _wait_until_listening(container, function)
                model = _ask_for_model(container, function, lock)
                return RunningContainer(container.name, function.url, model, notes, "unchanged"), container
        container.remove()
    container = start(engine, function)
    try:
        model = _ask_for_model(container, function, lock)
        if not container.restart_on_failure(_MAX_RESTARTS):  # only now, so that a failed start is reported
            raise explain_crash(container, "the container exited right after its start")
    except BaseException:
        container.remove()
        raise
    return RunningContainer(container.name, function.url, model, notes, "created"), container


def start(engine: Engine, function: LocalFunction, label: str = _LABEL) -> Container:
    """Start a container and wait until its emulator listens. The first invocation loads the function."""
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
    """Yield an additional container for measuring a cold start, and remove it at the end."""
    began = time.perf_counter()
    container = start(engine, function, FRESH_LABEL)
    try:
        yield FreshContainer(container, time.perf_counter() - began)
    finally:
        container.remove()


def require_local(engine: Engine) -> None:
    """Raise MissingError for an Engine on another machine, which can neither mount local files nor publish local ports."""
    if engine.remote:
        message = f"the Docker Engine runs on another machine ({engine.remote}) and cannot mount the model file"
        hint = (
            "Switch to an Engine on this machine with `docker context use default` and unset DOCKER_HOST, "
            "or run without Docker: `mlinfer run-local --no-docker`."
        )
        raise MissingError("docker_remote", message, hint)


def find(engine: Engine, project: str, label: str = _LABEL) -> list[Container]:
    """Return the project's containers that have the label."""
    return [c for c in engine.containers({PROJECT_LABEL: project}) if label in c.labels]


def stop(engine: Engine, project: str, label: str = _LABEL) -> list[str]:
    """Stop and remove the project's containers and return their names."""
    found = find(engine, project, label)
    for container in found:
        container.remove()
    return [container.name for container in found]


def explain_crash(container: Container, happened: str) -> MlinferError:
    """Return the error for a container that exited, with its last log lines. happened: the start of the message."""
    state = container.state()
    lines = "".join(f"\n    {line}" for line in select_handler_lines(container.log(200))[-_LAST_LINES:])
    if state.out_of_memory:
        hint = "Increase memory in mlinfer.toml, or use --memory."
        return RemoteError("out_of_memory", happened, hint, reason=f"out of memory{lines}")
    if "exec format error" in lines or "exec format error" in state.error:
        hint = "Build it for this machine with `mlinfer build --arch x86_64` (or arm64)."
        reason = "the container image is for another CPU architecture"
        return RemoteError("wrong_architecture", happened, hint, reason=reason)
    if state.status in ("removing", "removed"):
        hint = "Start it again with `mlinfer run-local`."
        return RemoteError("container_crashed", happened, hint, reason="another command removed it")
    how = f"status {state.status}, exit code {state.exit_code}"
    hint = "Check the log lines above." if lines else "Increase memory in mlinfer.toml (the container logged nothing)."
    return RemoteError("container_crashed", happened, hint, reason=f"{how}{lines}")


def _check_port(engine: Engine, port: int) -> None:
    """Raise MissingError if the port is in use, and say by what."""
    if taken := find_port_holder(HOST, port):
        other, hint = engine.publisher(port), "Choose another port with --port 9001."
        if other:
            taken = f"container {other.name}"
            hint = f"Remove that container with `docker rm -f {other.name}`, or choose another port with --port 9001."
            project = other.labels.get(PROJECT_LABEL)
            if project and _LABEL in other.labels:
                taken += f" of project {project}"
                hint = f"Stop it with `mlinfer run-local --stop --project {project}`, or choose another port with --port 9001."
        raise MissingError("port_taken", f"port {port} is in use by {taken}", hint)


def _wait_until_listening(container: Container, function: LocalFunction) -> None:
    """Wait until the emulator listens. Raises RemoteError."""
    deadline = time.monotonic() + _BOOT_S
    while not listens(function.url):
        if container.state().status in ("exited", "dead", "removed"):
            raise explain_crash(container, "the container exited during its start")
        if time.monotonic() > deadline:
            raise explain_crash(container, f"the container did not listen within {_BOOT_S:.0f} s")
        time.sleep(_POLL_S)


def _ask_for_model(container: Container, function: LocalFunction, lock: Lock) -> Mapping[str, Any]:
    """Return the model that the handler reports for an HTTP GET. Raises RemoteError."""
    try:
        with lock():
            payload = post(function.url, json.dumps(_DESCRIBE).encode(), function.timeout + 10)
        body: dict[str, Any] = json.loads(read_answer(payload, "the function")["body"])
        return dict(body["model"])
    except TimeoutError as error:
        raise _failed_start(
            RemoteError("function_timeout", "the function timed out", _MORE), container, function
        ) from error
    except OSError as error:
        raise explain_crash(container, "the container exited while the function was starting") from error
    except RemoteError as error:
        raise _failed_start(error, container, function) from error


def _failed_start(error: MlinferError, container: Container, function: LocalFunction) -> MlinferError:
    log = container.log(200)
    if error.code == "function_crashed":
        # If the function exits during its start, the emulator's response is empty and its log line comes a moment later.
        until = time.monotonic() + _LOG_S
        while not any(map(_EXIT.search, log)) and time.monotonic() < until:
            time.sleep(_POLL_S)
            log = container.log(200)
        if exits := [how for line in log for how in _EXIT.findall(line)]:
            document = {"errorType": "Runtime.ExitError", "errorMessage": f"Runtime exited with error: {exits[-1]}"}
            error = failure(document, "the function")
    lines = "".join(f"\n    {line}" for line in select_handler_lines(log)[-_LAST_LINES:])
    if error.code == "function_timeout":
        message = f"the function did not start within its timeout of {function.timeout} s{lines}"
        return RemoteError("slow_start", message, error.hint)
    return RemoteError(error.code, "the function failed to start", error.hint, reason=f"{error}{lines}")


def select_handler_lines(log: list[str]) -> list[str]:
    """Return the log without the emulator's own lines. The figures of its REPORT lines are not measured."""
    lines = (line.rstrip().replace("\xa0", " ") for line in log)  # the runtime indents tracebacks with these
    return [line for line in lines if line and not _NARRATION.search(line)]
