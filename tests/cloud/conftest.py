"""What the tests of several modules of mlinfer/cloud share."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from ..images import saved_image
from ..servers.aws import ACCOUNT, REGION, LoopbackAws, simulation
from ..servers.engine import LoopbackEngine, LoopbackRegistry
from ..servers.http import Answer, Forward, Request, serve

BUCKET = "cloud-models"


@pytest.fixture
def world(cloud: LoopbackAws, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackAws]:
    """Return an AWS with a bucket name, a registry, an Engine that has the image, quotas, and IAM's simulation."""
    registry = LoopbackRegistry("t0ken")

    def push(tag: str, _: str) -> list[dict[str, Any]]:
        digest = registry.put_image({"architecture": "amd64", "os": "linux"}, tag=tag)
        return [{"progressDetail": {}, "aux": {"Tag": tag, "Digest": digest, "Size": 740}}]

    engine = LoopbackEngine(push, id=registry.put({"architecture": "amd64", "os": "linux"}), archive=saved_image())
    with serve(registry.answer) as port, serve(engine.answer) as engine_port:
        host = f"127.0.0.1:{port}"

        def token(*_: object) -> Answer:
            given = {"authorizationToken": base64.b64encode(b"AWS:t0ken").decode(), "proxyEndpoint": f"http://{host}"}
            return Answer(200, {}, json.dumps({"authorizationData": [given]}).encode())

        def move(request: Request, forward: Forward) -> Answer:
            answer = forward(request)
            body = answer.body.replace(f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com".encode(), host.encode())
            return Answer(answer.status, answer.headers | {"content-length": str(len(body))}, body)

        cloud.fail("s3:PutObject", lambda request, _: cloud.pass_on(request))  # pictures come without a SHA-256
        limits = {"ConcurrentExecutions": 1000, "UnreservedConcurrentExecutions": 900}
        cloud.fail("ecr:GetAuthorizationToken", token)
        cloud.fail("ecr:DescribeRepositories", move)
        cloud.fail("lambda:GetAccountSettings", lambda *_: settings(limits))
        cloud.fail("iam:SimulatePrincipalPolicy", lambda *_: simulation({}))
        monkeypatch.setenv("MLINFER_BUCKET", BUCKET)
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{engine_port}")
        yield cloud


def settings(limits: dict[str, int]) -> Answer:
    """Return Lambda's account settings."""
    return Answer(200, {"content-type": "application/json"}, json.dumps({"AccountLimit": limits}).encode())
