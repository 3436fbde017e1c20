"""The real parts as fixtures. What is not here skips a test; MLINFER_REQUIRE_DOCKER=1, as in CI, makes that a failure."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

import pytest

from . import base_image as stand_in
from . import rie as emulator


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


ECHO = """
import os


def handler(event, context):
    if "fail" in event:
        raise ValueError(event["fail"])
    print("heard", event)
    return {"event": event, "uid": os.getuid(), "memory": context.memory_limit_in_mb}
"""
