"""Measure the function in AWS.

A published version cannot be started cold on demand. $LATEST starts cold after each change of its configuration, so each
cold start changes an environment variable of $LATEST (and `tune` its memory size). Both are restored at the end. The alias
is not affected.

The variable stores the original memory size, so a single request makes the change and records what to restore. After a
command that was killed, the next measurement finds the variable and restores the configuration.
https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html
"""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..clients.aws_errors import explained
from ..clients.invocation import read_prediction
from ..clients.waiter import Waiter
from ..cloud.resources.function import FunctionConfig, before_bench, during_bench, reason_to_wait, wait_until_ready
from ..names import Names
from ..targets.aws import explained_invocation, send_until_accepted
from .instance import Sample, handlers_line, last_report, load_s, require_prediction, split_time

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient


LATEST = "$LATEST"

_NEEDED = "lambda:GetFunction, lambda:UpdateFunctionConfiguration and lambda:InvokeFunction"


@dataclass(frozen=True)
class DeployedFunction:
    """The measured function and its clients. invoker: a client without retries. log: takes the handler's log lines."""

    functions: LambdaClient
    invoker: LambdaClient
    names: Names
    waiter: Waiter
    log: Callable[[str], None]


@contextmanager
def borrow(deployed: DeployedFunction, tell: Callable[[str], None]) -> Iterator[FunctionConfig]:
    """Yield the configuration of $LATEST and restore it at the end, also after an error. Raises RemoteError."""
    names = deployed.names
    with explained(f"function {names.function}", _NEEDED):
        there = wait_until_ready(deployed.functions, names, deployed.waiter).settings
    before = before_bench(there)
    if before != there:
        tell(f"An earlier measurement of {names.function} was interrupted. Its changes will be undone at the end.")
    try:
        yield before
    finally:
        tell(f"Restoring the configuration of {names.function} ({before.memory} MB) ...")
        _configure(deployed, before)


@contextmanager
def start(deployed: DeployedFunction, before: FunctionConfig, memory: int) -> Iterator[LiveInstance]:
    """Make Lambda start a new instance of $LATEST for the next request. Raises RemoteError.

    before: the configuration from `borrow`. memory: the size to measure, in MB.
    """
    _configure(deployed, during_bench(before, memory, secrets.token_hex(4)))
    yield LiveInstance(deployed, LATEST)


class LiveInstance:
    """A version or alias of the function in Lambda. It is thread-safe."""

    def __init__(self, deployed: DeployedFunction, qualifier: str) -> None:
        self._deployed = deployed
        self._qualifier = qualifier
        self._peak: int | None = None

    def ask(self, body: bytes) -> Sample:
        """Send an event as JSON and measure from request to response, including the network. Raises MlinferError."""
        name, started = self._deployed.names.function, 0.0
        subject = f"function {name}"

        def invoke() -> tuple[bytes, str]:
            nonlocal started
            started = time.perf_counter()
            answer = self._deployed.invoker.invoke(
                FunctionName=name, Qualifier=self._qualifier, LogType="Tail", Payload=body
            )
            return answer["Payload"].read(), answer.get("LogResult", "")

        with explained_invocation(subject, _NEEDED):
            payload, tail = send_until_accepted(invoke, self._deployed.waiter)
        seconds = time.perf_counter() - started
        answer = read_prediction(payload, subject)
        require_prediction(answer)
        lines = base64.b64decode(tail).decode(errors="replace").splitlines()
        line, report = handlers_line(lines), last_report(lines)
        for own in (own for own in lines if own.startswith("{")):
            self._deployed.log(own)
        billed_s = report.billed_s if report else seconds
        if report and report.peak_bytes:
            self._peak = max(self._peak or 0, report.peak_bytes)
        model = answer["body"]["model"]
        if not answer["body"].get("cold_start"):
            return Sample(False, started, seconds, billed_s, split_time(seconds, answer["body"]), model)
        start_s = max(0.0, report.init_s - load_s(line)) if report else 0.0
        parts = split_time(seconds, line or answer["body"], start_s=start_s)
        return Sample(True, started, seconds, billed_s, parts, model)

    def peak_bytes(self) -> int | None:
        """Return the highest memory use that Lambda has reported so far, in bytes."""
        return self._peak


def _configure(deployed: DeployedFunction, wanted: FunctionConfig) -> None:
    """Set memory and environment, and wait until the change is active. Raises RemoteError."""
    functions, names, waiter = deployed.functions, deployed.names, deployed.waiter
    with explained(f"function {names.function}", _NEEDED):
        waiter.retry(
            lambda: functions.update_function_configuration(
                FunctionName=names.function,
                MemorySize=wanted.memory,
                Environment={"Variables": dict(wanted.environment)},
            ),
            reason_to_wait,
        )
        wait_until_ready(functions, names, waiter)
