"""Ctrl-C at any moment exits with 130, without a traceback, and leaves complete outputs or none."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlinfer import __main__, terminal
from mlinfer.cli.views import measurements
from mlinfer.files import write_whole

from ..conftest import CAT, Run
from ..servers.aws import LoopbackAws

MlInfer = Callable[..., Run]
MOMENTS = 20
WITHIN_S = 2.0
# What the console script does, with a byte in between that says that our first lines have run.
PROGRAM = "import os, sys; from mlinfer.__main__ import run; os.write(int(sys.argv.pop(1)), b'.'); run()"


@dataclass(frozen=True)
class Ended:
    """How a command ended. seconds: since the first lines of mlinfer ran."""

    code: int
    out: str
    err: str
    seconds: float


def run_for(seconds: float, *argv: str) -> Ended:
    """Run a command and send it Ctrl-C after `seconds`, unless it has ended by then."""
    ready, said = os.pipe()
    command = [sys.executable, "-c", PROGRAM, str(said), *argv]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, pass_fds=[said], process_group=0
    )
    os.close(said)
    assert os.read(ready, 1) == b"."
    os.close(ready)
    started = time.monotonic()
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    return Ended(process.returncode, out, err, time.monotonic() - started)


def documents(text: str) -> list[object]:
    """Return the JSON documents of a text. Raises ValueError if one is incomplete."""
    found, decoder = [], json.JSONDecoder()
    while text := text.strip():
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:]
    return found


def check_interrupts(argv: list[str], *, endless: bool = False) -> None:
    """Interrupt a command at moments spread over its first two seconds, each time in a folder with the same files."""
    files = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    whole = run_for(WITHIN_S if endless else 60, *argv)
    made = {str(path) for path in Path().rglob("*") if path.is_file()} - set(map(str, files))
    codes = []
    for moment in range(MOMENTS):
        for path in Path().iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        ended = run_for(min(WITHIN_S, whole.seconds) * moment / MOMENTS, *argv)
        codes.append(ended.code)
        assert ended.code in (130, whole.code), (moment, ended)
        assert not re.search("Traceback|defect|internal error|Exception ignored", ended.err), (moment, ended.err)
        documents(ended.out)
        left = {str(path) for path in Path().rglob("*") if path.is_file()} - set(map(str, files))
        assert left <= made, (moment, left)
    assert 130 in codes


pytestmark = pytest.mark.slow

# Take and release a lock until Ctrl-C, 200 times; print how often the lock stayed taken.
LOCKS = """
import signal, threading
from mlinfer import __main__
__main__._running, lost = True, 0
for _ in range(200):
    condition = threading.Condition(threading.Lock())
    signal.signal(signal.SIGALRM, __main__._interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005)
        while True:
            with condition:
                sum(range(20))
    except KeyboardInterrupt:
        lost += condition._lock.locked()
print(lost)
"""


def test_a_lock() -> None:
    """Ctrl-C leaves no lock taken. urllib3 would wait for the lock of its connection pool without end."""
    run = subprocess.run([sys.executable, "-c", LOCKS], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["0"]


@pytest.mark.parametrize(
    "argv",
    [
        ["init", "--json"],
        ["inspect", "--json"],
        ["predict", str(CAT), "--json"],
        ["predict", *[str(CAT)] * 300, "--jobs", "2", "--json"],
        ["export", "model.onnx", "--out", "made.onnx", "--json"],
        ["bench", "--cold", "2", "--warm", "9", "--csv", "all.csv", "--json"],
        ["build", "--json"],
        ["doctor", "--json"],
    ],
    ids=lambda argv: f"{argv[0]}-{len(argv)}",
)
def test_a_command_of_this_machine(argv: list[str], tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local command exits with 130 or completes; its files are complete or absent."""
    monkeypatch.setenv("MLINFER_BASE_IMAGE", "127.0.0.1:9/lambda/python:3.13")  # `build` would ask a public registry
    Path("model.onnx").write_bytes(tiny_model.read_bytes())
    check_interrupts(argv)


def test_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """run-local exits with 130, while it starts and while it serves."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        monkeypatch.setenv("MLINFER_PORT", str(probe.getsockname()[1]))
    check_interrupts(["run-local", "--no-docker", "--json"], endless=True)


@pytest.mark.parametrize(
    "argv",
    [
        ["status"],
        ["upload", "MODEL", "--bucket", "cloud-models"],
        ["logs"],
        ["bench", "--target", "aws", "--cold", "0", "--warm", "9"],
        ["predict", str(CAT), "--target", "aws"],
        ["rollback", "1"],
        ["destroy", "--yes"],
    ],
    ids=lambda argv: argv[0],
)
def test_a_command_of_aws(
    argv: list[str], mlinfer: MlInfer, cloud: LoopbackAws, deploy_arguments: list[str], tiny_model: Path
) -> None:
    """A command that changes AWS exits with 130 or completes, and can be run again."""
    run = mlinfer("deploy", *deploy_arguments)
    assert run.code == 0, run.err
    cloud.reset_calls()
    check_interrupts([str(tiny_model) if word == "MODEL" else word for word in argv] + ["--json"])
    assert cloud.calls


def test_deploy(mlinfer: MlInfer, cloud: LoopbackAws, deploy_arguments: list[str]) -> None:
    """A deployment exits with 130 or completes, and the next run finishes an interrupted one."""
    check_interrupts(["deploy", *deploy_arguments, "--json"])
    run = mlinfer("deploy", *deploy_arguments)
    assert run.code == 0, run.err
    assert cloud.calls


def test_uninterruptible_functions_exist() -> None:
    """The functions that Ctrl-C does not interrupt exist under these names."""
    condition = threading.Condition
    found = (terminal.Terminal.text, measurements.show_report, write_whole, condition.__enter__, condition.__exit__)
    assert tuple(function.__qualname__ for function in found) == __main__.WHOLE
