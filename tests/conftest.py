"""What the tests share. Nothing here uses a developer's account or configuration, or the network."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import boto3
import botocore.session
import pytest

from devtools import reference
from mlinfer.cli import main

from . import models
from .pictures import encoded, plain
from .servers.aws import ACCOUNT, REGION, LoopbackAws
from .servers.http import served

# Without this cache, botocore would read its service descriptions again for each command that the tests run.
botocore.session.create_loader = cache(botocore.session.create_loader)

SLOW_FIXTURES = {
    "wheel",
    "torchvision",
    "deploy_arguments",
    "run_shell",
}  # built in seconds; loaded in seconds; deployments; programs
HANGS_UP = pytest.mark.skipif(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN, reason="under nohup nothing hangs up")
ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "data" / "golden_text"
LIVE = ROOT / "tests" / "live"
PHOTOS = ROOT.parent / "shared" / "data" / "photos"
CAT = ROOT / "examples" / "cat.jpg"
NO_ENGINE = "tcp://127.0.0.1:9"  # where nothing listens


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that rewrites the golden texts."""
    parser.addoption("--write-golden", action="store_true", help="write tests/data/golden_text again; review the diff")


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test as live, slow or fast, and run tests that share a resource on one worker.

    The tests of tests/live share the Docker Engine and port 80; the tests of the wheel share the wheel. A test is slow if it
    uses one of SLOW_FIXTURES or has the marker.
    """
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if LIVE in item.path.parents:
            item.add_marker("live")
            item.add_marker(pytest.mark.xdist_group("live"))
        elif SLOW_FIXTURES & set(fixtures):
            item.add_marker("slow")
        elif not item.get_closest_marker("slow"):
            item.add_marker("fast")
        if "wheel" in fixtures and LIVE not in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("wheel"))


@dataclass(frozen=True)
class Run:
    """What a user sees of one command."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def empty_folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run each test in an empty folder, without the developer's configuration, credentials and home.

    Only the tests of tests/live find the machine's Docker Engine.
    """
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
        if name.startswith(("MLINFER_", "AWS_")) and not name.startswith("MLINFER_REQUIRE_"):
            monkeypatch.delenv(name)
    if not request.node.get_closest_marker("live"):
        monkeypatch.setenv("DOCKER_HOST", NO_ENGINE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps the credentials of an earlier test
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def mlinfer(capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """Return a function that runs one command through `main(argv)`."""

    def run(*argv: str | Path) -> Run:
        capsys.readouterr()
        code = main([str(a) for a in argv])
        captured = capsys.readouterr()
        return Run(code, captured.out, captured.err)

    return run


@pytest.fixture
def golden_text(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str, Run], None]:
    """Return a function that compares a command's output with the golden text of that name.

    Numbers with a unit of time, dates, hashes, ports and test folders are masked; with `figures=True`, every number
    is.
    """

    def check(name: str, run: Run, *, figures: bool = False) -> None:
        text = f"{run.out}--- stderr, exit code {run.code}\n{run.err}".replace(str(tmp_path), "FOLDER")
        text = re.sub(r"/\S*/pytest-\d+/\S*?/(?=\w+\.onnx)", "FOLDER/", text)
        text = re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?Z?", "TIME", text)
        text = re.sub(r"\b\d+(\.\d+)? (ms|s|min)\b", r"0 \2", text)
        text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", text)
        text = re.sub(r"\b(?!\d+\b)([0-9a-f]{64}|[0-9a-f]{16}|[0-9a-f]{12})\b", "HASH", text)
        text = re.sub(r"onnxruntime: \S+", "onnxruntime: VERSION", text)
        if figures:
            text = re.sub(r"(?m)^machine .*", "machine  MACHINE", text)
            text = re.sub(r"[ ─]{2,}", "  ", re.sub(r"(?<!\w)\d+([.,]\d+)*(?!\w)", "0", text))
        file = GOLDEN / f"{name}.txt"
        if request.config.getoption("--write-golden"):
            file.write_text(text)
        assert text == file.read_text(), f"if this is meant: pytest --write-golden {request.node.nodeid}"

    return check


@pytest.fixture
def photos() -> list[Path]:
    """Return the photographs of the shared data; without them, skip the test, or fail in CI."""
    found = sorted(PHOTOS.glob("*.JPEG"))
    if not found:
        message = "the photographs of ../shared/data/photos are not here"
        pytest.fail(message) if os.environ.get("MLINFER_REQUIRE_PHOTOS") == "1" else pytest.skip(message)
    return found


@pytest.fixture(scope="session")
def torchvision() -> ModuleType:
    """Return torchvision; without it, skip the test, or fail with MLINFER_REQUIRE_TORCH=1."""
    try:
        return reference.torchvision()
    except ModuleNotFoundError as error:
        if os.environ.get("MLINFER_REQUIRE_TORCH") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model file of ten classes that the tests made."""
    return models.mean_colour(tmp_path_factory.mktemp("models") / "tiny.onnx")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel in an empty environment and return the folder of its programs."""
    folder = tmp_path_factory.mktemp("empty") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin" / "pip", "install", "--quiet", "--no-compile", wheel], check=True)
    return folder / "bin"


@pytest.fixture
def red() -> Path:
    """Return red.png, a red picture in the test's folder."""
    path = Path("red.png")
    path.write_bytes(encoded(plain((255, 0, 0)), "PNG"))
    return path


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    """Start moto's S3 on a free loopback port for the session."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(moto_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """Return an empty bucket in an S3 that the environment points to, as it does in Lambda."""
    environment = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_SESSION_TOKEN": "testing",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": moto_endpoint,
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", region_name="us-east-1")
    client.create_bucket(Bucket="pictures")
    bucket = Bucket("pictures", client)
    yield bucket
    for item in client.list_objects_v2(Bucket=bucket.name).get("Contents", []):
        client.delete_object(Bucket=bucket.name, Key=item["Key"])
    client.delete_bucket(Bucket=bucket.name)
    client.close()


@dataclass(frozen=True)
class Bucket:
    """An S3 bucket of the test's own."""

    name: str
    client: object

    def put(self, key: str, content: bytes) -> str:
        """Store an object and return its URI."""
        self.client.put_object(Bucket=self.name, Key=key, Body=content)  # type: ignore[attr-defined]
        return f"s3://{self.name}/{key}"

    def remove(self, key: str) -> None:
        """Delete an object."""
        self.client.delete_object(Bucket=self.name, Key=key)  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def loopback(moto_endpoint: str) -> Iterator[LoopbackAws]:
    """Start the AWS on loopback once per session, because the handler's S3 clients keep its address."""
    with served(LoopbackAws, moto_endpoint) as proxy:
        yield proxy


@pytest.fixture
def cloud(loopback: LoopbackAws, moto_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoopbackAws:
    """Return an empty AWS that the environment points to, with made-up credentials."""
    urllib.request.urlopen(f"{moto_endpoint}/moto-api/reset", data=b"").close()  # noqa: S310
    loopback.reset()
    loopback.cache = tmp_path / "cache"
    environment = {
        "AWS_ACCESS_KEY_ID": "AKIATESTS",
        "AWS_SECRET_ACCESS_KEY": "s3cr3t/Key+Of/The+Tests",
        "AWS_SESSION_TOKEN": "s3ssion-t0ken-of-the-tests",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ENDPOINT_URL": loopback.url,
        "AWS_MAX_ATTEMPTS": "1",
        "MLINFER_PROJECT": "cats",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return loopback


@pytest.fixture
def past(moto_endpoint: str, cloud: LoopbackAws) -> Iterator[Callable[[str], Any]]:
    """Return a function that creates clients which bypass the proxy and see the stored state."""
    assert cloud.calls == []
    with ExitStack() as stack:
        yield lambda service: stack.enter_context(closing(boto3.client(service, endpoint_url=moto_endpoint)))


IMAGE = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/mlinfer/cats@sha256:{'1' * 64}"
OTHER_IMAGE = IMAGE.replace("1" * 64, "2" * 64)


@pytest.fixture
def deploy_arguments(tiny_model: Path) -> list[str]:
    """Return the flags of a deployment of the tiny model."""
    return ["--model", str(tiny_model), "--bucket", "cloud-models", "--create-bucket", "--image", IMAGE]
