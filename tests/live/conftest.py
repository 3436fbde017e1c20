"""The real parts as fixtures. What is not here skips a test; MLINFER_REQUIRE_DOCKER=1, as in CI, makes that a failure."""

from __future__ import annotations

import gc
import os
import shutil
import socket
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

import pytest

from mlinfer.container import INVOCATIONS

from ..conftest import ROOT
from . import base_image as stand_in
from . import rie as emulator
from .containers import Function


def miss(reason: str) -> NoReturn:
    """Skip the test, or fail it where the real parts are required."""
    if os.environ.get("MLINFER_REQUIRE_DOCKER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def engine() -> Iterator[Any]:
    """Return a client of the Docker Engine, of the docker SDK."""
    import docker
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    client, reason = None, ""
    try:
        client = docker.from_env(timeout=120)
    except (DockerException, RequestException) as error:
        reason = f"no Docker Engine answers: {error}"
    if client is None:
        with warnings.catch_warnings():  # the SDK does not close a socket that does not connect
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        miss(reason)
    yield client
    client.close()


@pytest.fixture(scope="session")
def base_image(engine: Any) -> str:
    """Return the name of Lambda's base image, whose stand-in the Engine has from now on; it stays for the next run."""
    if reason := emulator.unsupported():
        miss(reason)
    return stand_in.ensure_base_image(engine)


@pytest.fixture(scope="session")
def rie() -> Path:
    """Return the path of AWS's Runtime Interface Emulator, to run a handler without Docker."""
    if reason := emulator.unsupported():
        miss(reason)
    return emulator.ensure_rie()


@pytest.fixture(scope="session")
def label(engine: Any) -> Iterator[str]:
    """Return a label of this run; at the end the containers and the images that have it are removed.

    A container has the labels of its image: whoever started one from an image with the label, it is found.
    """
    label = f"mlinfer.test={uuid4().hex}"
    yield label
    for container in engine.containers.list(all=True, filters={"label": label}):
        container.remove(force=True, v=True)
    for image in engine.images.list(filters={"label": label}):
        engine.images.remove(image.id, force=True)


@pytest.fixture(scope="session")
def echo_image(engine: Any, base_image: str, label: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the name of an image on the base image whose handler, app.handler, answers with the event and its user."""
    folder = tmp_path_factory.mktemp("echo")
    (folder / "app.py").write_text(ECHO)
    (folder / "Dockerfile").write_text(f'FROM {base_image}\nCOPY app.py ./\nCMD ["app.handler"]\n')
    name, value = label.split("=")
    tag = f"mlinfer-test-echo:{value[:12]}"
    engine.images.build(path=str(folder), tag=tag, labels={name: value}, rm=True)
    return tag


@dataclass(frozen=True)
class Local:
    """What `mlinfer build` and `mlinfer run-local` make for the tests' project, on a port that was free."""

    engine: Any
    project: str
    port: int

    @property
    def url(self) -> str:
        """Return the URL that events are posted to."""
        return f"http://127.0.0.1:{self.port}{INVOCATIONS}"

    @property
    def function(self) -> Function:
        """Return the function behind the port."""
        return Function(f"http://127.0.0.1:{self.port}")

    @property
    def containers(self) -> list[Any]:
        """Return the project's containers, of the docker SDK; ended ones too."""
        found: list[Any] = self.engine.containers.list(all=True, filters={"label": f"mlinfer.project={self.project}"})
        return found

    def inside(self, code: str) -> str:
        """Run Python code in the one container as a process beside the function's, and return what it writes."""
        (container,) = self.containers
        code_of_it, said = container.exec_run(["/var/lang/bin/python", "-c", code])
        assert code_of_it == 0, said
        text: str = said.decode()
        return text

    def layers(self, tag: str) -> list[str]:
        """Return the digests of an image's layers, the base's first."""
        found: list[str] = self.engine.images.get(tag).attrs["RootFS"]["Layers"]
        return found


@pytest.fixture(scope="session")
def project(engine: Any) -> Iterator[str]:
    """Return a project of this run alone; at the end its images are removed. The Engine keeps the layers for the next run."""
    project = f"test-{uuid4().hex[:12]}"
    yield project
    for image in engine.images.list(filters={"label": f"mlinfer.project={project}"}):
        engine.api.remove_image(image.id, force=True, noprune=True)


@pytest.fixture
def local(engine: Any, base_image: str, project: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Local]:
    """Configure the tests' project and a free port for `mlinfer`; at the end the project's containers are removed."""
    assert base_image
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    monkeypatch.setenv("MLINFER_PROJECT", project)
    monkeypatch.setenv("MLINFER_PORT", str(port))
    local = Local(engine, project, port)
    yield local
    for container in local.containers:
        container.remove(force=True, v=True)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Return a folder with a copy of the package and the image's files, for a test that changes them."""
    folder = tmp_path / "package"
    for name in ("mlinfer", "lambda_src", "docker"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


ECHO = """
import os


def handler(event, context):
    if "fail" in event:
        raise ValueError(event["fail"])
    print("heard", event)
    return {"event": event, "uid": os.getuid(), "memory": context.memory_limit_in_mb}
"""
