"""AWS Lambda's entry point: `lambda_src.handler.lambda_handler`.

Importing this module starts the service, so that the model is loaded in Lambda's init phase. When that fails, the
invocation tries again from the start, and recovers once the cause is gone.
"""

from __future__ import annotations

import os
from typing import Any

from .errors import SettingsError
from .service import Service, fault_line
from .settings import Settings

_service: Service | None = None


def lambda_handler(event: object, context: object = None) -> dict[str, Any]:
    """Answer one invocation; see `service`. Raises for faults of our own, the configuration's included."""
    try:
        service = _started()
    except SettingsError as error:
        _write_line(fault_line(error, context))
        raise
    return service.answer(event, context)


def _started() -> Service:
    global _service
    if _service is None:
        _service = Service(Settings.from_environment(os.environ), log=_write_line)
    return _service


def _write_line(line: str) -> None:
    os.write(1, line.encode() + b"\n")  # one write, so that concurrent output cannot split the line


def _warm_up() -> None:
    try:
        _started().load()
    except Exception as error:  # the first invocation tries again, and raises what is still wrong
        _write_line(fault_line(error, None, outcome="init_failed"))


_warm_up()
