"""Each command that changes AWS is killed after each change, and loses each answer: run again, the result is the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from .. import models
from ..conftest import CAT, IMAGE, OTHER_IMAGE, ROOT, Run
from ..servers.aws import LoopbackAws
from ..servers.http import Answer, Forward, Request

MlInfer = Callable[..., Run]
pytestmark = pytest.mark.slow
Past = Callable[[str], Any]
BUCKET = "cloud-models"
TAGS = [{"Key": "mlinfer:project", "Value": "cats"}]
COMMANDS = ("deploy", "deploy again", "upload", "rollback", "bench", "tune", "destroy")


@dataclass(frozen=True)
class Case:
    """A command and the commands before it. repository: whether the project has one, with an image."""

    before: list[list[str]]
    argv: list[str]
    repository: bool = False


@pytest.fixture
def cases(deploy_arguments: list[str], tmp_path: Path) -> dict[str, Case]:
    """Return one case per command of COMMANDS."""
    first = ["deploy", *deploy_arguments, "--url", "public", "--yes"]
    other = models.mean_colour(tmp_path / "other.onnx", name="other", color="BGR")
    second = ["deploy", "--model", str(other), *deploy_arguments[2:-1], OTHER_IMAGE, "--memory", "512", "--url", "iam"]
    third = [*first, "--memory", "640"]
    measured = ["--target", "aws", "--warm", "1", "--quiet"]
    return {
        "deploy": Case([], first),
        "deploy again": Case([first], [*second, "--concurrency", "2"]),
        "upload": Case([], ["upload", str(deploy_arguments[1]), "--bucket", BUCKET, "--create-bucket"]),
        "rollback": Case([first, second, third], ["rollback"]),
        "bench": Case([first], ["bench", str(CAT), "--cold", "2", "--memory", "512", *measured]),
        "tune": Case([first], ["tune", str(CAT), "--cold", "1", "--memory", "512", *measured]),
        "destroy": Case([first, second], ["destroy", "--yes"], repository=True),
    }


@pytest.fixture
def begin(mlinfer: MlInfer, cloud: LoopbackAws, moto_endpoint: str, past: Past) -> Callable[[Case], None]:
    """Return a function that empties AWS and prepares the state before a command."""

    def run(case: Case) -> None:
        urllib.request.urlopen(f"{moto_endpoint}/moto-api/reset", data=b"").close()  # noqa: S310
        cloud.before = None
        if case.repository:
            past("ecr").create_repository(repositoryName="mlinfer/cats", tags=TAGS)
        for argv in case.before:
            done = mlinfer(*argv)
            assert done.code == 0, done.err
        cloud.reset_calls()

    return run


def in_aws(past: Past) -> dict[str, Any]:
    """Return everything in AWS, without times, addresses and random names."""
    return {**_functions(past("lambda")), **_others(past), **_buckets(past("s3"))}


def found(call: Callable[[], Any]) -> Any:
    """Return AWS's answer, or None if the resource does not exist."""
    try:
        return call()
    except ClientError:
        return None


def _functions(client: Any) -> dict[str, Any]:
    state: dict[str, Any] = {}
    kept = ("Role", "MemorySize", "Timeout", "EphemeralStorage", "Environment", "Architectures")
    for function in client.list_functions()["Functions"]:
        name = {"FunctionName": function["FunctionName"]}
        for version in client.list_versions_by_function(**name)["Versions"]:
            told = client.get_function(**name, Qualifier=version["Version"])
            configuration = {key: told["Configuration"][key] for key in kept}
            state[version["Version"]] = [told["Code"]["ImageUri"], configuration]
        state["aliases"] = [
            (alias["Name"], alias["FunctionVersion"]) for alias in client.list_aliases(**name)["Aliases"]
        ]
        state["url"] = found(lambda: client.get_function_url_config(**name)["AuthType"])  # noqa: B023 - called at once
        policy = found(lambda: client.get_policy(**name)["Policy"])  # noqa: B023
        state["permissions"] = sorted(
            statement["Sid"] for statement in json.loads(policy or '{"Statement": []}')["Statement"]
        )
        state["concurrency"] = client.get_function_concurrency(**name).get("ReservedConcurrentExecutions")
    return state


def _others(past: Past) -> dict[str, Any]:
    iam, logs, ecr = past("iam"), past("logs"), past("ecr")
    roles = {}
    for role in iam.list_roles()["Roles"]:
        name = {"RoleName": role["RoleName"]}
        policies = iam.list_role_policies(**name)["PolicyNames"]
        written = {policy: iam.get_role_policy(**name, PolicyName=policy)["PolicyDocument"] for policy in policies}
        roles[role["RoleName"]] = [role["AssumeRolePolicyDocument"], iam.list_role_tags(**name)["Tags"], written]
    groups = {group["logGroupName"]: group.get("retentionInDays") for group in logs.describe_log_groups()["logGroups"]}
    repositories = [repository["repositoryName"] for repository in ecr.describe_repositories()["repositories"]]
    return {"roles": roles, "logs": groups, "repositories": repositories}


def _buckets(s3: Any) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for bucket in s3.list_buckets()["Buckets"]:
        name = {"Bucket": bucket["Name"]}
        state[bucket["Name"]] = {
            "objects": [item["Key"] for item in s3.list_object_versions(**name).get("Versions", [])],
            "tags": found(lambda: s3.get_bucket_tagging(**name)["TagSet"]),  # noqa: B023 - called at once
            "rules": found(lambda: s3.get_bucket_lifecycle_configuration(**name)["Rules"]),  # noqa: B023
            "versioning": s3.get_bucket_versioning(**name).get("Status"),
            "closed": found(lambda: s3.get_public_access_block(**name)["PublicAccessBlockConfiguration"]),  # noqa: B023
        }
    return state


def dies(cloud: LoopbackAws, last: int) -> Callable[[str, Request, Forward], Answer | None]:
    """Return a fault that applies `count` changes, and answers neither the last of them nor any later request."""

    def before(call: str, request: Request, forward: Forward) -> Answer | None:
        if len(cloud.changes) < last:
            return forward(request)
        if len(cloud.changes) == last and cloud.is_change(call):
            forward(request)
        return None

    return before


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_after_each_change_and_run_again(
    mlinfer: MlInfer,
    cloud: LoopbackAws,
    past: Past,
    cases: dict[str, Case],
    begin: Callable[[Case], None],
    name: str,
) -> None:
    """Killed after any change, the command succeeds when run again, with the result of an undisturbed run."""
    case = cases[name]
    begin(case)
    assert mlinfer(*case.argv).code == 0
    whole, changes, wrong = in_aws(past), list(cloud.changes), []
    assert changes
    for last, change in enumerate(changes, 1):
        begin(case)
        cloud.before = dies(cloud, last)
        mlinfer(*case.argv)  # the last change may be the last of its calls
        cloud.before = None
        again = mlinfer(*case.argv)
        if again.code or in_aws(past) != whole:
            wrong.append((last, change, again.code, again.err))
    assert wrong == []


@pytest.mark.parametrize("name", COMMANDS)
def test_each_answer_is_lost_once(
    mlinfer: MlInfer,
    cloud: LoopbackAws,
    past: Past,
    cases: dict[str, Case],
    begin: Callable[[Case], None],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """If each answer to a change is lost once, the command succeeds and does nothing twice."""
    case = cases[name]
    begin(case)
    assert mlinfer(*case.argv).code == 0
    whole = in_aws(past)
    begin(case)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    lost: set[tuple[str, str, bytes]] = set()

    def forgets(call: str, request: Request, forward: Forward) -> Answer | None:
        answer, mark = forward(request), (call, request.target, request.body)
        if cloud.is_change(call) and mark not in lost:
            lost.add(mark)
            return None
        return answer

    cloud.before = forgets
    run = mlinfer(*case.argv)
    cloud.before = None
    assert run.code == 0, run.err
    assert lost
    assert in_aws(past) == whole


def test_a_deployment_that_was_killed_can_be_destroyed(
    mlinfer: MlInfer, cloud: LoopbackAws, past: Past, cases: dict[str, Case], begin: Callable[[Case], None]
) -> None:
    """After a killed first deployment, `destroy` deletes everything, the bucket included."""
    case = cases["deploy"]
    begin(case)
    assert mlinfer(*case.argv).code == 0
    changes, wrong = list(cloud.changes), []
    for last, change in enumerate(changes, 1):
        begin(case)
        cloud.before = dies(cloud, last)
        mlinfer(*case.argv)
        cloud.before = None
        run = mlinfer("destroy", "--bucket", BUCKET, "--yes")
        if run.code or in_aws(past) != {"roles": {}, "logs": {}, "repositories": []}:
            wrong.append((last, change, run.code, run.err))
    assert wrong == []


@pytest.mark.parametrize("command", ["bench", "tune"])
def test_the_next_measurement_brings_back_the_first_configuration(
    mlinfer: MlInfer,
    cloud: LoopbackAws,
    past: Past,
    cases: dict[str, Case],
    begin: Callable[[Case], None],
    command: str,
) -> None:
    """After two killed measurements, the third restores the original configuration."""
    begin(cases[command])
    before = past("lambda").get_function_configuration(FunctionName="mlinfer-cats")
    for killed in ("tune", "bench"):
        cloud.reset_calls()
        cloud.before = dies(cloud, 1)
        assert mlinfer(*cases[killed].argv).code != 0
        cloud.before = None
    left = past("lambda").get_function_configuration(FunctionName="mlinfer-cats")
    assert left["MemorySize"] != before["MemorySize"]
    assert mlinfer(*cases[command].argv).code == 0
    after = past("lambda").get_function_configuration(FunctionName="mlinfer-cats")
    assert [after[key] for key in ("MemorySize", "Environment")] == [
        before[key] for key in ("MemorySize", "Environment")
    ]


def test_a_rollback_goes_back_once(
    mlinfer: MlInfer, past: Past, cases: dict[str, Case], begin: Callable[[Case], None]
) -> None:
    """A second `rollback` changes nothing; a version number goes further back."""
    begin(cases["rollback"])

    def live() -> str:
        return str(past("lambda").get_alias(FunctionName="mlinfer-cats", Name="live")["FunctionVersion"])

    for argv, version in (([], "2"), ([], "2"), (["3"], "3"), ([], "2"), (["1"], "1"), (["2"], "2"), ([], "1")):
        assert mlinfer("rollback", *argv).code == 0
        assert live() == version, argv
    assert IMAGE in past("lambda").get_function(FunctionName="mlinfer-cats", Qualifier="1")["Code"]["ImageUri"]


def test_two_first_deployments_at_once(
    mlinfer: MlInfer, cloud: LoopbackAws, past: Past, deploy_arguments: list[str]
) -> None:
    """Two first deployments at once both succeed, and each resource exists once."""
    command = [sys.executable, "-m", "mlinfer", "deploy", *deploy_arguments, "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    state = in_aws(past)
    assert len(state[BUCKET]["objects"]) == 1
    assert set(state) >= {"1", "$LATEST"}
    assert "2" not in state
    cloud.reset_calls()
    assert mlinfer("deploy", *deploy_arguments).code == 0
    assert cloud.changes == []
