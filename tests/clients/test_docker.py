"""Problems with the Docker Engine, each with its remedy: no Engine, a remote one, one that refuses.

The Engine's messages were recorded from Engines 20 to 29, or come from public reports.
"""

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
from typing import Any

import pytest

from ..conftest import ROOT, Run
from ..models import mean_colour, sparse
from ..servers.engine import LoopbackEngine
from ..servers.http import Answer, serve

MlInfer = Callable[..., Run]

COMMANDS = [["build"], ["run-local", "--detach"], ["run-local", "--stop"]]


pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # the SDK's, of a socket without an Engine


@pytest.fixture(autouse=True)
def no_docker_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Remove the developer's Docker settings; return an empty folder for Docker's configuration."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("MLINFER_BUILDER", "docker")
    gc.freeze()  # what is here already need not be looked through
    yield tmp_path / "docker"
    gc.collect()  # while the warning of the sockets is expected
    gc.unfreeze()


@pytest.fixture
def dead_socket(tmp_path: Path) -> Iterator[Path]:
    """Return a socket without a listener, as a stopped Engine leaves it."""
    path = tmp_path / "dead.sock"
    with closing(socket.socket(socket.AF_UNIX)) as made:
        made.bind(str(path))
        yield path


def error_of(code: int, out: str) -> dict[str, str]:
    """Return the error of a command that misses something locally and that named what works without Docker."""
    assert code == 3, out
    error: dict[str, str] = json.loads(out)["error"]
    assert "`mlinfer predict` and `mlinfer run-local --no-docker` work without Docker." in error["hint"]
    return error


def without_an_engine(*words: str, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
    """Run a command with an empty /run, in its own mount namespace, so that it finds no Engine."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make a mount namespace")
    hide = 'mount -t tmpfs none /run && PATH="$0" exec "$@"'
    command = [unshare, "-m", "sh", "-c", hide, path, sys.executable, "-m", "mlinfer", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_engine_that_does_not_exist(mlinfer: MlInfer, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    """DOCKER_HOST names a socket that does not exist."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    run = mlinfer(*command, "--json")
    error = error_of(run.code, run.out)
    assert error["code"] == "docker_unreachable"
    assert "unix:///nowhere/docker.sock" in error["message"]
    assert "DOCKER_HOST" in error["hint"]


@pytest.mark.parametrize("host", ["tcp://127.0.0.1:9", "http://[", "nonsense"])
def test_other_addresses(mlinfer: MlInfer, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """DOCKER_HOST names a port without a listener, or is not an address."""
    monkeypatch.setenv("DOCKER_HOST", host)
    run = mlinfer("build", "--json")
    error = error_of(run.code, run.out)
    assert (error["code"], host in error["message"]) == ("docker_unreachable", True)


@pytest.mark.skipif(find_spec("paramiko") is not None, reason="paramiko is installed")
def test_an_address_that_needs_ssh(mlinfer: MlInfer, monkeypatch: pytest.MonkeyPatch) -> None:
    """For an Engine behind SSH, the error names what is missing instead of the SDK's NameError."""
    monkeypatch.setenv("DOCKER_HOST", "ssh://nobody@127.0.0.1")
    run = mlinfer("build", "--json")
    error = error_of(run.code, run.out)
    assert (error["code"], "pip install 'docker[ssh]'" in error["hint"]) == ("docker_unreachable", True)


def test_a_stale_socket(mlinfer: MlInfer, monkeypatch: pytest.MonkeyPatch, dead_socket: Path) -> None:
    """The socket exists, but the Engine has stopped."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{dead_socket}")
    run = mlinfer("build", "--json")
    assert error_of(run.code, run.out)["code"] == "docker_unreachable"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_unknown_context(mlinfer: MlInfer, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    """DOCKER_CONTEXT names a missing context: the command fails and uses no other Engine."""
    monkeypatch.setenv("DOCKER_CONTEXT", "nonexistent")
    run = mlinfer(*command, "--json")
    error = error_of(run.code, run.out)
    assert (error["code"], error["message"]) == ("docker_context", "Docker context 'nonexistent' does not exist")
    assert "docker context ls" in error["hint"]


@pytest.mark.parametrize("chosen_by", ["variable", "configuration"])
def test_a_context_without_an_engine(
    mlinfer: MlInfer, monkeypatch: pytest.MonkeyPatch, no_docker_settings: Path, chosen_by: str
) -> None:
    """The chosen context has no running Engine: the error names it, and the default Engine is not used."""
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
    assert (error["code"], "context far" in error["message"]) == ("docker_unreachable", True)


@pytest.mark.slow
def test_a_socket_without_permission(dead_socket: Path) -> None:
    """The user is not in the group that may use the Engine."""
    dead_socket.chmod(0)
    command = [sys.executable, "-m", "mlinfer", "build", "--json"]
    if os.geteuid() == 0:  # root may use every socket, unless it drops that right
        if not shutil.which("setpriv"):
            pytest.skip("there is no setpriv")
        command = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override", *command]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DOCKER_HOST": f"unix://{dead_socket}"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    error = error_of(run.returncode, run.stdout)
    assert (error["code"], "usermod -aG docker" in error["hint"]) == ("docker_forbidden", True)


@pytest.mark.slow
def test_not_running(tmp_path: Path) -> None:
    """Docker is installed, but no Engine runs."""
    (tmp_path / "docker").write_text("#!/bin/sh\n")
    (tmp_path / "docker").chmod(0o755)
    run = without_an_engine("build", "--json", path=str(tmp_path))
    error = error_of(run.returncode, run.stdout)
    assert (error["code"], error["hint"].startswith("Start ")) == ("docker_not_running", True)


def test_not_installed(tmp_path: Path) -> None:
    """Neither an Engine nor the docker command is installed."""
    run = without_an_engine("build", "--json", path=str(tmp_path))
    error = error_of(run.returncode, run.stdout)
    assert (error["code"], "docs.docker.com" in error["hint"]) == ("docker_not_installed", True)


def test_people_see_three_lines(mlinfer: MlInfer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `--json`, error, reason and hint are a line each, without a traceback."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    run = mlinfer("build")
    assert (run.code, run.out) == (3, "")
    assert [line.split()[0] for line in run.err.splitlines()] == ["Error:", "Reason:", "Hint:"]


def test_no_docker_refuses_container_options(mlinfer: MlInfer) -> None:
    """`--no-docker` refuses options that only a container supports."""
    for option in ("--detach", "--stop", "--from-s3"):
        run = mlinfer("run-local", "--no-docker", option, "--json")
        assert (run.code, json.loads(run.out)["error"]["code"]) == (2, "usage")


# An Engine that answers


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackEngine]:
    """Return the Engine that DOCKER_HOST names: it has every image that is asked for, and no container."""
    made = LoopbackEngine(lambda *_: [], facts={"NCPU": 2, "MemTotal": 8 * 2**30})
    made.answers["GET /containers/json"] = as_json(200, [])
    with serve(made.answer) as port:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
        yield made


def as_json(status: int, value: object) -> Answer:
    """Return an answer of the Engine; its errors are {"message": ...}."""
    return Answer(status, {"content-type": "application/json"}, json.dumps(value).encode())


def build_reports(*items: dict[str, Any]) -> Answer:
    """Return the stream of a build."""
    return Answer(200, {"transfer-encoding": "chunked"}, "\r\n".join(map(json.dumps, items)).encode())


def failed_build(mlinfer: MlInfer, engine: LoopbackEngine, *items: dict[str, Any]) -> tuple[int, dict[str, str]]:
    """Return the exit code and the error of a build whose stream has these items."""
    engine.answers["GET /images/"] = as_json(404, {"message": "No such image"})
    engine.answers["POST /build"] = build_reports({"stream": "Step 2/21 : FROM ${BASE} AS dependencies"}, *items)
    run = mlinfer("build", "--json")
    error: dict[str, str] = json.loads(run.out)["error"]
    return run.code, error


HEAD = "unexpected status from HEAD request to https://public.ecr.aws/v2/lambda/python/manifests/3.13:"
GET = 'Get "https://public.ecr.aws/v2/":'
DENIED = "pull access denied for public.ecr.aws/lambda/python, repository does not exist or may require 'docker login':"
PULLS = [
    (f"{DENIED} denied: Your authorization token has expired. Reauthenticate and try again.", "base_image_login", "logout"),
    (f'failed to resolve reference "public.ecr.aws/lambda/python:3.13": {HEAD} 403 Forbidden', "base_image_login", "logout"),
    (f"{HEAD} 401 Unauthorized", "base_image_login", "docker logout public.ecr.aws"),
    ("toomanyrequests: Rate exceeded", "base_image_throttled", "aws ecr-public get-login-password"),
    ("toomanyrequests: Data limit exceeded", "base_image_throttled", "Wait a minute"),
    (f"{HEAD} 429 Too Many Requests", "base_image_throttled", "Wait a minute"),
    (f"{GET} dial tcp: lookup public.ecr.aws on 127.0.0.53:53: no such host", "base_image_unavailable", "docker pull"),
    (f"{GET} context deadline exceeded (Client.Timeout exceeded while awaiting headers)", "base_image_unavailable", "proxy"),
    (f"{GET} net/http: TLS handshake timeout", "base_image_unavailable", "network"),
    (f"{GET} proxyconnect tcp: dial tcp 10.0.0.1:3128: connect: connection refused", "base_image_unavailable", "docker info"),
    (f"{GET} x509: certificate signed by unknown authority", "base_image_unavailable", "trust store"),
    (f"{GET} tls: failed to verify certificate: x509: unknown authority", "base_image_unavailable", "trust store"),
    ("manifest for public.ecr.aws/lambda/python:3.99 not found: manifest unknown", "base_image_unavailable", "gallery.ecr.aws"),
    ("no matching manifest for linux/arm64/v8 in the manifest list entries", "base_image_unavailable", "--arch"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "code", "remedy"), PULLS, ids=[said[-30:] for said, *_ in PULLS])
def test_a_base_image_that_cannot_be_pulled(
    mlinfer: MlInfer, engine: LoopbackEngine, said: str, code: str, remedy: str
) -> None:
    """An expired login, a rate limit, network, proxy, certificate and a wrong name each have a hint."""
    found, error = failed_build(mlinfer, engine, {"errorDetail": {"message": said}, "error": said})
    assert (found, error["code"]) == (4, code)
    assert said in error["message"]
    assert remedy in error["hint"]


def test_a_private_base_image(mlinfer: MlInfer, engine: LoopbackEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a base image in a private ECR, the hint logs in there, not at ECR Public."""
    host = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
    monkeypatch.setenv("MLINFER_BASE_IMAGE", f"{host}/python:3.13")
    said = f"Head https://{host}/v2/python/manifests/3.13: no basic auth credentials"
    code, error = failed_build(mlinfer, engine, {"errorDetail": {"message": said}, "error": said})
    assert (code, error["code"]) == (4, "base_image_login")
    assert f"--password-stdin {host}" in error["hint"]


def test_an_error_without_the_old_field(mlinfer: MlInfer, engine: LoopbackEngine) -> None:
    """A failure that only errorDetail reports, as planned from API 1.48, is a failure."""
    message = "The command '/bin/sh -c python -m pip install' returned a non-zero code: 1"
    code, error = failed_build(mlinfer, engine, {"errorDetail": {"code": 1, "message": message}})
    assert (code, error["code"]) == (4, "build_failed")


def test_a_file_that_is_missing_in_the_context(mlinfer: MlInfer, engine: LoopbackEngine) -> None:
    """In a build, "not found" is not always about the base image."""
    message = (
        "COPY failed: file not found in build context or excluded by .dockerignore: stat slim.py: file does not exist"
    )
    code, error = failed_build(mlinfer, engine, {"errorDetail": {"message": message}, "error": message})
    assert (code, error["code"]) == (4, "build_failed")


PIP = [
    (
        "WARNING: Retrying (Retry(total=4)) after connection broken by 'SSLError(SSLCertVerificationError(1, '[SSL: "
        "CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate in certificate chain",
        "--ca-bundle",
    ),
    ("WARNING: Retrying after connection broken by 'ProxyError('Cannot connect to proxy.', OSError())'", "HTTPS_PROXY"),
    ("WARNING: Retrying after connection broken by 'NewConnectionError: [Errno -3] Temporary failure'", "HTTPS_PROXY"),
]


@pytest.mark.parametrize(("line", "remedy"), PIP, ids=["TLS", "proxy", "no network"])
def test_pip_without_a_way_out(mlinfer: MlInfer, engine: LoopbackEngine, line: str, remedy: str) -> None:
    """If pip cannot reach its index in the build, the hint names the setting to change."""
    message = "The command '/bin/sh -c python -m pip install' returned a non-zero code: 1"
    failure = {"errorDetail": {"code": 1, "message": message}, "error": message}
    code, error = failed_build(mlinfer, engine, {"stream": f"{line}\n"}, failure)
    assert (code, error["code"]) == (4, "build_failed")
    assert remedy in error["hint"]


def test_a_port_that_is_taken_at_the_last_moment(mlinfer: MlInfer, engine: LoopbackEngine) -> None:
    """If two projects start at once on one port, one fails with "port taken" and leaves nothing behind."""
    said = (
        "driver failed programming external connectivity on endpoint x: Bind for 127.0.0.1:9000 failed: port is already "
        "allocated"
    )
    engine.answers["POST /containers/create"] = as_json(201, {"Id": "c1", "Warnings": []})
    engine.answers["POST /containers/c1/start"] = as_json(500, {"message": said})
    engine.answers["DELETE /containers/c1"] = Answer(204)
    engine.answers["GET /containers/c1/json"] = as_json(200, {"Id": "c1", "Name": "/x", "Config": {"Labels": {}}})
    run = mlinfer("run-local", "--detach", "--port", free_port(), "--json")
    assert (run.code, json.loads(run.out)["error"]["code"]) == (3, "port_taken")
    assert "DELETE /containers/c1" in engine.requests


def free_port() -> str:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return str(probe.getsockname()[1])


@pytest.mark.parametrize(
    "said",
    [
        'invalid mount config for type "bind": bind source path does not exist: /somewhere/model.onnx',
        "Mounts denied: \nThe path /somewhere/model.onnx is not shared from the host and is not known to Docker.",
    ],
    ids=["Engine", "Docker Desktop"],
)
def test_a_model_that_the_engine_does_not_see(mlinfer: MlInfer, engine: LoopbackEngine, said: str) -> None:
    """A model in a folder that is not shared with the Engine's machine is refused with a hint."""
    engine.answers["POST /containers/create"] = as_json(400, {"message": said})
    run = mlinfer("run-local", "--detach", "--port", free_port(), "--json")
    error = json.loads(run.out)["error"]
    assert (run.code, error["code"]) == (3, "model_not_shared")
    assert "--model-source image" in error["hint"]


def test_an_engine_that_cannot_limit(mlinfer: MlInfer, engine: LoopbackEngine) -> None:
    """A rootless Engine without delegated cgroups refuses the limits: the hint says what it needs."""
    said = "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted"
    engine.answers["POST /containers/create"] = as_json(400, {"message": said})
    run = mlinfer("run-local", "--detach", "--port", free_port(), "--json")
    error = json.loads(run.out)["error"]
    assert (run.code, error["code"]) == (4, "docker_refused")
    assert "--no-docker" in error["hint"]


def test_a_leftover_of_the_same_name(mlinfer: MlInfer, engine: LoopbackEngine) -> None:
    """A foreign container with our container's name is named, with the command that removes it."""
    said = 'Conflict. The container name "/mlinfer-work-9000" is already in use by container "0123". You have to remove it.'
    engine.answers["POST /containers/create"] = as_json(409, {"message": said})
    run = mlinfer("run-local", "--detach", "--port", free_port(), "--json")
    error = json.loads(run.out)["error"]
    assert (run.code, error["code"]) == (4, "docker_refused")
    assert "docker rm -f mlinfer-work-9000" in error["hint"]


def test_a_container_that_is_stopped_while_it_starts(mlinfer: MlInfer, engine: LoopbackEngine) -> None:
    """`run-local --stop` during a start: the start reports that the container was removed."""
    engine.answers["POST /containers/create"] = as_json(201, {"Id": "c1", "Warnings": []})
    engine.answers["POST /containers/c1/start"] = Answer(204)
    engine.answers["GET /containers/c1/json"] = as_json(404, {"message": "No such container: c1"})
    run = mlinfer("run-local", "--detach", "--port", free_port(), "--json")
    assert (run.code, json.loads(run.out)["error"]["code"]) == (4, "container_crashed")


def test_a_container_that_vanishes_while_it_is_listed(mlinfer: MlInfer, engine: LoopbackEngine) -> None:
    """A container that disappears between list and inspect is skipped."""
    engine.answers["GET /containers/json"] = as_json(200, [{"Id": "gone"}])
    engine.answers["GET /containers/gone/json"] = as_json(404, {"message": "No such container: gone"})
    run = mlinfer("run-local", "--stop", "--json")
    assert (run.code, json.loads(run.out)) == (0, {"stopped": []})


def test_an_engine_that_refuses_everything(mlinfer: MlInfer, engine: LoopbackEngine) -> None:
    """An Engine proxy that refuses requests is not reported as an Engine that does not run."""
    engine.answers["/_ping"] = as_json(403, {"message": "Forbidden by the socket proxy"})
    run = mlinfer("build", "--json")
    error = error_of(run.code, run.out)
    assert (error["code"], "Forbidden by the socket proxy" in error["message"]) == ("docker_refuses", True)


# An Engine on another machine


@pytest.fixture
def remote_engine(engine: LoopbackEngine, monkeypatch: pytest.MonkeyPatch) -> LoopbackEngine:
    """Return an Engine under another machine's name; a proxy on loopback takes its requests."""
    monkeypatch.setenv("HTTP_PROXY", os.environ["DOCKER_HOST"].replace("tcp", "http"))
    monkeypatch.setenv("DOCKER_HOST", "tcp://engine.example:2375")
    for name in ("NO_PROXY", "no_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    return engine


@pytest.mark.parametrize(
    "command", [["run-local", "--detach"], ["run-local"], ["bench", "--target", "local"]], ids=" ".join
)
@pytest.mark.slow
def test_a_remote_engine_runs_no_container(mlinfer: MlInfer, remote_engine: LoopbackEngine, command: list[str]) -> None:
    """A remote Engine cannot mount the model: the command fails before it creates anything."""
    run = mlinfer(*command, "--json")
    error = json.loads(run.out)["error"]
    assert (run.code, error["code"]) == (3, "docker_remote")
    assert "engine.example" in error["message"]
    assert "--no-docker" in error["hint"]
    assert not [request for request in remote_engine.requests if not request.startswith("GET ")]


def test_a_remote_engine_builds(mlinfer: MlInfer, remote_engine: LoopbackEngine) -> None:
    """A remote Engine can build: the build sends everything that it needs."""
    assert mlinfer("build").code == 0
    assert "GET /info" not in remote_engine.requests


def test_doctor_on_a_remote_engine(mlinfer: MlInfer, remote_engine: LoopbackEngine) -> None:
    """`doctor` lists what works with a remote Engine, and does not report the local disk as its disk."""
    remote_engine.facts["DockerRootDir"] = "/"
    found = json.loads(mlinfer("doctor", "--json").out)["findings"]
    described, warned = (item for item in found if item["check"] == "docker")
    assert (described["state"], warned["state"]) == ("ok", "warning")
    assert "engine.example" in warned["finding"]


# A model that is named but not used; one that does not fit


def test_a_model_that_is_not_copied_into_the_container_image(mlinfer: MlInfer, engine: LoopbackEngine) -> None:
    """`build --model` with model_source s3 reports that the image contains no model, and shows no size of it."""
    assert engine
    model = mean_colour(Path("net.onnx"))
    run = mlinfer("build", "--model", model)
    assert run.code == 0
    assert "--model-source image" in run.err
    assert "model 0" not in run.err
    assert "--model-source image" not in mlinfer("build").err


@pytest.mark.parametrize(
    ("model", "code", "name"), [("nope.onnx", 3, "model_not_found"), ("rand.onnx", 2, "invalid_model")]
)
def test_a_path_that_is_not_a_model(mlinfer: MlInfer, engine: LoopbackEngine, model: str, code: int, name: str) -> None:
    """`build --model` refuses a missing or invalid model file, for every model_source."""
    assert engine
    Path("rand.onnx").write_bytes(os.urandom(1000))
    for source in ("s3", "image"):
        run = mlinfer("build", "--model", model, "--model-source", source, "--json")
        assert (run.code, json.loads(run.out)["error"]["code"]) == (code, name)


def test_a_model_that_no_image_holds(mlinfer: MlInfer, engine: LoopbackEngine) -> None:
    """`build` refuses a model that exceeds Lambda's image limit, before it reads the file."""
    model = sparse(Path("huge.onnx"), 10 * 1024 + 1)
    run = mlinfer("build", "--model", model, "--model-source", "image", "--json")
    assert (run.code, json.loads(run.out)["error"]["code"]) == (2, "image_too_large")
    assert {request.split()[0] for request in engine.requests} <= {"GET"}


def test_invalid_certificates(mlinfer: MlInfer, engine: LoopbackEngine) -> None:
    """`--ca-bundle` refuses a missing file and a file that is not PEM."""
    assert engine
    Path("ca.der").write_bytes(b"\x30\x82")
    for name, code, error in (("none.pem", 3, "ca_bundle_not_found"), ("ca.der", 2, "invalid_ca_bundle")):
        run = mlinfer("build", "--ca-bundle", name, "--json")
        assert (run.code, json.loads(run.out)["error"]["code"]) == (code, error)


@pytest.mark.parametrize(
    ("megabytes", "flags", "code"),
    [
        (60, ["--memory", "128"], "memory_too_small"),
        (600, ["--memory", "3008"], "tmp_too_small"),
        (600, ["--memory", "1024", "--model-source", "image"], "memory_too_small"),
    ],
)
def test_a_model_that_does_not_fit(
    mlinfer: MlInfer, engine: LoopbackEngine, megabytes: int, flags: list[str], code: str
) -> None:
    """`run-local` refuses a model that is too large for memory or /tmp, with numbers, before it creates anything."""
    run = mlinfer("run-local", "--detach", "--model", sparse(Path("large.onnx"), megabytes), *flags, "--json")
    error = json.loads(run.out)["error"]
    assert (run.code, error["code"]) == (2, code)
    assert f"{megabytes} MB" in error["message"]
    assert "Set " in error["hint"]
    assert not [request for request in engine.requests if not request.startswith("GET ")]
