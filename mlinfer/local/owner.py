"""Which project answers on a port: a picture is not sent to the function of another one.

A container carries its project as a label, which the Docker Engine tells; `run-local --no-docker` says it in a header.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable

from ..clients.docker import Engine
from ..errors import MissingError, RemoteError, VerificationError
from ..names import PROJECT_LABEL
from .address import HOST, PROJECT_HEADER, address

_PROBE_S = 2


def require_ours(port: int, project: str, connect: Callable[[], Engine]) -> None:
    """Refuse the function of another project. Raises VerificationError.

    connect: finds the Docker Engine. Without one on this machine, or where a foreign program listens, nothing is refused.
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
        stop = f"Stop it: mlinfer run-local --stop --project {served}"
    raise VerificationError(
        "another_project",
        f"project {served} answers on {HOST}:{port}, and this is project {project}",
        f"{stop}; or start this project's function on another port: mlinfer run-local --port {port + 1}",
    )


def _served(port: int) -> str | None:
    """Return the project that `run-local --no-docker` names, "" from any other server, None where nothing answers."""
    try:
        with urllib.request.urlopen(f"{address(port)}/", timeout=_PROBE_S) as answer:  # noqa: S310 - ours, http
            return str(answer.headers.get(PROJECT_HEADER, ""))
    except urllib.error.HTTPError as error:
        return str(error.headers.get(PROJECT_HEADER, ""))
    except OSError:
        return None
