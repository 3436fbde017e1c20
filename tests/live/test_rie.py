"""The handler behind AWS's emulator and runtime client, as processes without Docker."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from devtools.base_image import RUNTIME
from devtools.containers import Function
from devtools.ready import wait_until

from ..conftest import ROOT

EVENT = ROOT / "examples" / "event.json"


@pytest.fixture(scope="session")
def runtime_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install AWS's runtime client in a folder, in the stand-in's version."""
    folder = tmp_path_factory.mktemp("runtime")
    requirements = folder / "requirements.txt"
    requirements.write_text(RUNTIME)
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    subprocess.run([*command, "--target", str(folder), "-r", str(requirements)], check=True)
    return folder


@pytest.fixture
def function(rie: Path, runtime_client: Path, tiny_model: Path) -> Iterator[Function]:
    """Run the handler with a test model behind the emulator, on free loopback ports."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [listener.getsockname()[1] for listener in (one, other)]
    command = [str(rie), "--runtime-interface-emulator-address", f"127.0.0.1:{ports[0]}"]
    command += ["--runtime-api-address", f"127.0.0.1:{ports[1]}"]
    command += [sys.executable, "-m", "awslambdaric", "lambda_src.handler.lambda_handler"]
    settings = {"MLINFER_MODEL_URI": str(tiny_model), "PYTHONPATH": f"{ROOT}:{runtime_client}"}
    environment = os.environ | settings | {"AWS_LAMBDA_FUNCTION_TIMEOUT": "20"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        function = Function(f"http://127.0.0.1:{ports[0]}")
        wait_until(lambda: function.get("/") == 404, "the emulator")
        yield function
    finally:
        process.kill()
        process.wait()


def test_the_handler_answers(function: Function, tiny_model: Path) -> None:
    """The example event is answered; the first answer is cold, the next warm."""
    assert tiny_model.is_file()
    first, second = (function.invoke(json.loads(EVENT.read_text())) for _ in range(2))
    assert (first["statusCode"], first["body"]["model"]["name"]) == (200, "tiny")
    assert (first["body"]["cold_start"], second["body"]["cold_start"]) == (True, False)
    assert first["body"]["predictions"] == second["body"]["predictions"]


def test_mistakes_and_health(function: Function) -> None:
    """A mistake is an answer, and GET returns the health document."""
    assert function.invoke({"image": "bm8="})["body"]["error"]["code"] == "invalid_image"
    health = function.invoke({"requestContext": {"http": {"method": "GET"}}})
    assert json.loads(health["body"])["status"] == "ok"
