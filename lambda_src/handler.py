"""AWS Lambda's entry point: `lambda_src.handler.lambda_handler`.

Importing this module loads the model, so that this happens in Lambda's init phase. If it fails, each invocation tries
again until it succeeds.
"""

from __future__ import annotations

import os
from typing import Any

from .errors import SettingsError
from .service import Service, fault_line
from .settings import Settings

_service: Service | None = None


def lambda_handler(event: object, context: object = None) -> dict[str, Any]:
    """Answer one invocation, see `service`. Raises FaultError, also for an invalid configuration."""
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
    os.write(1, line.encode() + b"\n")  # a single write, so that concurrent output cannot split the line


def _warm_up() -> None:
    try:
        _started().load()
    except Exception as error:  # the first invocation tries again and raises the error
        _write_line(fault_line(error, None, outcome="init_failed"))


_warm_up()
