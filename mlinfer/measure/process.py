"""Measure the function as a process on this machine: it runs the entry point of the handler without Lambda."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import lambda_src
from lambda_src.settings import default_threads

from ..config import Config
from ..errors import MlinferError
from ..model.path import model_path
from .instance import Sample, handlers_line, load_s, require_prediction, split_time

# perf_counter is the same clock in all processes. VmHWM is used because getrusage can include the parent's peak.
_PROGRAM = """
from time import perf_counter as now
began = now()
from lambda_src.handler import lambda_handler
ready = now()
import json, os, sys
def peak():
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
for line in open(0, "rb"):
    asked = now()
    answer = lambda_handler(json.loads(line))
    ended = now()
    clock = {"began": began, "ready": ready, "asked": asked, "ended": ended}
    os.write(1, json.dumps({"clock": clock, "peak": peak(), "answer": answer}).encode() + b"\\n")
"""


@contextmanager
def start(config: Config, environment: Mapping[str, str], log: Callable[[str], None]) -> Iterator[ProcessInstance]:
    """Start the configured function as a process and stop it afterwards. log: takes the handler's log lines."""
    handler = {
        **config.handler_environment(),
        "MLINFER_MODEL_URI": str(model_path(config).resolve()),
        "MLINFER_THREADS": str(config.threads or default_threads({})),
    }
    places = [str(Path(lambda_src.__file__).parents[1]), environment.get("PYTHONPATH", "")]
    handler["PYTHONPATH"] = os.pathsep.join(filter(None, places))
    plain = {name: value for name, value in environment.items() if not name.startswith("MLINFER_")}
    command = [sys.executable, "-P", "-c", _PROGRAM]
    with tempfile.TemporaryFile() as errors:
        spawned = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603 - this Python. Its own process group, so that Ctrl-C does not stop it
            command,
            env=plain | handler,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            process_group=0,
        )
        try:
            yield ProcessInstance(process, spawned, errors=errors, log=log)
        finally:
            process.kill()  # it writes no files
            process.communicate()


class ProcessInstance:
    """The function in a process. It handles one request at a time."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        spawned: float,
        *,
        errors: IO[bytes],
        log: Callable[[str], None],
    ) -> None:
        self._requests: IO[bytes] = process.stdin  # type: ignore[assignment]  # both are pipes
        self._answers: IO[bytes] = process.stdout  # type: ignore[assignment]
        self._spawned: float | None = spawned
        self._errors = errors
        self._log = log
        self._peak: int | None = None

    def ask(self, body: bytes) -> Sample:
        """Send an event as JSON and measure. The first request includes the start of the process. Raises MlinferError."""
        line, told = self._exchange(body)
        clock, answer = told["clock"], told["answer"]
        require_prediction(answer)
        self._peak = told["peak"]
        cold, since = self._spawned is not None, self._spawned or clock["asked"]
        self._spawned = None
        seconds, model = clock["ended"] - since, answer["body"]["model"]
        if not cold:
            return Sample(False, since, seconds, seconds, split_time(seconds, line), model)
        light_imports_s = clock["ready"] - clock["began"] - load_s(line)
        parts = split_time(seconds, line, start_s=clock["began"] - since, imports_s=light_imports_s)
        return Sample(True, since, seconds, seconds, parts, model)

    def peak_bytes(self) -> int | None:
        """Return the peak resident memory in bytes, including shared libraries."""
        return self._peak

    def _exchange(self, body: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the handler's log line, and the program's clock, peak memory and response."""
        lines: list[str] = []
        with suppress(BrokenPipeError):  # it has exited; its stderr is read below
            self._requests.write(body + b"\n")
            self._requests.flush()
        for encoded in self._answers:
            line = encoded.decode()
            if line.startswith('{"clock"'):
                return handlers_line(lines), json.loads(line)
            lines.append(line)
            self._log(line.rstrip())
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().rpartition("\n")[2]
        raise MlinferError("process_ended", "the measured process exited", reason=said or "it printed nothing")
