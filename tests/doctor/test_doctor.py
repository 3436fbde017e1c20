"""What doctor reports, with an Engine on loopback and moto as AWS."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import boto3
import pytest

from mlinfer.config import load_config
from mlinfer.doctor import Tools, examine
from mlinfer.errors import MissingError

from ..conftest import Run
from ..servers.aws import identity, simulation
from ..servers.engine import LoopbackEngine
from ..servers.http import Answer, Forward, LoopbackS3, Request, loopback_s3, serve

MlInfer = Callable[..., Run]
GB = 2**30
ACCOUNT = "123456789012"
CHECKS = ["model", "docker", "base image", "machine", "credentials", "endpoints", "quotas", "permissions", "bucket"]


@dataclass
class World:
    """What doctor looks at."""

    api: LoopbackS3
    engine: LoopbackEngine
    allowed: Callable[[str], bool]
    simulated: list[dict[str, list[str]]]
    limits: dict[str, int]


@pytest.fixture
def world(moto_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Point the environment to an Engine and an AWS in which nothing is missing."""
    urllib.request.urlopen(f"{moto_endpoint}/moto-api/reset", data=b"").close()  # noqa: S310
    facts = {"NCPU": 4, "MemTotal": 8 * GB, "Driver": "overlay2", "DriverStatus": [], "DockerRootDir": "/nowhere"}
    engine = LoopbackEngine(lambda *_: [], facts=facts)
    with loopback_s3(moto_endpoint) as api, serve(engine.answer) as port:
        limits = {"ConcurrentExecutions": 1000, "UnreservedConcurrentExecutions": 900}
        world = World(api, engine, lambda _: True, [], limits)

        def simulate(request: Request, _: Forward) -> Answer:
            asked = parse_qs(request.body.decode())
            world.simulated.append(asked)
            actions = [values[0] for name, values in asked.items() if name.startswith("ActionNames.")]
            return simulation({action: world.allowed(action) for action in actions})

        def get(request: Request, forward: Forward) -> Answer:
            if "account-settings" not in request.target:
                return forward(request)
            return Answer(200, {}, json.dumps({"AccountLimit": world.limits}).encode())

        api.fail("SimulatePrincipalPolicy", simulate)
        api.fail("GetObject", get)
        api.fail("GET", get)
        environment = {"AWS_ACCESS_KEY_ID": "AKIATESTS", "AWS_SECRET_ACCESS_KEY": "s3cr3t/Key"}
        environment |= {"AWS_DEFAULT_REGION": "eu-central-1", "AWS_ENDPOINT_URL": api.url}
        environment |= {"DOCKER_HOST": f"tcp://127.0.0.1:{port}", "MLINFER_BUCKET": "our-models"}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        s3 = boto3.client("s3", endpoint_url=moto_endpoint)
        s3.create_bucket(Bucket="our-models", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        s3.close()
        yield world


def denial(operation: str) -> Answer:
    """Return IAM's document of a denied action."""
    said = f"<Code>AccessDenied</Code><Message>not authorized to perform: iam:{operation}</Message>"
    return Answer(403, {"content-type": "text/xml"}, f"<ErrorResponse><Error>{said}</Error></ErrorResponse>".encode())


def findings(run: Run, check: str) -> list[dict[str, str]]:
    """Return the findings of a check."""
    return [finding for finding in json.loads(run.out)["findings"] if finding["check"] == check]


def finding(run: Run, check: str) -> dict[str, str]:
    """Return the only finding of a check."""
    (found,) = findings(run, check)
    return found


@pytest.mark.slow
def test_nothing_is_missing(mlinfer: MlInfer, world: World) -> None:
    """If everything is there, each check says what it found, nothing changes, and the exit code is 0."""
    run = mlinfer("doctor")
    assert run.code == 0, run.out
    for text in ("starter", "Engine 29.1.0 (API 1.44", "4 cores, 8,192 MB", f"arn:aws:sts::{ACCOUNT}:user/moto"):
        assert text in run.out
    assert "900 unreserved" in run.out
    assert "missing " not in run.out
    read = {"GetCallerIdentity", "SimulatePrincipalPolicy", "HeadBucket", "GET", "GetObject"}
    assert set(world.api.operations) <= read
    assert {request.split()[0] for request in world.engine.requests} == {"GET"}


@pytest.mark.slow
def test_golden_text(
    mlinfer: MlInfer, world: World, golden_text: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """doctor writes a line for each thing that it looked at."""
    assert world
    monkeypatch.setenv("COLUMNS", "200")
    golden_text("doctor", mlinfer("doctor"), figures=True)


@pytest.mark.slow
def test_json(mlinfer: MlInfer, world: World) -> None:
    """--json has every check in order, each with state, finding and hint."""
    assert world.limits
    document = json.loads(mlinfer("doctor", "--json").out)
    assert document["missing"] == 0
    assert list(dict.fromkeys(item["check"] for item in document["findings"])) == CHECKS
    assert {tuple(item) for item in document["findings"]} == {("check", "state", "finding", "remedy")}
    assert {item["state"] for item in document["findings"]} == {"ok", "warning"}  # of the endpoint, which is loopback


@pytest.mark.slow
def test_without_docker(mlinfer: MlInfer, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an Engine, that is missing, what depends on it is unknown, and AWS is still checked."""
    assert world.limits
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    run = mlinfer("doctor", "--json")
    assert run.code == 3
    assert finding(run, "docker")["state"] == "missing"
    assert finding(run, "docker")["remedy"]
    assert [finding(run, check)["state"] for check in ("base image", "machine")] == ["warning", "warning"]
    assert finding(run, "credentials")["state"] == "ok"


def test_without_credentials(mlinfer: MlInfer, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing credentials are reported once with a hint, and this machine is still checked."""
    assert world.limits
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    run = mlinfer("doctor", "--json")
    assert run.code == 3
    assert "aws configure" in finding(run, "credentials")["remedy"]
    assert [finding(run, check)["state"] for check in ("quotas", "permissions")] == ["warning", "warning"]
    assert finding(run, "docker")["state"] == "ok"


def test_without_anything_of_aws(mlinfer: MlInfer, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS is required only if it is set up or an option asks for it."""
    assert world.limits
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "MLINFER_BUCKET"):
        monkeypatch.delenv(name)
    run = mlinfer("doctor", "--json")
    assert (run.code, json.loads(run.out)["missing"]) == (0, 0)
    assert [finding(run, check)["state"] for check in ("credentials", "bucket")] == ["warning", "warning"]
    assert mlinfer("doctor", "--bucket", "our-models").code == 3
    monkeypatch.setenv("MLINFER_TARGET", "aws")
    assert mlinfer("doctor").code == 3


def test_an_expired_login(mlinfer: MlInfer, world: World) -> None:
    """Expired credentials are missing, with a hint."""
    said = b"<ErrorResponse><Error><Code>ExpiredToken</Code><Message>expired</Message></Error></ErrorResponse>"
    world.api.fail("GetCallerIdentity", lambda *_: Answer(403, {"content-type": "text/xml"}, said))
    run = mlinfer("doctor", "--json")
    assert run.code == 3
    assert "aws sso login" in finding(run, "credentials")["remedy"]
    assert finding(run, "permissions")["state"] == "warning"


@pytest.mark.slow
def test_a_base_image_out_of_reach(mlinfer: MlInfer, world: World) -> None:
    """A base image that is neither local nor in its registry is missing."""
    no = Answer(404, {"content-type": "application/json"}, b'{"message": "No such image"}')
    offline = Answer(500, {"content-type": "application/json"}, b'{"message": "dial tcp: no such host"}')
    world.engine.answers = {"GET /images/": no, "GET /distribution/": offline}
    run = mlinfer("doctor", "--json")
    assert (run.code, finding(run, "base image")["state"]) == (3, "missing")
    assert "no such host" in finding(run, "base image")["finding"]


@pytest.mark.parametrize(("arch", "state"), [("x86_64", "ok"), ("arm64", "missing")])
@pytest.mark.slow
def test_a_base_image_in_its_registry(mlinfer: MlInfer, world: World, arch: str, state: str) -> None:
    """A base image that is not local is looked up in the registry, for the configured architecture."""
    no = Answer(404, {"content-type": "application/json"}, b'{"message": "No such image"}')
    there = json.dumps({"Platforms": [{"architecture": "amd64", "os": "linux"}]}).encode()
    there_answer = Answer(200, {"content-type": "application/json"}, there)
    world.engine.answers = {"GET /images/": no, "GET /distribution/": there_answer}
    assert finding(mlinfer("doctor", "--json", "--arch", arch), "base image")["state"] == state


@pytest.mark.parametrize(
    ("facts", "state"),
    [({"MemTotal": GB}, "warning"), ({"NCPU": 1}, "warning"), ({"NCPU": 2, "MemTotal": 4 * GB}, "ok")],
)
@pytest.mark.slow
def test_the_machine_against_the_function(
    mlinfer: MlInfer, world: World, facts: dict[str, int], state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Less memory or fewer cores than the function has is a warning."""
    monkeypatch.setenv("MLINFER_MEMORY", "3000")
    world.engine.facts |= facts
    assert finding(mlinfer("doctor", "--json"), "machine")["state"] == state


@pytest.mark.parametrize(
    ("decisive", "state"), [("ok", "ok"), ("refused", "missing"), ("unknown", "warning"), ("root", "warning")]
)
@pytest.mark.slow
def test_permissions(mlinfer: MlInfer, world: World, decisive: str, state: str) -> None:
    """Permissions that IAM's simulation denies are missing, by name; without the right to simulate, they are unknown."""
    if decisive == "refused":
        world.allowed = lambda action: action != "ecr:PutImage"
    elif decisive == "unknown":
        world.api.fail("SimulatePrincipalPolicy", lambda *_: denial("SimulatePrincipalPolicy"))
    elif decisive == "root":
        world.api.fail("GetCallerIdentity", lambda *_: identity(f"arn:aws:iam::{ACCOUNT}:root"))
    run = mlinfer("doctor", "--json")
    found = finding(run, "permissions")
    assert found["state"] == state
    assert ("ecr:PutImage" in found["finding"]) == (decisive == "refused")
    assert ("not checked" in found["finding"]) == (decisive == "unknown")
    assert run.code == (3 if decisive == "refused" else 0)


@pytest.mark.slow
def test_a_session_is_simulated_as_its_role(mlinfer: MlInfer, world: World, moto_endpoint: str) -> None:
    """An assumed role is simulated as the role with its path."""
    iam = boto3.client("iam", endpoint_url=moto_endpoint, region_name="eu-central-1")
    iam.create_role(RoleName="dev", Path="/team/", AssumeRolePolicyDocument='{"Version":"2012-10-17","Statement":[]}')
    iam.close()
    world.api.fail("GetCallerIdentity", lambda *_: identity(f"arn:aws:sts::{ACCOUNT}:assumed-role/dev/me"))
    run = mlinfer("doctor", "--json")
    assert finding(run, "permissions")["state"] == "ok"
    assert {asked["PolicySourceArn"][0] for asked in world.simulated} == {f"arn:aws:iam::{ACCOUNT}:role/team/dev"}
    world.api.fail("GetRole", lambda *_: denial("GetRole"))
    mlinfer("doctor", "--json")
    assert world.simulated[-1]["PolicySourceArn"] == [f"arn:aws:iam::{ACCOUNT}:role/dev"]


@pytest.mark.slow
def test_quotas(mlinfer: MlInfer, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """More concurrency than the account has left, and a memory size that new accounts lack, are warnings."""
    monkeypatch.setenv("MLINFER_CONCURRENCY", "850")
    monkeypatch.setenv("MLINFER_MEMORY", "4096")
    concurrency, memory = findings(mlinfer("doctor", "--json"), "quotas")
    assert concurrency["state"] == memory["state"] == "warning"
    assert "keep 100 unreserved" in concurrency["finding"]
    assert "3,008" in memory["finding"]
    monkeypatch.setenv("MLINFER_CONCURRENCY", "800")
    assert findings(mlinfer("doctor", "--json"), "quotas")[0]["state"] == "ok"
    assert world.limits


@pytest.mark.slow
def test_the_bucket(mlinfer: MlInfer, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket that does not exist, is in another Region or is not configured is missing, unless the image has the model."""
    assert finding(mlinfer("doctor", "--json"), "bucket")["state"] == "ok"
    elsewhere = finding(mlinfer("doctor", "--json", "--region", "us-east-1"), "bucket")
    assert (elsewhere["state"], "is in eu-central-1" in elsewhere["finding"]) == ("missing", True)
    monkeypatch.setenv("MLINFER_BUCKET", "not-there")
    run = mlinfer("doctor", "--json")
    assert (run.code, finding(run, "bucket")["state"]) == (3, "missing")
    assert "--create-bucket" in finding(run, "bucket")["remedy"]
    monkeypatch.delenv("MLINFER_BUCKET")
    assert finding(mlinfer("doctor", "--json"), "bucket")["state"] == "missing"
    monkeypatch.setenv("MLINFER_MODEL_SOURCE", "image")
    assert finding(mlinfer("doctor", "--json"), "bucket")["state"] == "ok"
    assert world.limits


@pytest.mark.slow
def test_the_model(mlinfer: MlInfer, world: World, tiny_model: Path) -> None:
    """A usable model is named; a missing one is missing."""
    assert world.limits
    found = finding(mlinfer("doctor", "--json", "--model", tiny_model), "model")
    assert (found["state"], "labels" in found["finding"]) == ("ok", True)
    run = mlinfer("doctor", "--json", "--model", "gone.onnx")
    assert (run.code, finding(run, "model")["state"]) == (3, "missing")


@pytest.mark.slow
def test_endpoints_are_named_by_their_host(mlinfer: MlInfer, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint outside AWS is a warning with its host only."""
    assert world.limits
    port = world.api.url.rpartition(":")[2]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:pa55word@127.0.0.1:{port}")
    run = mlinfer("doctor", "--json", "--verbose")
    assert "ecr" in finding(run, "endpoints")["finding"]
    assert "at 127.0.0.1 " in finding(run, "endpoints")["finding"]
    assert "pa55word" not in run.out + run.err


def test_a_hanging_check_blocks_no_other() -> None:
    """A check without an answer becomes a finding after its deadline; the others are shown."""
    never = threading.Event()

    def wait(_: str) -> Any:
        never.wait(60)
        raise MissingError("x", "x")

    def no_engine() -> Any:
        raise MissingError("docker_not_running", "no Engine", "start it")

    found = examine(load_config(Path(), {}, {}), Tools(no_engine, wait, lambda *_: {}), deadline_s=1.0)
    never.set()
    states = {item.check: item.finding for item in found}
    assert list(states) == CHECKS
    assert states["credentials"] == "no response within 1 s"
    assert "starter" in states["model"]
    assert states["docker"] == "no Engine"


def test_a_bug_in_a_check_is_one_finding() -> None:
    """An unexpected error in a check becomes one finding among the others."""

    def broken(*_: str) -> Any:
        raise KeyError("NCPU")

    found = {item.check: item for item in examine(load_config(Path(), {}, {}), Tools(broken, broken, lambda *_: {}))}
    assert found["model"].state == "ok"
    assert "KeyError" in found["machine"].finding
    assert "report" in found["machine"].remedy
