"""The tests' registry accepts a push with its password only."""

from __future__ import annotations

import base64
from typing import Any

import boto3
import pytest

from ..servers.registry import Registry


def push(engine: Any, image: str, repository: str, user: str, password: str) -> dict[str, Any]:
    """Push an image as REPOSITORY:v1 and return the last item of the stream: an error, or the digest."""
    engine.images.get(image).tag(repository, "v1")
    try:
        account = {"username": user, "password": password}
        said = engine.api.push(repository, tag="v1", stream=True, decode=True, auth_config=account)
        items = [item for item in said if "error" in item or "aux" in item]
    finally:
        engine.images.remove(f"{repository}:v1")
    last: dict[str, Any] = items[-1]
    return last


def test_a_password_opens_the_registry(engine: Any, small_image: str, registry: Registry) -> None:
    """A push with the password arrives, and the request log has the manifest."""
    said = push(engine, small_image, f"{registry.host}/small", registry.user, registry.password)
    assert said["aux"]["Digest"].startswith("sha256:")
    manifests = [r for r in registry.requests() if r.method == "PUT" and r.path.startswith("/v2/small/manifests/")]
    assert [r.status for r in manifests] == [201]


def test_no_other_password_does(engine: Any, small_image: str, registry: Registry) -> None:
    """A push with another password is refused."""
    said = push(engine, small_image, f"{registry.host}/small", registry.user, "another")
    assert "no basic auth credentials" in said["error"] or "unauthorized" in said["error"]
    assert {r.status for r in registry.requests()} == {401}


def test_the_token_of_motos_ecr_opens_its_registry(
    engine: Any, small_image: str, moto_registry: Registry, moto_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A push to moto's repositoryUri arrives in a real registry with moto's token."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    ecr = boto3.client("ecr", region_name="us-east-1", endpoint_url=moto_endpoint)
    repository = ecr.create_repository(repositoryName="small")["repository"]["repositoryUri"]
    assert repository == f"{moto_registry.host}/small"
    token = ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    user, _, password = base64.b64decode(token).decode().partition(":")
    assert "aux" in push(engine, small_image, repository, user, password)
    assert "error" in push(engine, small_image, repository, user, "another")
    ecr.delete_repository(repositoryName="small", force=True)
    ecr.close()
