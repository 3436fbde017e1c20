"""Each target refuses an answer of another model than the named one, or of another project's function."""

from __future__ import annotations

import json
import socket
import struct
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lambda_src.service import Service
from lambda_src.settings import Settings
from mlinfer.config import TARGETS
from mlinfer.local.ports import find_free_port
from mlinfer.local.serve import Server
from mlinfer.model.path import STARTER

from ..conftest import CAT, Run
from ..servers.engine import LoopbackEngine
from ..servers.functions import LoopbackLambda, serving
from ..servers.http import Answer, serve

MlInfer = Callable[..., Run]


@contextmanager
def function_here(model: Path, project: str) -> Iterator[int]:
    """Serve a model as `run-local --no-docker` does; yield the port."""
    server = Server(Service(Settings(str(model)), log=lambda _: None), find_free_port("127.0.0.1"), project)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Return the port of this project's function with the starter; no Docker Engine is available."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with function_here(STARTER, "work") as port:
        monkeypatch.setenv("MLINFER_PORT", str(port))
        yield port


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackLambda]:
    """Return a deployed function with the starter."""
    with serving(Service(Settings(str(STARTER)), log=lambda _: None)) as (api, address):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
        monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", address)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        api.url = f"{address}/function-url-call"
        yield api


def refused(run: Run) -> dict[str, str]:
    """Return the error of a failed command."""
    assert run.code == 5, run.err
    error: dict[str, str] = json.loads(run.out)["error"]
    return error


@pytest.mark.parametrize("by", ["flag", "variable", "file"])
@pytest.mark.usefixtures("port")
def test_another_model_answers_here(
    mlinfer: MlInfer, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """Target local refuses an answer of another model, and says how to start the named one."""
    words = ["--model", str(tiny_model)] if by == "flag" else []
    if by == "variable":
        monkeypatch.setenv("MLINFER_MODEL", str(tiny_model))
    if by == "file":
        Path("mlinfer.toml").write_text(f'model = "{tiny_model}"\n')
    error = refused(mlinfer("predict", CAT, "--target", "local", "--json", *words))
    assert error["code"] == "another_model"
    assert "starter" in error["message"]
    assert str(tiny_model) in error["message"]
    assert ("--model" in error["hint"]) is (by == "flag")
    assert "mlinfer run-local" in error["hint"]


@pytest.mark.usefixtures("port")
def test_the_named_model_answers_here(mlinfer: MlInfer) -> None:
    """A copy of the model counts as that model; if none is named, any model may answer."""
    Path("copy.onnx").write_bytes(STARTER.read_bytes())
    assert mlinfer("predict", CAT, "--target", "local", "--model", "copy.onnx").code == 0
    run = mlinfer("predict", CAT, "--target", "local")
    assert run.code == 0
    assert "Answered by starter" in run.err


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.usefixtures("port", "api")
def test_each_target_predicts(mlinfer: MlInfer, target: str) -> None:
    """Each target gives this machine's answer, and stderr names the target."""
    run = mlinfer("predict", CAT, "--target", target)
    assert (run.code, run.out) == (0, mlinfer("predict", CAT).out)
    assert f"target {target}" in run.err


@pytest.mark.parametrize("target", ["local", "aws"])
@pytest.mark.parametrize("command", ["predict", "bench"])
def test_a_named_model_that_is_missing(
    mlinfer: MlInfer, port: int, api: LoopbackLambda, command: str, target: str
) -> None:
    """A missing model file is an error before anything is sent."""
    assert port
    run = mlinfer(command, CAT, "--target", target, "--model", "nope.onnx", "--json")
    assert (run.code, json.loads(run.out)["error"]["code"]) == (3, "model_not_found")
    assert api.requests == []


@pytest.mark.parametrize("words", [["predict"], ["predict", "--url"]])
@pytest.mark.usefixtures("api")
def test_another_model_answers_in_aws(mlinfer: MlInfer, tiny_model: Path, words: list[str]) -> None:
    """Target aws refuses an answer of another model, through the API and through the URL."""
    named = [CAT, "--target", "aws", "--model", str(tiny_model), "--json"]
    error = refused(mlinfer(*words, *named))
    assert error["code"] == "another_model"
    assert f"mlinfer deploy --model {tiny_model}" in error["hint"]


def test_another_projects_process(mlinfer: MlInfer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function of another project without Docker is refused, with both names."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with function_here(STARTER, "dogs") as port:
        error = refused(mlinfer("predict", CAT, "--target", "local", "--port", str(port), "--json"))
    assert error["code"] == "another_project"
    assert {"dogs", "work"} <= set(error["message"].replace(",", "").split())


@pytest.mark.parametrize(("project", "code"), [("dogs", 5), ("work", 0)])
def test_another_projects_container(mlinfer: MlInfer, monkeypatch: pytest.MonkeyPatch, project: str, code: int) -> None:
    """A container of another project is refused, and gets no image."""
    engine = LoopbackEngine(push=lambda *_: [])
    container = {"Id": "c" * 64, "Name": "/mlinfer-x", "Config": {"Labels": {"mlinfer.project": project}}}
    for path, document in {"/containers/json": [container], f"/containers/{container['Id']}/json": container}.items():
        engine.answers[path] = Answer(200, {"content-type": "application/json"}, json.dumps(document).encode())
    function = LoopbackLambda(Service(Settings(str(STARTER)), log=lambda _: None))
    with serve(engine.answer) as engine_port, serving(function.service) as (api, address):
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{engine_port}")
        run = mlinfer("predict", CAT, "--target", "local", "--port", address.rpartition(":")[2], "--json")
    assert run.code == code, run.err
    assert len(api.invocations()) == (0 if code else 1)
    if code:
        assert refused(run)["code"] == "another_project"
        assert f"mlinfer run-local --stop --project {project}" in refused(run)["hint"]


def test_a_client_that_disconnects(port: int, capfd: pytest.CaptureFixture[str]) -> None:
    """`run-local --no-docker` ignores a client that resets its connection, and answers the next one."""
    reset = struct.pack("ii", 1, 0)  # close() then sends RST
    for body in (b"0" * 16, b"{}" + b" " * 98):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            client.sendall(
                b"POST /2015-03-31/functions/function/invocations HTTP/1.1\r\nContent-Length: 100\r\n\r\n" + body
            )
    with urllib.request.urlopen(
        f"http://127.0.0.1:{port}/2015-03-31/functions/function/invocations", data=b"{}"
    ) as answer:
        assert answer.status == 200
    assert "Traceback" not in capfd.readouterr().err


FOREIGN = [
    {"statusCode": 200, "body": "Hello from Lambda"},
    {"statusCode": 200},
    {"statusCode": 500, "body": "x"},
    {"statusCode": 200, "body": {"model": {}}},
    {"statusCode": "200", "body": '{"a": 1}'},
    {"statusCode": 404, "body": {"error": "nope"}},
    {"statusCode": 200, "body": {"predictions": [], "model": {"name": "m", "sha256": "f" * 64}}},
    {"statusCode": 200, "body": {"predictions": [{"label": 3}], "model": {"name": "m", "sha256": "f" * 64}}},
]


@pytest.mark.parametrize("answer", FOREIGN)
def test_another_function_in_aws(mlinfer: MlInfer, api: LoopbackLambda, answer: dict[str, Any]) -> None:
    """An answer of a function that is not mlinfer's is an error, through the API, the URL and bench."""
    content = json.dumps(answer).encode()
    body = json.dumps(answer["body"]).encode() if isinstance(answer.get("body"), dict) else b'{"error": "no"}'
    commands = [
        (("predict", CAT, "--target", "aws"), content),
        (("predict", CAT, "--target", "aws", "--url"), body),
    ]
    for arguments, told in commands:
        api.script.append(Answer(200 if told is content else int(answer["statusCode"]), {}, told))
        run = mlinfer(*arguments, "--json")
        assert (run.code, json.loads(run.out)["error"]["code"]) == (4, "not_mlinfer"), arguments


@pytest.mark.slow
def test_another_function_here(mlinfer: MlInfer, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another handler behind the local port is an error that names the port."""
    assert port
    with serving(Service(Settings(str(STARTER)), log=lambda _: None)) as (api, address):
        monkeypatch.setenv("MLINFER_PORT", address.rpartition(":")[2])
        monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
        for answer in FOREIGN:
            api.script.append(Answer(200, {}, json.dumps(answer).encode()))
            run = mlinfer("predict", CAT, "--target", "local", "--json")
            error = json.loads(run.out)["error"]
            assert (run.code, error["code"]) == (4, "not_mlinfer"), answer
            assert "port" in error["hint"]
