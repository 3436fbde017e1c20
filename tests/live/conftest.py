"""Fixtures with real services. A missing one skips the test, or fails it with MLINFER_REQUIRE_DOCKER=1, as in CI."""

from __future__ import annotations

import gc
import ipaddress
import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

import pytest

from devtools import base_image as stand_in
from devtools import emulation
from devtools import rie as emulator

from .. import images
from ..conftest import ROOT
from ..servers import ministack as emulated_aws
from ..servers import registry as docker_registry
from . import hosts
from .local import Local


def miss(reason: str) -> NoReturn:
    """Skip the test, or fail it if the real services are required."""
    if os.environ.get("MLINFER_REQUIRE_DOCKER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def fetching(what: str) -> Iterator[None]:
    """Skip the test, or fail it, if a package cannot be downloaded."""
    try:
        yield
    except subprocess.CalledProcessError as error:
        miss(f"{what} is not available: {error}")


@pytest.fixture(scope="session")
def engine() -> Iterator[Any]:
    """Return a Docker SDK client of the Engine."""
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
    """Return the name of Lambda's base image, after adding its stand-in to the Engine; it stays for the next run."""
    if reason := emulator.unsupported():
        miss(reason)
    with fetching("the packages of the base image's stand-in"):
        return stand_in.ensure_base_image(engine)


@pytest.fixture(scope="session")
def arm64_base_image(engine: Any, base_image: str) -> str:
    """Return the name of Lambda's base image for arm64; without an emulator of arm64, the test is skipped also in CI."""
    assert base_image
    if reason := emulation.unavailable():
        pytest.skip(reason)
    with fetching("the packages of the base image's stand-in"):
        return stand_in.ensure_base_image(engine, arch="arm64")


@pytest.fixture(scope="session")
def rie() -> Path:
    """Return the path of AWS's Runtime Interface Emulator, to run a handler without Docker."""
    if reason := emulator.unsupported():
        miss(reason)
    with fetching("the emulator"):
        return emulator.ensure_rie()


@pytest.fixture(scope="session")
def label(engine: Any) -> Iterator[str]:
    """Return a label of this run; containers and images with it are removed at the end.

    A container has the labels of its image, so every container of such an image is found.
    """
    label = f"mlinfer.test={uuid4().hex}"
    yield label
    for container in engine.api.containers(all=True, filters={"label": label}):
        engine.api.remove_container(container["Id"], force=True, v=True)
    for image in engine.api.images(filters={"label": label}):
        engine.api.remove_image(image["Id"], force=True)


@pytest.fixture(scope="session")
def echo_image(engine: Any, base_image: str, label: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return an image whose handler, app.handler, returns the event and its user."""
    folder = tmp_path_factory.mktemp("echo")
    (folder / "app.py").write_text(ECHO)
    (folder / "Dockerfile").write_text(f'FROM {base_image}\nCOPY app.py ./\nCMD ["app.handler"]\n')
    name, value = label.split("=")
    tag = f"mlinfer-test-echo:{value[:12]}"
    engine.images.build(path=str(folder), tag=tag, labels={name: value}, forcerm=True)
    return tag


@pytest.fixture(scope="session")
def project(engine: Any) -> Iterator[str]:
    """Return a project of this run; its images are removed at the end. The Engine keeps the layers for the next run."""
    project = f"test-{uuid4().hex[:12]}"
    yield project
    for image in engine.images.list(filters={"label": f"mlinfer.project={project}"}):
        engine.api.remove_image(image.id, force=True, noprune=True)


@pytest.fixture
def local(engine: Any, base_image: str, project: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Local]:
    """Configure the project and a free port for `mlinfer`; the project's containers are removed at the end."""
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


@pytest.fixture(scope="session")
def gateway(engine: Any) -> str:
    """Return this machine's address as containers see it."""
    network = engine.networks.get("bridge").attrs["IPAM"]["Config"][0]
    return str(network.get("Gateway") or ipaddress.ip_network(network["Subnet"])[1])


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Return a copy of the package and the image's files, for a test that changes them."""
    folder = tmp_path / "package"
    for name in ("mlinfer", "lambda_src", "docker"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="session")
def small_image(engine: Any, label: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the name of a small image with what the check before a push needs."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "files.tar").write_bytes(images.tar_of([*images.BASE, *images.CODE]))
    start, command = json.dumps(images.SETTINGS["Entrypoint"]), json.dumps(images.SETTINGS["Cmd"])
    (folder / "Dockerfile").write_text(f"FROM scratch\nADD files.tar /\nENTRYPOINT {start}\nCMD {command}\n")
    name, value = label.split("=")
    tag = f"mlinfer-test-small:{value[:12]}"
    engine.images.build(path=str(folder), tag=tag, labels={name: value}, forcerm=True)
    return tag


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[docker_registry.Registry]:
    """Return an empty registry on a free loopback port, with a password."""
    if reason := docker_registry.unsupported():
        miss(reason)
    with docker_registry.serving(tmp_path, password=secrets.token_hex()) as server:
        yield server


@pytest.fixture(scope="session")
def ecr_hosts() -> Iterator[dict[str, hosts.EcrHost]]:
    """Return the ECRs of two made-up accounts, for moto and for ministack; parallel runs get others."""
    if reason := hosts.unsupported():
        miss(reason)
    accounts = random.sample(range(10**11, 10**12), 2)
    found = {
        name: hosts.EcrHost(str(account), hosts.loopback_address())
        for name, account in zip(("moto", "ministack"), accounts, strict=True)
    }
    with hosts.named(*found.values()):
        yield found


@pytest.fixture(scope="session")
def moto_registry_server(
    ecr_hosts: dict[str, hosts.EcrHost], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[hosts.EcrHost, docker_registry.Registry]]:
    """Return the ECR of moto's account, and the registry there."""
    if reason := docker_registry.unsupported():
        miss(reason)
    ecr = ecr_hosts["moto"]
    folder = tmp_path_factory.mktemp("registry")
    with docker_registry.serving(folder, f"{ecr.account}-auth-token", ecr.address, 80) as server:
        yield ecr, replace(server, host=ecr.name)


@pytest.fixture
def moto_registry(
    moto_registry_server: tuple[hosts.EcrHost, docker_registry.Registry], monkeypatch: pytest.MonkeyPatch
) -> docker_registry.Registry:
    """Return the registry that moto's ECR names; only moto's token opens it."""
    ecr, server = moto_registry_server
    monkeypatch.setenv("MOTO_ACCOUNT_ID", ecr.account)  # moto's server, in this process, looks at each request
    return server


@pytest.fixture(scope="session")
def ministack_server(
    engine: Any, ecr_hosts: dict[str, hosts.EcrHost], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[emulated_aws.Ministack]:
    """Return an emulated AWS whose Lambda uses the Engine; no environment points to it yet."""
    with fetching("ministack"):
        emulated_aws.ensure_environment()
    with emulated_aws.serving(engine, tmp_path_factory.mktemp("ministack"), ecr_hosts["ministack"]) as server:
        yield server


@pytest.fixture
def ministack(
    ministack_server: emulated_aws.Ministack, monkeypatch: pytest.MonkeyPatch
) -> Iterator[emulated_aws.Ministack]:
    """Return an empty emulated AWS, and point the environment of this test to it."""
    for name, value in ministack_server.environment.items():
        monkeypatch.setenv(name, value)
    yield ministack_server
    ministack_server.reset()


ECHO = """
import os
import urllib.request


def handler(event, context):
    if "get" in event:
        with urllib.request.urlopen(os.environ["AWS_ENDPOINT_URL"] + event["get"], timeout=10) as answer:
            return {"content": answer.read().decode()}
    if "fail" in event:
        raise ValueError(event["fail"])
    print("heard", event)
    return {"event": event, "uid": os.getuid(), "memory": context.memory_limit_in_mb}
"""
