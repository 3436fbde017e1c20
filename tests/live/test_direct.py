"""An image that no Engine has built: the same files as the Engine's, pushed by ECR's API, and run by an emulated Lambda."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
import requests

from mlinfer.container_image.layers import LayerReader

from ..conftest import CAT, Run
from ..servers import registry as docker_registry
from ..servers.ecr import OPERATIONS, StrictEcr
from ..servers.http import Answer, LoopbackS3, Request, served
from ..servers.ministack import Ministack
from .conftest import miss
from .local import Local

MlInfer = Callable[..., Run]
BUCKET = "direct-models"


@pytest.fixture(scope="session")
def public_base(engine: Any, base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the name of the base image in a registry that needs no login."""
    if reason := docker_registry.unsupported():
        miss(reason)
    with docker_registry.serving(tmp_path_factory.mktemp("public"), "") as server:
        name = f"{server.host}/lambda/python"
        engine.images.get(base_image).tag(name, "3.13")
        try:
            said = list(engine.api.push(name, tag="3.13", stream=True, decode=True))
        finally:
            engine.images.remove(f"{name}:3.13")
        assert "error" not in said[-1], said[-1]
        yield f"{name}:3.13"


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache folder for all tests of this module."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def direct(local: Local, public_base: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Local:
    """Configure the project to be built without an Engine."""
    monkeypatch.setenv("MLINFER_BUILDER", "direct")
    monkeypatch.setenv("MLINFER_BASE_IMAGE", public_base)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return local


Files = dict[str, tuple[str, int, int, int, str]]


def files_of(layers: list[bytes]) -> Files:
    """Return type, mode, owner and content of each file of some layers."""
    found: Files = {}
    for layer in layers:
        for member in LayerReader(io.BytesIO(layer), compressed=layer.startswith(b"\x1f\x8b")).members():
            info, digest = member.info, hashlib.sha256(member.content()).hexdigest()
            found[member.name.rstrip("/")] = (info.type.decode(), info.mode & 0o7777, info.uid, info.gid, digest)
    return found


def content_of(archive: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """Return the configuration and the layers of an archive."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:

        def read(name: str) -> bytes:
            file = tar.extractfile(name)
            assert file
            return file.read()

        (described,) = json.loads(read("manifest.json"))
        return json.loads(read(described["Config"])), [read(name) for name in described["Layers"]]


def test_the_same_files_as_the_engine_makes(
    mlinfer: MlInfer, direct: Local, monkeypatch: pytest.MonkeyPatch, base_image: str
) -> None:
    """Both builders give the same paths, types, modes, owners and bytes, byte-code included, and the same settings."""
    run = mlinfer("build", "--output", "image.tar", "--json")
    assert run.code == 0, run.err
    config, layers = content_of(Path("image.tar").read_bytes())
    monkeypatch.setenv("MLINFER_BUILDER", "docker")
    monkeypatch.setenv("MLINFER_BASE_IMAGE", base_image)
    built = mlinfer("build", "--json")
    assert built.code == 0, built.err
    saved = b"".join(direct.engine.images.get(json.loads(built.out)["tag"]).save())
    expected, engine_layers = content_of(saved)
    ours, theirs = files_of(layers[-3:]), files_of(engine_layers[-3:])
    assert set(ours.keys() ^ theirs.keys()) == set()
    assert {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]} == {}
    assert len([name for name in ours if name.endswith(".pyc")]) > 20
    for key in ("Entrypoint", "Cmd", "WorkingDir", "User"):
        assert config["config"].get(key) == expected["config"].get(key)
    assert sorted(config["config"]["Env"]) == sorted(expected["config"]["Env"])
    # The archive is one that the Engine loads, under the digest of the configuration.
    direct.engine.images.load(Path("image.tar").read_bytes())
    assert direct.engine.images.get(json.loads(run.out)["tag"]).id == json.loads(run.out)["id"]


class _Aws(LoopbackS3):
    """ministack, with a strict ECR before it that passes accepted images on to ministack's registry."""

    def forward(self, request: Request) -> Answer:
        return self.pass_on(request)


@pytest.fixture
def aws(ministack: Ministack, direct: Local, monkeypatch: pytest.MonkeyPatch) -> Iterator[StrictEcr]:
    """Point the environment to an emulated AWS whose ECR checks what it is sent."""
    repository = f"http://{ministack.ecr.name}/v2/mlinfer/{direct.project}"

    def put(tag: str, media_type: str, content: bytes) -> None:
        manifest = json.loads(content)
        for blob in [manifest["config"], *manifest["layers"]]:
            begun = requests.post(f"{repository}/blobs/uploads/", timeout=60)
            where = urljoin(repository, begun.headers["Location"])
            query = {"digest": blob["digest"]}
            requests.put(where, params=query, data=ecr.layers[blob["digest"]], timeout=60).raise_for_status()
        headers = {"Content-Type": media_type}
        requests.put(f"{repository}/manifests/{tag}", data=content, headers=headers, timeout=60).raise_for_status()

    ecr = StrictEcr(put)
    with served(_Aws, ministack.url) as proxy:
        for operation in OPERATIONS:
            proxy.fail(operation, ecr.answer)
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield ecr


def answer(mlinfer: MlInfer, *more: str) -> list[Any]:
    """Return the model and the predictions for the picture of a cat."""
    run = mlinfer("predict", CAT, "--json", *more)
    assert run.code == 0, run.err
    document = json.loads(run.out)
    return [document["model"], [(p["label"], round(p["score"], 5)) for p in document["predictions"]]]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sockets that Docker's SDK leaves open
@pytest.mark.usefixtures("direct")
def test_deploy_without_an_engine(mlinfer: MlInfer, aws: StrictEcr, monkeypatch: pytest.MonkeyPatch) -> None:
    """deploy needs no Engine, the function answers like the model here, and a second deploy sends nothing."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent")
    monkeypatch.delenv("MLINFER_BUILDER")
    Path("mlinfer.toml").write_text(f'bucket = "{BUCKET}"\nmemory = 1024\n')
    first = mlinfer("deploy", "--create-bucket", "--json")
    assert first.code == 0, first.err
    assert "without Docker" in first.err
    assert json.loads(first.out)["version"] == "1"
    assert answer(mlinfer, "--target", "aws") == answer(mlinfer)
    before = aws.sent
    again = mlinfer("deploy", "--json")
    assert {step["outcome"] for step in json.loads(again.out)["steps"]} <= {"unchanged", "skipped"}
    assert aws.sent == before
