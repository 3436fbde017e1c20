"""Measure the function in a local container with Lambda's limits, through Lambda's emulator."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..clients.docker import Engine
from ..clients.invocation import read_prediction
from ..errors import InvocationError
from ..local.address import post
from ..local.container import FreshContainer, explain_crash, select_handler_lines, start_fresh
from ..local.function import LocalFunction
from .instance import InvocationReport, Sample, handlers_line, last_report, load_s, require_prediction, split_time

_SLACK_S = 10  # on top of the function's timeout
_LOG_LINES = 60  # enough for one invocation with its start
_LOG_S = 2.0  # how long the emulator's output may take to arrive through the Engine
_INIT = re.compile(r"INIT REPORT\(durationMs: ([\d.]+)\)")


@contextmanager
def start(engine: Engine, function: LocalFunction, log: Callable[[str], None]) -> Iterator[ContainerInstance]:
    """Start the function in a new container and remove it afterwards. log: takes the handler's log lines."""
    with start_fresh(engine, function) as container:
        yield ContainerInstance(container, function, log)


class ContainerInstance:
    """The function in a container. It handles one request at a time."""

    def __init__(self, fresh: FreshContainer, function: LocalFunction, log: Callable[[str], None]) -> None:
        self._fresh = fresh
        self._function = function
        self._log = log
        self._last = ""

    def ask(self, body: bytes) -> Sample:
        """Send an event as JSON and measure from request to response. Raises MlinferError.

        The first request includes the start of Python and the handler. The container start before it is `boot_s`.
        """
        started = time.perf_counter()
        try:
            payload = post(self._function.url, body, self._function.timeout + _SLACK_S)
        except TimeoutError as error:
            hint = "Try again. If it times out again, increase timeout in mlinfer.toml."
            raise InvocationError("function_timeout", "the function timed out", hint) from error
        except OSError as error:
            raise explain_crash(self._fresh.container, "the container exited during a request") from error
        seconds = time.perf_counter() - started
        answer = read_prediction(payload, "the function")
        require_prediction(answer)
        lines, report = self._logged()
        billed_s = report.duration_s if report else seconds
        model = answer["body"]["model"]
        if not answer["body"].get("cold_start"):
            return Sample(False, started, seconds, billed_s, split_time(seconds, answer["body"]), model)
        line = handlers_line(lines)
        init = _INIT.search("\n".join(lines))
        start_s = float(init[1]) / 1000 - load_s(line) if init else 0.0
        parts = split_time(seconds, line or answer["body"], start_s=start_s)
        return Sample(True, started, seconds, billed_s, parts, model, self._fresh.boot_s)

    def peak_bytes(self) -> int | None:
        """Return the peak memory of the container in bytes, including page cache."""
        return self._fresh.container.peak_memory()

    def _logged(self) -> tuple[list[str], InvocationReport | None]:
        """Return the log of the last invocation and its REPORT; None if no REPORT arrives."""
        deadline = time.monotonic() + _LOG_S
        while True:
            lines = [line.rstrip("\r") for line in self._fresh.container.log(_LOG_LINES)]
            report = last_report(lines)
            if report and report.request != self._last:
                begin = max(i for i, line in enumerate(lines) if line.startswith("START ")) if self._last else 0
                self._last = report.request
                for line in select_handler_lines(lines[begin:]):
                    self._log(line)
                return lines[begin:], report
            if time.monotonic() > deadline:
                return lines, None
            time.sleep(0.005)
