"""Pushing with the real Engine to a registry that needs ECR's token, and to an emulated AWS."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests

from mlinfer.config import BASE_IMAGE
from mlinfer.container_image.contents import BuildSpec

from ..conftest import Run
from ..servers.engine import OCI_INDEX
from ..servers.http import Answer, LoopbackS3, loopback_s3
from ..servers.ministack import Ministack
from ..servers.registry import Registry
from .hosts import REGION

MlInfer = Callable[..., Run]
PROJECT = "push-test"
REPOSITORY = f"mlinfer/{PROJECT}"
IMAGE = BuildSpec(PROJECT, BASE_IMAGE, "x86_64").tag()
HASH = IMAGE.rpartition(":")[2]
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


@pytest.fixture(autouse=True)
def image(engine: Any, small_image: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return an image with the project's tag, so that nothing is built; its names are removed at the end."""
    monkeypatch.setenv("MLINFER_PROJECT", PROJECT)
    found = engine.images.get(small_image)
    found.tag(*IMAGE.split(":"))
    yield found
    engine.images.remove(IMAGE)
    assert [name for name in names(engine) if PROJECT in name] == []


@pytest.fixture
def ecr(moto_endpoint: str, moto_registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackS3]:
    """Return an empty ECR that the environment points to; its registry accepts only its token."""
    assert moto_registry.host
    urllib.request.urlopen(f"{moto_endpoint}/moto-api/reset", data=b"").close()  # noqa: S310
    with loopback_s3(moto_endpoint) as proxy:
        environment = {"AWS_ACCESS_KEY_ID": "AKIATESTS", "AWS_SECRET_ACCESS_KEY": "testing"}
        environment |= {"AWS_DEFAULT_REGION": REGION, "AWS_ENDPOINT_URL": proxy.url, "AWS_MAX_ATTEMPTS": "1"}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield proxy


def names(engine: Any) -> list[str]:
    """Return every name of every image of the Engine."""
    return [name for image in engine.api.images() for name in image["RepoTags"] or []]


def read(registry: Registry, method: str, path: str, **more: Any) -> requests.Response:
    """Send a request to the registry with its password."""
    url = f"http://{registry.host}/v2/{REPOSITORY}/{path}"
    return requests.request(method, url, auth=(registry.user, registry.password), timeout=60, **more)


def manifest(registry: Registry, tag: str) -> requests.Response:
    """Return the manifest of a tag."""
    return read(registry, "GET", f"manifests/{tag}", headers={"Accept": MANIFEST})


def empty(registry: Registry) -> None:
    """Delete what this project's tags name; the registry is shared by the session."""
    for tag in (read(registry, "GET", "tags/list").json().get("tags")) or []:
        accept = {"Accept": f"{MANIFEST}, {OCI_INDEX}"}
        found = read(registry, "GET", f"manifests/{tag}", headers=accept)
        if found.ok:  # else another tag's deletion took the manifest that this one names
            read(registry, "DELETE", f"manifests/{found.headers['Docker-Content-Digest']}")


@pytest.fixture(autouse=True)
def emptied(moto_registry: Registry) -> None:
    """Start each test with a registry without tags."""
    empty(moto_registry)


def test_the_token_opens_the_registry(
    mlinfer: MlInfer,
    ecr: LoopbackS3,
    moto_registry: Registry,
    engine: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The Engine sends ECR's token, the image arrives under its digest, and Docker's files and helpers are not used."""
    (tmp_path / "config.json").write_text(json.dumps({"credsStore": "not-there"}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    before = len(moto_registry.requests())
    run = mlinfer("push", "--verbose")
    assert run.code == 0, run.err
    there = manifest(moto_registry, HASH)
    digest = there.headers["Docker-Content-Digest"]
    assert run.out == f"{moto_registry.host}/{REPOSITORY}@{digest}\n"
    assert there.json()["config"]["digest"] == engine.images.get(IMAGE).id
    statuses = {request.status for request in moto_registry.requests()[before:] if request.method == "PUT"}
    assert statuses == {201}
    assert moto_registry.password not in run.out + run.err
    assert "CreateRepository" in ecr.operations


def test_unchanged_sends_nothing(mlinfer: MlInfer, ecr: LoopbackS3, moto_registry: Registry) -> None:
    """The second push writes nothing and gives the same digest."""
    first = mlinfer("push")
    before = len(moto_registry.requests())
    ecr.requests.clear()
    second = mlinfer("push", "--json")
    document = json.loads(second.out)
    assert (document["uri"] + "\n", document["outcome"]) == (first.out, "unchanged")
    assert {request.method for request in moto_registry.requests()[before:]} == {"GET"}
    assert not [name for name in ecr.operations if name.startswith(("Put", "Set", "Create", "Tag"))]


def test_a_rebuilt_image(
    mlinfer: MlInfer,
    ecr: LoopbackS3,
    moto_registry: Registry,
    engine: Any,
    label: str,
    small_image: str,
    tmp_path: Path,
) -> None:
    """A rebuilt image is stored next to the first one, whose tag does not move."""
    first = mlinfer("push")
    (tmp_path / "Dockerfile").write_text(f"FROM {small_image}\nCOPY Dockerfile /again\n")
    name, value = label.split("=")
    other, _ = engine.images.build(path=str(tmp_path), tag=IMAGE, labels={name: value}, forcerm=True)
    second, third = mlinfer("push"), mlinfer("push", "--json")
    tag = f"{HASH}-{other.id[7:19]}"
    digests = [manifest(moto_registry, name).headers["Docker-Content-Digest"] for name in (HASH, tag)]
    assert [first.out, second.out] == [f"{moto_registry.host}/{REPOSITORY}@{digest}\n" for digest in digests]
    assert json.loads(third.out)["outcome"] == "unchanged"
    assert "CreateRepository" in ecr.operations


def test_a_wrong_token(mlinfer: MlInfer, ecr: LoopbackS3, engine: Any) -> None:
    """A token that the registry refuses exits with 4 before anything is sent."""
    wrong = {"authorizationToken": "QVdTOndyb25nLXRva2Vu", "proxyEndpoint": "https://nowhere"}
    ecr.fail("GetAuthorizationToken", lambda *_: Answer(200, {}, json.dumps({"authorizationData": [wrong]}).encode()))
    run = mlinfer("push", "--json", "--verbose")
    assert run.code == 4
    assert json.loads(run.out)["error"]["code"] == "access_denied"
    assert "wrong-token" not in run.out + run.err
    assert "QVdTOndyb25nLXRva2Vu" not in run.out + run.err
    assert IMAGE in names(engine)


def test_the_engine_refused(engine: Any, ecr: LoopbackS3, moto_registry: Registry) -> None:
    """The Engine's report of a refused push is an error, and the ECR name is removed."""
    from mlinfer.clients.docker import Engine
    from mlinfer.container_image import docker_push as step
    from mlinfer.container_image.builder import BuiltImage
    from mlinfer.container_image.registry import Login
    from mlinfer.errors import RemoteError

    assert ecr.url
    built = BuiltImage(engine.images.get(IMAGE).id, IMAGE, "x86_64", 1, {}, "unchanged")
    uri = f"{moto_registry.host}/{REPOSITORY}"
    with pytest.raises(RemoteError) as caught:
        login = Login("AWS", "wrong-token")
        step._send(Engine(engine), built, f"{uri}:{HASH}", login=login, show=lambda *_: None)
    assert caught.value.code == "registry_login"
    assert "wrong-token" not in str(caught.value)


def test_an_index_is_resolved(mlinfer: MlInfer, ecr: LoopbackS3, moto_registry: Registry) -> None:
    """If the tag is an index with an attestation, Lambda gets the image in it."""
    assert mlinfer("push").code == 0
    child = manifest(moto_registry, HASH)
    proof = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json"}
    proof |= {"config": child.json()["config"], "layers": []}
    put = {"headers": {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}, "data": json.dumps(proof)}
    attestation = read(moto_registry, "PUT", "manifests/proof", **put).headers["Docker-Content-Digest"]

    def entry(digest: str, os: str, architecture: str) -> dict[str, Any]:
        platform = {"os": os, "architecture": architecture}
        return {"mediaType": MANIFEST, "digest": digest, "size": 1, "platform": platform}

    digest = child.headers["Docker-Content-Digest"]
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX}
    index |= {"manifests": [entry(attestation, "unknown", "unknown"), entry(digest, "linux", "amd64")]}
    put = {"headers": {"Content-Type": OCI_INDEX}, "data": json.dumps(index)}
    assert read(moto_registry, "PUT", f"manifests/{HASH}", **put).status_code == 201
    run = mlinfer("push", "--json")
    assert (run.code, json.loads(run.out)["digest"], json.loads(run.out)["outcome"]) == (0, digest, "unchanged"), (
        run.err
    )
    assert ecr.requests


def test_an_unreachable_registry(mlinfer: MlInfer, ecr: LoopbackS3) -> None:
    """An unreachable registry exits with 4 and its name."""
    ecr.fail("DescribeRepositories", lambda request, forward: _elsewhere(forward(request)))
    run = mlinfer("push", "--json")
    assert run.code == 4
    assert json.loads(run.out)["error"]["code"] == "connection_failed"
    assert "127.0.0.1:9" in json.loads(run.out)["error"]["message"]


def _elsewhere(answer: Answer) -> Answer:
    document = json.loads(answer.body)
    for repository in document.get("repositories", []):
        repository["repositoryUri"] = f"127.0.0.1:9/{REPOSITORY}"
    body = json.dumps(document).encode()
    return Answer(answer.status, answer.headers | {"content-length": str(len(body))}, body)


def test_an_emulated_aws(mlinfer: MlInfer, ministack: Ministack) -> None:
    """With ministack: repository created, image pushed and confirmed by ECR, and unchanged the second time."""
    first = mlinfer("push", "--json")
    assert first.code == 0, first.err
    document = json.loads(first.out)
    assert document["uri"].startswith(f"{ministack.ecr.name}/{REPOSITORY}@sha256:")
    client = boto3.Session().client("ecr")  # the default session would keep the credentials of an earlier test
    try:
        (described,) = client.describe_images(repositoryName=REPOSITORY)["imageDetails"]
    finally:
        client.close()
    assert (described["imageDigest"], described["imageTags"]) == (document["digest"], [HASH])
    second = json.loads(mlinfer("push", "--json").out)
    assert (second["uri"], second["outcome"]) == (document["uri"], "unchanged")
    assert {second["repository"][name] for name in ("repository", "lifecycle", "policy")} == {"unchanged"}
