"""The address of the local function, and checks that it runs and belongs to this project.

A container's project is in a label. `run-local --no-docker` sends it in a response header.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import MissingError, RemoteError, VerificationError
from ..names import PROJECT_LABEL

if TYPE_CHECKING:  # imports Docker's SDK, which `run-local --no-docker` does not need
    from ..clients.docker import Engine

HOST = "127.0.0.1"
INVOCATIONS = "/2015-03-31/functions/function/invocations"
PROJECT_HEADER = "Mlinfer-Project"  # in every response of `run-local --no-docker`
_PROBE_S = 2


def address(port: int) -> str:
    """Return the endpoint URL of the local function, for boto3."""
    return f"http://{HOST}:{port}"


def post(url: str, body: bytes, timeout: float) -> bytes:
    """Send an invocation and return the body of the response, whatever its status. Raises OSError."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310 - ours, http
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310
            content: bytes = answer.read()
    except urllib.error.HTTPError as error:
        content = error.read()
    return content


def listens(url: str) -> bool:
    """Return whether the emulator responds. A connection is not enough: Docker's proxy accepts it before the emulator runs."""
    root = url.removesuffix(INVOCATIONS) + "/"
    try:
        with urllib.request.urlopen(root, timeout=2):  # noqa: S310
            return True
    except urllib.error.HTTPError as error:
        return error.code == 404
    except OSError:
        return False


def require_own_project(port: int, project: str, connect: Callable[[], Engine]) -> None:
    """Raise VerificationError if the function of another project listens on the port.

    connect: finds the Docker Engine. The check passes if the project is unknown: no Engine on this machine, or another program.
    """
    served = _served(port)
    if served is None or served == project:
        return
    if served:
        stop = "Stop it with Ctrl-C in its terminal"
    else:
        try:
            engine = connect()
            container = None if engine.remote else engine.publisher(port)
        except (MissingError, RemoteError):
            return
        served = container.labels.get(PROJECT_LABEL, project) if container else project
        if served == project:
            return
        stop = f"Stop it with `mlinfer run-local --stop --project {served}`"
    raise VerificationError(
        "another_project",
        f"the function at {HOST}:{port} belongs to project {served}, not to {project}",
        f"{stop}, or use another port with `mlinfer run-local --port {port + 1}`.",
    )


def _served(port: int) -> str | None:
    """Return the project that `run-local --no-docker` sends, "" for any other server, None if nothing listens."""
    try:
        with urllib.request.urlopen(f"{address(port)}/", timeout=_PROBE_S) as answer:  # noqa: S310 - ours, http
            return str(answer.headers.get(PROJECT_HEADER, ""))
    except urllib.error.HTTPError as error:
        return str(error.headers.get(PROJECT_HEADER, ""))
    except OSError:
        return None
