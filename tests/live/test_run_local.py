"""`mlinfer run-local` and `predict --target local` on the real Engine."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest

from devtools.containers import Function
from devtools.networks import write_state_dict

from ..conftest import CAT, HANGS_UP, ROOT, Run
from ..pictures import encoded, gradient
from .local import Local

MlInfer = Callable[..., Run]

EVENT = ROOT / "examples" / "event.json"
LIMITS = """
import json, os, pathlib

def value(*paths):
    return next(pathlib.Path(p).read_text().split() for p in paths if os.path.exists(p))

def writable(folder):
    try:
        pathlib.Path(folder, "probe").write_text("")
        return True
    except OSError as error:
        return error.errno

cgroup = "/sys/fs/cgroup"
quota = value(f"{cgroup}/cpu.max", f"{cgroup}/cpu/cpu.cfs_quota_us")
period = quota[1:] or value(f"{cgroup}/cpu/cpu.cfs_period_us")
status = dict(line.split(":", 1) for line in open("/proc/1/status"))
disk = os.statvfs("/tmp")
print(json.dumps({
    "memory": int(value(f"{cgroup}/memory.max", f"{cgroup}/memory/memory.limit_in_bytes")[0]),
    "swap": value(f"{cgroup}/memory.swap.max", f"{cgroup}/memory/memory.memsw.limit_in_bytes")[0],
    "cpus": int(quota[0]) / int(period[0]),
    "pids": int(value(f"{cgroup}/pids.max", f"{cgroup}/pids/pids.max")[0]),
    "uid": status["Uid"].split(), "gid": status["Gid"].split(),
    "capabilities": [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "no_new_privileges": int(status["NoNewPrivs"]),
    "tmp": disk.f_blocks * disk.f_frsize,
    "writable": {folder: writable(folder) for folder in ("/tmp", "/var/task", "/var/runtime", "/opt", "/")},
    "environment": {n: v for n, v in os.environ.items() if n.startswith(("AWS_", "MLINFER_", "ORT_", "HOME"))},
}))
"""
READ_ONLY = 30  # EROFS


@contextmanager
def in_the_foreground(*words: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run `mlinfer run-local` as a process until it prints its URL; stop it at the end."""
    command = [sys.executable, "-m", "mlinfer", "run-local", *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        line = process.stdout.readline()
        assert "/2015-03-31/functions/function/invocations" in line, process.communicate()[1]
        yield process
    finally:
        process.kill()
        process.communicate()


def answers(mlinfer: MlInfer, *words: str | Path) -> list[dict[str, Any]]:
    """Return the documents of `predict --json`."""
    run = mlinfer("predict", "--json", *words)
    assert run.code == 0, run.err
    return [json.loads(line) for line in run.out.splitlines()] if run.out.startswith('{"') else [json.loads(run.out)]


def assert_equal_answers(embedded: list[dict[str, Any]], local: list[dict[str, Any]]) -> None:
    """Require the same model and classes in the same order, and scores within 1e-5."""
    assert len(embedded) == len(local) > 0
    for one, other in zip(embedded, local, strict=True):
        assert one["model"] == other["model"]
        assert [p["label"] for p in one["predictions"]] == [p["label"] for p in other["predictions"]]
        assert [p["score"] for p in one["predictions"]] == pytest.approx(
            [p["score"] for p in other["predictions"]], abs=1e-5
        )


# The chain


def test_build_run_predict_stop(mlinfer: MlInfer, local: Local) -> None:
    """The four commands in a row classify the cat and leave nothing behind."""
    assert mlinfer("build").code == 0
    started = mlinfer("run-local", "--detach")
    assert (started.code, started.out) == (0, f"{local.url}\n")
    assert "Ready: starter" in started.err
    assert "mlinfer predict --target local" in started.err
    predicted = mlinfer("predict", "--target", "local", CAT)
    assert predicted.code == 0
    assert predicted.out.split()[0] == "cat"
    assert "target local" in predicted.err
    stopped = mlinfer("run-local", "--stop", "--json")
    assert (stopped.code, json.loads(stopped.out)) == (0, {"stopped": [f"mlinfer-{local.project}-{local.port}"]})
    assert local.containers == []


def test_golden_text(
    mlinfer: MlInfer, local: Local, golden_text: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """run-local shows its URL and how to ask it, and says at the end what it stopped."""
    monkeypatch.setenv("COLUMNS", "200")
    assert mlinfer("build").code == 0
    for name, words in (("run-local", ["--detach"]), ("run-local-stop", ["--stop"])):
        run = mlinfer("run-local", *words)
        masked = [
            text.replace(local.project, "PROJECT").replace(str(local.port), "PORT") for text in (run.out, run.err)
        ]
        golden_text(name, Run(run.code, *masked), figures=True)


def test_the_chain_from_a_wheel(local: Local, installed: Path) -> None:
    """The same commands work from a wheel in an empty environment."""
    shutil.copy(CAT, "cat.jpg")
    chain = "mlinfer build && mlinfer run-local --detach && mlinfer predict --target local cat.jpg && mlinfer run-local --stop"
    settings = {name: value for name, value in os.environ.items() if name.startswith(("MLINFER_", "DOCKER_"))}
    environment = {"PATH": f"{installed}:/usr/bin:/bin", "HOME": str(Path().resolve()), **settings}
    run = subprocess.run(["sh", "-c", chain], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "\ncat " in run.stdout
    assert local.containers == []
    assert [path.name for path in Path().iterdir()] == ["cat.jpg"]


def test_the_example_event(mlinfer: MlInfer, local: Local) -> None:
    """`curl -d @event.json` works on the port as in AWS's documentation."""
    assert mlinfer("run-local", "--detach").code == 0
    url = local.url.replace("127.0.0.1", "localhost")
    said = subprocess.run(["curl", "-sSf", "-d", f"@{EVENT}", url], capture_output=True, check=True).stdout
    answer = json.loads(said)
    assert (answer["statusCode"], answer["body"]["label"], len(answer["body"]["predictions"])) == (200, "cat", 3)


def test_the_curl_line_that_is_shown(mlinfer: MlInfer, local: Local) -> None:
    """The curl command that run-local shows works for the user's own image, in any folder."""
    shutil.copy(CAT, "cat.jpg")
    started = mlinfer("run-local", "--detach")
    (line,) = [line for line in started.err.splitlines() if "curl" in line]
    said = subprocess.run(["sh", "-c", line.partition("or:")[2]], capture_output=True, check=True).stdout
    assert json.loads(said)["body"]["label"] == "cat"
    assert local.containers


def test_a_model_with_a_colon_in_its_path(mlinfer: MlInfer, local: Local, tiny_model: Path) -> None:
    """A model path with a colon, a comma, a space and a quote is mounted."""
    folder = Path("a:b, 'c' \"d\":ro")
    folder.mkdir()
    model = folder / "my:model.onnx"
    shutil.copy(tiny_model, model)
    run = mlinfer("run-local", "--detach", "--model", model)
    assert run.code == 0, run.err
    (mount,) = local.containers[0].attrs["Mounts"]
    assert (mount["Source"], mount["RW"]) == (str(model.resolve()), False)


# Limits


def test_limits_are_applied(mlinfer: MlInfer, local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    """The container has the configured memory, CPU share and /tmp, Lambda's user, and no other rights."""
    monkeypatch.setenv("MLINFER_TMP", "600")
    assert mlinfer("run-local", "--detach", "--memory", "884", "--timeout", "7").code == 0
    found = json.loads(local.inside(LIMITS))
    assert found["memory"] == 884 * 2**20
    assert found["swap"] in ("0", str(884 * 2**20))  # cgroup v2: of swap alone; v1: of memory and swap
    assert found["cpus"] == pytest.approx(884 / 1769, abs=0.01)
    assert found["pids"] == 1024
    assert (set(found["uid"]), set(found["gid"])) == ({"993"}, {"990"})
    assert found["capabilities"] == [0, 0, 0, 0, 0]
    assert found["no_new_privileges"] == 1
    assert found["tmp"] == 600 * 2**20
    places = {"/var/task": READ_ONLY, "/var/runtime": READ_ONLY, "/opt": READ_ONLY, "/": READ_ONLY}
    assert found["writable"] == {"/tmp": True, **places}
    environment = found["environment"]
    assert environment["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "884"
    assert environment["AWS_LAMBDA_FUNCTION_TIMEOUT"] == "7"
    assert (environment["ORT_DISABLE_TELEMETRY"], environment["HOME"]) == ("1", "/tmp")
    assert not [name for name in environment if "KEY" in name or "TOKEN" in name]
    (container,) = local.containers
    assert container.attrs["NetworkSettings"]["Ports"]["8080/tcp"] == [
        {"HostIp": "127.0.0.1", "HostPort": str(local.port)}
    ]


def test_more_than_the_machine_has_is_noted(mlinfer: MlInfer, local: Local) -> None:
    """If the machine has fewer cores than the function, a note says so."""
    cores = local.engine.info()["NCPU"]
    if cores >= 6:
        pytest.skip("this machine has all the cores that Lambda can give")
    run = mlinfer("run-local", "--detach", "--memory", "10240")
    assert run.code == 0
    assert f"this machine has {cores} cores" in run.err
    assert json.loads(local.inside(LIMITS))["cpus"] == cores


# Answers


def test_answers_equal_the_embedded_target(mlinfer: MlInfer, photos: list[Path], local: Local) -> None:
    """For every photograph, the container answers as this process does."""
    assert mlinfer("run-local", "--detach").code == 0
    assert local.containers
    words: list[str | Path] = ["--top-k", "10", *photos]
    assert_equal_answers(answers(mlinfer, *words), answers(mlinfer, "--target", "local", *words))


@pytest.mark.usefixtures("torchvision")
def test_answers_of_a_resnet18(mlinfer: MlInfer, photos: list[Path], local: Local, tmp_path: Path) -> None:
    """The same is true for a ResNet-18 with a thousand classes and made-up weights."""
    weights = write_state_dict("resnet18", tmp_path / "weights.pth", photos[:8])
    model = Path("models/resnet18.onnx")
    assert mlinfer("export", "resnet18", "--weights", weights).code == 0
    assert mlinfer("run-local", "--detach", "--model", model).code == 0
    assert local.containers
    words: list[str | Path] = ["--model", model, *photos]
    assert_equal_answers(answers(mlinfer, *words), answers(mlinfer, "--target", "local", *words))


# Running containers and ports


def test_already_running(mlinfer: MlInfer, local: Local) -> None:
    """A second start leaves the container as it is; other flags replace it."""
    first = mlinfer("run-local", "--detach", "--json")
    (container,) = local.containers
    again = mlinfer("run-local", "--detach", "--json")
    assert [json.loads(run.out)["outcome"] for run in (first, again)] == ["created", "unchanged"]
    assert "Already running" in again.err
    assert [c.id for c in local.containers] == [container.id]
    other = mlinfer("run-local", "--detach", "--memory", "900", "--json")
    assert json.loads(other.out)["outcome"] == "created"
    (replaced,) = local.containers
    assert replaced.id != container.id
    assert replaced.attrs["HostConfig"]["Memory"] == 900 * 2**20


def test_the_document(mlinfer: MlInfer, local: Local) -> None:
    """`--json` gives the container, its URL and the model."""
    document = json.loads(mlinfer("run-local", "--detach", "--json").out)
    starter = hashlib.sha256((ROOT / "mlinfer" / "starter.onnx").read_bytes()).hexdigest()
    assert document == {
        "name": f"mlinfer-{local.project}-{local.port}",
        "url": local.url,
        "model": {"name": "starter", "sha256": starter, "labels": 10},
        "outcome": "created",
    }


def test_a_port_that_a_program_has(mlinfer: MlInfer, local: Local) -> None:
    """A taken port names the program; another port works, and predict can use it."""
    with socket.create_server(("127.0.0.1", local.port)):
        run = mlinfer("run-local", "--detach", "--json")
        error = json.loads(run.out)["error"]
        assert (run.code, error["code"]) == (3, "port_taken")
        assert f"port {local.port} is in use by" in error["message"]
        assert f"(process {os.getpid()})" in error["message"]
        assert "--port" in error["hint"]
        assert local.containers == []
        with socket.create_server(("127.0.0.1", 0)) as probe:
            other = probe.getsockname()[1]
        assert mlinfer("run-local", "--detach", "--port", other).code == 0
        assert mlinfer("predict", "--target", "local", "--port", other, CAT).code == 0


def test_a_port_that_another_container_has(mlinfer: MlInfer, local: Local, echo_image: str) -> None:
    """A port of a foreign container names it and leaves it alone."""
    ports = {"8080/tcp": ("127.0.0.1", local.port)}
    foreign = local.engine.containers.run(echo_image, detach=True, ports=ports)
    try:
        run = mlinfer("run-local", "--detach", "--json")
        error = json.loads(run.out)["error"]
        assert (run.code, error["code"]) == (3, "port_taken")
        assert f"container {foreign.name}" in error["message"]
        assert f"docker rm -f {foreign.name}" in error["hint"]
        assert mlinfer("run-local", "--stop").code == 0
        foreign.reload()
        assert foreign.status == "running"
    finally:
        foreign.remove(force=True)


def test_a_port_that_another_project_has(mlinfer: MlInfer, local: Local, echo_image: str) -> None:
    """A port of another project's container gives the command that stops it, and that command works."""
    other = f"{local.project}-b"
    labels = {"mlinfer.project": other, "mlinfer.run-local": "x"}
    ports = {"8080/tcp": ("127.0.0.1", local.port)}
    foreign = local.engine.containers.run(echo_image, detach=True, ports=ports, labels=labels)
    try:
        error = json.loads(mlinfer("run-local", "--detach", "--json").out)["error"]
        assert error["code"] == "port_taken"
        assert f"project {other}" in error["message"]
        assert f"mlinfer run-local --stop --project {other}" in error["hint"]
        run = mlinfer("run-local", "--stop", "--project", other, "--json")
        assert json.loads(run.out)["stopped"] == [foreign.name]
    finally:
        for left in local.engine.containers.list(all=True, filters={"id": foreign.id}):
            left.remove(force=True)


def test_only_our_own_containers_are_touched(mlinfer: MlInfer, local: Local, echo_image: str) -> None:
    """A container of another project, or one with only the project's label, is not stopped."""
    labels = [{"mlinfer.project": "another", "mlinfer.run-local": "x"}, {"mlinfer.project": local.project}]
    others = [local.engine.containers.run(echo_image, detach=True, labels=each) for each in labels]
    try:
        assert mlinfer("run-local", "--detach").code == 0
        assert mlinfer("run-local", "--stop").code == 0
        for container in others:
            container.reload()
            assert container.status == "running"
    finally:
        for container in others:
            container.remove(force=True)


def test_nothing_to_stop(mlinfer: MlInfer, local: Local) -> None:
    """`--stop` without a container succeeds, with a note."""
    run = mlinfer("run-local", "--stop")
    assert (run.code, "No container of this project is running." in run.err) == (0, True)
    assert local.containers == []


def test_nothing_runs(mlinfer: MlInfer, local: Local) -> None:
    """If nothing listens, predict --target local names the command to start."""
    run = mlinfer("predict", "--target", "local", CAT, "--json")
    error = json.loads(run.out)["error"]
    assert (run.code, error["code"]) == (3, "not_running")
    assert "mlinfer run-local --detach" in error["hint"]
    assert local.containers == []


def test_something_else_listens(mlinfer: MlInfer, local: Local, moto_endpoint: str) -> None:
    """If the port answers but is not a function, predict says so."""
    port = moto_endpoint.rpartition(":")[2]
    run = mlinfer("predict", "--target", "local", "--port", port, CAT, "--json")
    assert (run.code, json.loads(run.out)["error"]["code"]) == (4, "no_function")
    assert local.containers == []


# The end


@pytest.mark.parametrize(
    ("sent", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), pytest.param(signal.SIGHUP, 129, marks=HANGS_UP)],
    ids=["Ctrl-C", "kill", "closed terminal"],
)
def test_the_foreground_ends_in_order(mlinfer: MlInfer, local: Local, sent: signal.Signals, code: int) -> None:
    """In the foreground, the handler's log is shown; Ctrl-C, SIGTERM and SIGHUP remove the container."""
    assert mlinfer("build").code == 0
    with in_the_foreground() as process:
        assert len(local.containers) == 1
        assert mlinfer("predict", "--target", "local", CAT).code == 0
        assert process.stderr
        said = ""
        while '"outcome": "ok"' not in said or '"label": "cat"' not in said:
            said += process.stderr.readline()
        process.send_signal(sent)
        rest = process.stderr.read()
        assert process.wait(timeout=20) == code
    assert "Traceback" not in said + rest
    assert "(rapid)" not in said + rest
    assert local.containers == []


def test_a_container_that_is_removed_by_another(mlinfer: MlInfer, local: Local) -> None:
    """The foreground exits with an error if the container is removed from outside."""
    assert mlinfer("build").code == 0
    with in_the_foreground("--json") as process:
        (container,) = local.containers
        container.remove(force=True)
        out, said = process.communicate(timeout=20)
        assert process.returncode == 4
    error = json.loads(out)["error"]
    assert error["code"] == "container_crashed"
    assert "removed" in error["message"]
    # Only our tracebacks: a program in the container can print one if the emulator is killed before it.
    assert "mlinfer/cli/" not in said
    assert "mlinfer/__main__" not in said


def test_two_starts_at_once(mlinfer: MlInfer, local: Local) -> None:
    """Of two `mlinfer run-local --detach` at once, one starts the container and the other finds it running."""
    assert mlinfer("build").code == 0
    command = [sys.executable, "-m", "mlinfer", "run-local", "--detach", "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def start(_: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(start, range(2)))
    assert [run.returncode for run in runs] == [0, 0], runs
    assert sorted(json.loads(run.stdout)["outcome"] for run in runs) == ["created", "unchanged"]
    assert len(local.containers) == 1


def test_a_lock_that_cannot_be_opened(
    mlinfer: MlInfer, local: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the port's lock cannot be opened, the error says so."""
    lock = tmp_path / f"mlinfer-{local.port}.{os.getuid()}.lock"
    lock.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for command in (["run-local", "--detach"], ["predict", "--target", "local", CAT]):
        run = mlinfer(*command, "--json")
        error = json.loads(run.out)["error"]
        assert (run.code, error["code"], str(lock) in error["message"]) == (3, "cannot_write", True)
    assert local.containers == []


# A model from S3


@pytest.fixture
def s3(gateway: str, local: Local, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start moto's S3 on the bridge address, where containers reach it; return a client."""
    from moto.server import ThreadedMotoServer

    assert local.port
    server = ThreadedMotoServer(ip_address=gateway, port=0, verbose=False)
    server.start()
    settings = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port()),
        "MLINFER_BUCKET": f"models-{uuid4().hex[:12]}",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    client = boto3.Session().client("s3")
    yield client
    client.close()
    server.stop()


def test_the_model_from_s3(mlinfer: MlInfer, local: Local, s3: Any, tiny_model: Path, red: Path) -> None:
    """`--from-s3` lets the function download the uploaded model, with the credentials that boto3 finds."""
    assert s3
    assert mlinfer("upload", tiny_model, "--create-bucket").code == 0
    run = mlinfer("run-local", "--detach", "--from-s3", "--model", tiny_model)
    assert run.code == 0, run.err
    assert local.containers[0].attrs["Mounts"] == []
    sha256 = hashlib.sha256(tiny_model.read_bytes()).hexdigest()
    assert json.loads(local.inside("import json, os; print(json.dumps(os.listdir('/tmp/mlinfer')))")) == [
        f"{sha256}.onnx"
    ]
    (answer,) = answers(mlinfer, "--target", "local", red)
    assert (answer["label"], answer["model"]["sha256"]) == ("red", sha256)


def test_a_model_that_is_not_in_s3(mlinfer: MlInfer, local: Local, s3: Any, tiny_model: Path) -> None:
    """Without an upload, the error names the missing object, and no container stays."""
    s3.create_bucket(Bucket=os.environ["MLINFER_BUCKET"])
    run = mlinfer("run-local", "--detach", "--from-s3", "--model", tiny_model, "--json")
    error = json.loads(run.out)["error"]
    assert (run.code, error["code"]) == (4, "function_failed")
    assert f"s3://{os.environ['MLINFER_BUCKET']}/" in error["message"]
    assert local.containers == []


def test_another_object_under_the_models_key(mlinfer: MlInfer, local: Local, s3: Any, tiny_model: Path) -> None:
    """An object with another hash than the model is refused with both hashes."""
    assert mlinfer("upload", tiny_model, "--create-bucket").code == 0
    bucket = os.environ["MLINFER_BUCKET"]
    key = s3.list_objects_v2(Bucket=bucket)["Contents"][0]["Key"]
    s3.put_object(Bucket=bucket, Key=key, Body=b"something else")
    run = mlinfer("run-local", "--detach", "--from-s3", "--model", tiny_model, "--json")
    error = json.loads(run.out)["error"]
    assert (run.code, error["code"]) == (4, "function_failed")
    assert hashlib.sha256(b"something else").hexdigest() in error["message"]
    assert local.containers == []


def test_requirements_of_from_s3(mlinfer: MlInfer, local: Local, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing bucket, credentials or reachable endpoint is reported before anything starts."""
    assert s3
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    loopback = json.loads(mlinfer("run-local", "--detach", "--from-s3", "--json").out)["error"]
    assert (loopback["code"], "loopback" in loopback["message"]) == ("invalid_aws_setting", True)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert json.loads(mlinfer("run-local", "--from-s3", "--json").out)["error"]["code"] == "no_credentials"
    monkeypatch.delenv("MLINFER_BUCKET")
    both = json.loads(mlinfer("run-local", "--from-s3", "--json").out)["error"]
    assert both["code"] == "several_missing"
    assert all(name in both["message"] for name in ("bucket", "credentials"))
    assert local.containers == []


def test_a_container_of_another_project(
    mlinfer: MlInfer, local: Local, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container of another project or with another model is refused: exit code 5."""
    assert mlinfer("run-local", "--detach").code == 0
    other = mlinfer("predict", "--target", "local", CAT, "--model", tiny_model, "--json")
    assert (other.code, json.loads(other.out)["error"]["code"]) == (5, "another_model")
    monkeypatch.setenv("MLINFER_PROJECT", "another")
    run = mlinfer("predict", "--target", "local", CAT, "--json")
    assert (run.code, json.loads(run.out)["error"]["code"]) == (5, "another_project")
    assert local.project in run.err


# Without Docker


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Function]:
    """Run `mlinfer run-local --no-docker` on a free port, without an Engine."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    monkeypatch.setenv("MLINFER_PORT", str(port))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with in_the_foreground("--no-docker") as process:
        yield Function(f"http://127.0.0.1:{port}")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130


def test_no_docker_serves_the_same_url(mlinfer: MlInfer, served: Function) -> None:
    """Without Docker, predict --target local and curl get the same answers from a local process."""
    assert_equal_answers(answers(mlinfer, CAT), answers(mlinfer, "--target", "local", CAT))
    url = f"{served.url}/2015-03-31/functions/function/invocations"
    said = subprocess.run(["curl", "-sSf", "-d", f"@{EVENT}", url], capture_output=True, check=True).stdout
    assert json.loads(said)["body"]["label"] == "cat"
    assert served.get("/") == 404


def test_no_docker_with_many_clients(served: Function) -> None:
    """Parallel clients are answered one after another."""
    event = json.loads(EVENT.read_text())
    with ThreadPoolExecutor(8) as clients:
        found = list(clients.map(served.invoke, [event] * 24))
    assert {answer["body"]["label"] for answer in found} == {"cat"}


def test_no_docker_keeps_lambdas_limit(mlinfer: MlInfer, served: Function) -> None:
    """A request over 6 MB is refused as in Lambda; predict reduces its image first."""
    connection = http.client.HTTPConnection(served.url.removeprefix("http://"), timeout=30)
    connection.putrequest("POST", "/2015-03-31/functions/function/invocations")
    connection.putheader("Content-Length", str(7 * 2**20))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()
    Path("large.png").write_bytes(encoded(gradient(1900, 1500), "PNG", compress_level=0))
    run = mlinfer("predict", "--target", "local", "large.png", "--json")
    assert run.code == 0
    assert "Resized large.png to" in run.err


def test_no_docker_and_a_taken_port(mlinfer: MlInfer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Docker, a taken port also names the program."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("MLINFER_PORT", str(taken.getsockname()[1]))
        run = mlinfer("run-local", "--no-docker", "--json")
        assert (run.code, json.loads(run.out)["error"]["code"]) == (3, "port_taken")


def test_a_client_that_says_nothing(served: Function) -> None:
    """A client that breaks off its request does not block others."""
    host, port = served.url.removeprefix("http://").split(":")
    for _ in range(3):
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"POST /2015-03-31/functions/function/invocations HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
    threads = [threading.Thread(target=served.get, args=("/",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert served.invoke(json.loads(EVENT.read_text()))["statusCode"] == 200
