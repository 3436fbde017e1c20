"""A machine without Docker: each reason has its sentence and its remedy, and `predict` needs none."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest

from .conftest import ROOT, Run

MlInfer = Callable[..., Run]

COMMANDS = [["build"], ["run-local", "--detach"], ["run-local", "--stop"]]


pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # the SDK's, of a socket without an Engine


@pytest.fixture(autouse=True)
def no_docker_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Take away the developer's choice of an Engine; return the folder of Docker's configuration."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    yield tmp_path / "docker"
    gc.collect()  # while the warning of the sockets is expected


@pytest.fixture
def dead_socket(tmp_path: Path) -> Iterator[Path]:
    """Return a socket that nobody listens on, as an Engine leaves it behind."""
    path = tmp_path / "dead.sock"
    with closing(socket.socket(socket.AF_UNIX)) as made:
        made.bind(str(path))
        yield path


def error_of(code: int, out: str) -> dict[str, str]:
    """Return the error document of a command that misses something here, and that named what works without Docker."""
    assert code == 3, out
    error: dict[str, str] = json.loads(out)["error"]
    assert "`mlinfer predict` and `mlinfer run-local --no-docker` need no Docker." in error["hint"]
    return error


def without_an_engine(*words: str, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
    """Run a command where /run, and with it the Engine's socket, is empty: in a mount namespace of its own."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make a mount namespace")
    hide = 'mount -t tmpfs none /run && PATH="$0" exec "$@"'
    command = [unshare, "-m", "sh", "-c", hide, path, sys.executable, "-m", "mlinfer", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_engine_that_is_not_there(mlinfer: MlInfer, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    """DOCKER_HOST names a socket that does not exist."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    run = mlinfer(*command, "--json")
    error = error_of(run.code, run.out)
    assert error["code"] == "docker_unreachable"
    assert "unix:///nowhere/docker.sock" in error["message"]
    assert "DOCKER_HOST" in error["hint"]


@pytest.mark.parametrize("host", ["tcp://127.0.0.1:9", "http://[", "nonsense"])
def test_other_addresses(mlinfer: MlInfer, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """DOCKER_HOST names a port that nobody listens on, or is no address."""
    monkeypatch.setenv("DOCKER_HOST", host)
    run = mlinfer("build", "--json")
    error = error_of(run.code, run.out)
    assert (error["code"], host in error["message"]) == ("docker_unreachable", True)


@pytest.mark.skipif(find_spec("paramiko") is not None, reason="paramiko is installed")
def test_an_address_that_needs_ssh(mlinfer: MlInfer, monkeypatch: pytest.MonkeyPatch) -> None:
    """DOCKER_HOST names an Engine behind SSH: what that needs is said, and not the SDK's NameError."""
    monkeypatch.setenv("DOCKER_HOST", "ssh://nobody@127.0.0.1")
    run = mlinfer("build", "--json")
    error = error_of(run.code, run.out)
    assert (error["code"], "pip install 'docker[ssh]'" in error["hint"]) == ("docker_unreachable", True)


def test_a_socket_that_is_left_over(mlinfer: MlInfer, monkeypatch: pytest.MonkeyPatch, dead_socket: Path) -> None:
    """The socket is there, but the Engine has ended."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{dead_socket}")
    run = mlinfer("build", "--json")
    assert error_of(run.code, run.out)["code"] == "docker_unreachable"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_context_that_is_not_there(mlinfer: MlInfer, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    """DOCKER_CONTEXT names no context: another Engine is not taken instead."""
    monkeypatch.setenv("DOCKER_CONTEXT", "nonexistent")
    run = mlinfer(*command, "--json")
    error = error_of(run.code, run.out)
    assert (error["code"], error["message"]) == ("docker_context", "there is no Docker context 'nonexistent'")
    assert "docker context ls" in error["hint"]


@pytest.mark.parametrize("chosen_by", ["variable", "configuration"])
def test_a_context_without_an_engine(
    mlinfer: MlInfer, monkeypatch: pytest.MonkeyPatch, no_docker_settings: Path, chosen_by: str
) -> None:
    """The chosen context leads to no Engine; it is named, and the default one is not taken instead."""
    meta = no_docker_settings / "contexts" / "meta" / hashlib.sha256(b"far").hexdigest()
    meta.mkdir(parents=True)
    endpoint = {"docker": {"Host": "unix:///nowhere/far.sock", "SkipTLSVerify": False}}
    (meta / "meta.json").write_text(json.dumps({"Name": "far", "Metadata": {}, "Endpoints": endpoint}))
    (no_docker_settings / "config.json").write_text(
        '{"currentContext": "far"}' if chosen_by == "configuration" else "{}"
    )
    if chosen_by == "variable":
        monkeypatch.setenv("DOCKER_CONTEXT", "far")
    run = mlinfer("build", "--json")
    error = error_of(run.code, run.out)
    assert (error["code"], "the context far" in error["message"]) == ("docker_unreachable", True)


def test_a_socket_without_permission(dead_socket: Path) -> None:
    """The user is not in the group that may use the Engine."""
    dead_socket.chmod(0)
    command = [sys.executable, "-m", "mlinfer", "build", "--json"]
    if os.geteuid() == 0:  # root may use every socket, unless it gives that right away
        if not shutil.which("setpriv"):
            pytest.skip("there is no setpriv")
        command = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override", *command]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DOCKER_HOST": f"unix://{dead_socket}"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    error = error_of(run.returncode, run.stdout)
    assert (error["code"], "usermod -aG docker" in error["hint"]) == ("docker_forbidden", True)


def test_not_running(tmp_path: Path) -> None:
    """Docker is installed, but no Engine listens where one does by default."""
    (tmp_path / "docker").write_text("#!/bin/sh\n")
    (tmp_path / "docker").chmod(0o755)
    run = without_an_engine("build", "--json", path=str(tmp_path))
    error = error_of(run.returncode, run.stdout)
    assert (error["code"], "Start it: " in error["hint"]) == ("docker_not_running", True)


def test_not_installed(tmp_path: Path) -> None:
    """There is neither an Engine nor the docker command."""
    run = without_an_engine("build", "--json", path=str(tmp_path))
    error = error_of(run.returncode, run.stdout)
    assert (error["code"], "docs.docker.com" in error["hint"]) == ("docker_not_installed", True)


def test_people_see_two_lines(mlinfer: MlInfer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `--json` the reason is one line and the remedy another; there is no traceback."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    run = mlinfer("build")
    assert (run.code, run.out) == (3, "")
    assert len(run.err.splitlines()) == 2


def test_no_docker_goes_with_no_docker_option(mlinfer: MlInfer) -> None:
    """`--no-docker` refuses what only a container can do."""
    for option in ("--detach", "--stop", "--from-s3"):
        run = mlinfer("run-local", "--no-docker", option, "--json")
        assert (run.code, json.loads(run.out)["error"]["code"]) == (2, "usage")
