"""An ECR for the tests of this folder: moto is its API; Engine and registry are servers on loopback."""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import boto3
import pytest

from mlinfer.config import BASE_IMAGE
from mlinfer.container_image.contents import BuildSpec

from ..conftest import Run
from ..images import saved_image
from ..servers.engine import LoopbackEngine, LoopbackRegistry
from ..servers.http import Answer, Forward, LoopbackS3, Request, loopback_s3, serve

MlInfer = Callable[..., Run]
ACCOUNT, REGION, NAME = "123456789012", "eu-central-1", "mlinfer/shop"
SECRET, TOKEN, SECOND_TOKEN = "s3cr3t/Key+Of/The+Tests", "t0ken-of-the-registry", "t0ken-number-two"
AMD64 = {"architecture": "amd64", "os": "linux"}
HASH = BuildSpec("shop", BASE_IMAGE, "x86_64").tag().rpartition(":")[2]


@dataclass
class Cloud:
    """What a push talks to. api: ECR's; moto: without the proxy."""

    api: LoopbackS3
    moto: Any
    registry: LoopbackRegistry
    engine: LoopbackEngine

    @property
    def repository(self) -> dict[str, Any]:
        """Return the repository as ECR describes it."""
        found: dict[str, Any] = self.moto.describe_repositories(repositoryNames=[NAME])["repositories"][0]
        return found

    @property
    def lifecycle(self) -> Any:
        """Return the lifecycle policy."""
        return json.loads(self.moto.get_lifecycle_policy(repositoryName=NAME)["lifecyclePolicyText"])

    @property
    def policy(self) -> Any:
        """Return the repository's policy."""
        return json.loads(self.moto.get_repository_policy(repositoryName=NAME)["policyText"])


@pytest.fixture
def cloud(moto_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """Point the environment to an empty ECR and to an Engine that has the image of the project shop."""
    urllib.request.urlopen(f"{moto_endpoint}/moto-api/reset", data=b"").close()  # noqa: S310
    registry = LoopbackRegistry(TOKEN)

    def push(tag: str, password: str) -> list[dict[str, Any]]:
        if password != registry.password:
            return error_report("unauthorized: authentication required")
        return success(registry.put_image(AMD64, tag=tag))

    engine = LoopbackEngine(push, id=registry.put(AMD64), archive=saved_image())
    with loopback_s3(moto_endpoint) as api, serve(registry.answer) as port, serve(engine.answer) as engine_port:
        registry.host = f"127.0.0.1:{port}"

        def token(_: Request, __: Forward) -> Answer:
            given = {
                "authorizationToken": encoded(f"AWS:{registry.password}"),
                "proxyEndpoint": f"http://{registry.host}",
            }
            return Answer(200, {}, json.dumps({"authorizationData": [given]}).encode())

        def move(request: Request, forward: Forward) -> Answer:
            answer = forward(request)
            host = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
            body = answer.body.replace(host.encode(), registry.host.encode())
            return Answer(answer.status, answer.headers | {"content-length": str(len(body))}, body)

        api.fail("GetAuthorizationToken", token)
        api.fail("DescribeRepositories", move)
        environment = {
            "AWS_ACCESS_KEY_ID": "AKIATESTS",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": api.url,
            "AWS_MAX_ATTEMPTS": "2",
            "DOCKER_HOST": f"tcp://127.0.0.1:{engine_port}",
            "MLINFER_PROJECT": "shop",
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
        with closing(boto3.client("ecr", endpoint_url=moto_endpoint, region_name=REGION, **keys)) as moto:
            yield Cloud(api, moto, registry, engine)


def encoded(text: str) -> str:
    """Return a text in base64."""
    return base64.b64encode(text.encode()).decode()


def success(digest: str) -> list[dict[str, Any]]:
    """Return the Engine's report of a push of two layers, one of which already existed."""
    return [
        {"status": "The push refers to repository [host/name]"},
        {"status": "Preparing", "progressDetail": {}, "id": "5f70bf18a086"},
        {"status": "Layer already exists", "progressDetail": {}, "id": "5f70bf18a086"},
        {"status": "Pushing", "progressDetail": {"current": 512, "total": 2048}, "id": "c9a1d2b3e4f5"},
        {"status": "Pushing", "progressDetail": {"current": 2560, "total": 2048}, "id": "c9a1d2b3e4f5"},
        {"status": "Pushed", "progressDetail": {}, "id": "c9a1d2b3e4f5"},
        {"status": f"tag: digest: {digest} size: 740"},
        {"progressDetail": {}, "aux": {"Tag": "tag", "Digest": digest, "Size": 740}},
    ]


def error_report(message: str) -> list[dict[str, Any]]:
    """Return the Engine's report of a failed push."""
    start = {"status": "Preparing", "progressDetail": {}, "id": "5f70bf18a086"}
    return [start, {"errorDetail": {"message": message}, "error": message}]


def error_of(run: Run) -> dict[str, str]:
    """Return the error from --json."""
    error: dict[str, str] = json.loads(run.out)["error"]
    return error
