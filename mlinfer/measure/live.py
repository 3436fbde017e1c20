"""An instance of the deployed function, in AWS.

What is live is a published version, and nobody can make that start cold. Its unpublished twin, $LATEST, starts cold after
each change of its configuration. So one variable of its environment is changed for each cold start, and its memory size
where that is tried out; both are brought back at the end. Requests to the alias never meet any of this.

The variable holds the memory size that there was before, so the first change records what to bring back, in one request
with the change itself. The next measurement finds the variable after a command that was killed, and brings that back.
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
    """The function that is measured, and what asks it. invoker: a client that repeats no request. log: takes the handler's lines."""

    functions: LambdaClient
    invoker: LambdaClient
    names: Names
    waiter: Waiter
    log: Callable[[str], None]


@contextmanager
def borrow(deployed: DeployedFunction, tell: Callable[[str], None]) -> Iterator[FunctionConfig]:
    """Yield how $LATEST is configured, and bring that back in the end, however this comes. Raises RemoteError."""
    names = deployed.names
    with explained(f"the function {names.function}", _NEEDED):
        there = wait_until_ready(deployed.functions, names, deployed.waiter).settings
    before = before_bench(there)
    if before != there:
        tell(f"An earlier measurement of {names.function} was interrupted. Its changes are undone at the end.")
    try:
        yield before
    finally:
        tell(f"Bringing {names.function} back to its configuration ({before.memory} MB) ...")
        _configure(deployed, before)


@contextmanager
def start(deployed: DeployedFunction, before: FunctionConfig, memory: int) -> Iterator[LiveInstance]:
    """Make Lambda start a new instance of $LATEST at the next request. before: as borrowed. memory: the size to try, MB.

    Raises RemoteError.
    """
    _configure(deployed, during_bench(before, memory, secrets.token_hex(4)))
    yield LiveInstance(deployed, LATEST)


class LiveInstance:
    """A function in Lambda, asked by one of its versions or aliases. Several threads may ask at once."""

    def __init__(self, deployed: DeployedFunction, qualifier: str) -> None:
        self._deployed = deployed
        self._qualifier = qualifier
        self._peak: int | None = None

    def ask(self, body: bytes) -> Sample:
        """Send the JSON of an event, and measure from the request to the answer, the way there included. Raises MlinferError."""
        name, started = self._deployed.names.function, 0.0
        subject = f"the function {name}"

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
        """Return the most memory that Lambda has reported until now."""
        return self._peak


def _configure(deployed: DeployedFunction, wanted: FunctionConfig) -> None:
    """Set memory and environment, and wait until that has taken effect. Raises RemoteError."""
    functions, names, waiter = deployed.functions, deployed.names, deployed.waiter
    with explained(f"the function {names.function}", _NEEDED):
        waiter.retry(
            lambda: functions.update_function_configuration(
                FunctionName=names.function,
                MemorySize=wanted.memory,
                Environment={"Variables": dict(wanted.environment)},
            ),
            reason_to_wait,
        )
        wait_until_ready(functions, names, waiter)
