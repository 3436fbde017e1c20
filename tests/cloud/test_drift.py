"""Changes in AWS by hand: `status` and `deploy --dry-run` show them, `deploy` repairs them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import boto3
import pytest

from .. import models
from ..conftest import Run
from ..servers.aws import LoopbackAws, failed

MlInfer = Callable[..., Run]
Past = Callable[[str], Any]
BUCKET = "cloud-models"
FUNCTION = {"FunctionName": "mlinfer-cats"}
ROLE = {"RoleName": "mlinfer-cats"}
TAGS = [{"Key": "mlinfer:project", "Value": "cats"}]


@pytest.fixture
def live(mlinfer: MlInfer, cloud: LoopbackAws, past: Past, deploy_arguments: list[str]) -> LoopbackAws:
    """Return an AWS with version 1 deployed and a repository, in which nothing is left to do."""
    past("ecr").create_repository(repositoryName="mlinfer/cats", tags=TAGS)
    assert mlinfer("deploy", *deploy_arguments).code == 0
    run = mlinfer("deploy", *deploy_arguments, "--json")
    assert {step["outcome"] for step in json.loads(run.out)["steps"]} == {"unchanged", "skipped"}
    cloud.reset_calls()
    return cloud


def the_command(_: LoopbackAws, __: Past) -> None:
    """Override the image's command."""
    _configure(ImageConfig={"Command": ["other.handler"]})


def the_log(_: LoopbackAws, __: Past) -> None:
    """Send the log to another group."""
    _configure(LoggingConfig={"LogFormat": "JSON", "LogGroup": "/theirs"})


def the_memory(_: LoopbackAws, __: Past) -> None:
    """Change the memory size of $LATEST."""
    _configure(MemorySize=128)


def _configure(**values: Any) -> None:
    with closing(boto3.client("lambda")) as client:
        client.update_function_configuration(**FUNCTION, **values)


def the_concurrency(_: LoopbackAws, past: Past) -> None:
    """Stop the function."""
    past("lambda").put_function_concurrency(**FUNCTION, ReservedConcurrentExecutions=0)


def no_role(cloud: LoopbackAws, past: Past) -> None:
    """Delete the role."""
    past("iam").delete_role_policy(**ROLE, PolicyName="mlinfer")
    past("iam").delete_role(**ROLE)
    cloud.age("mlinfer-cats")


def no_policy(_: LoopbackAws, past: Past) -> None:
    """Delete the role's policy."""
    past("iam").delete_role_policy(**ROLE, PolicyName="mlinfer")


def another_role(cloud: LoopbackAws, past: Past) -> None:
    """Delete the role and create it again with equal settings, an hour after the function's last change."""
    iam = past("iam")
    role = iam.get_role(**ROLE)["Role"]
    policy = iam.get_role_policy(**ROLE, PolicyName="mlinfer")["PolicyDocument"]
    no_role(cloud, past)
    trust = json.dumps(role["AssumeRolePolicyDocument"])
    iam.create_role(**ROLE, Path=role["Path"], AssumeRolePolicyDocument=trust, Tags=role["Tags"])
    iam.put_role_policy(**ROLE, PolicyName="mlinfer", PolicyDocument=json.dumps(policy))


def public(_: LoopbackAws, past: Past) -> None:
    """Remove the bucket's block of public access."""
    past("s3").delete_public_access_block(Bucket=BUCKET)


def no_model(cloud: LoopbackAws, past: Past) -> None:
    """Delete the model."""
    for item in past("s3").list_objects_v2(Bucket=BUCKET)["Contents"]:
        past("s3").delete_object(Bucket=BUCKET, Key=item["Key"])
    cloud.forget_downloads()


def no_pull(_: LoopbackAws, past: Past) -> None:
    """Replace the repository's policy with a foreign one."""
    theirs = {"Sid": "Theirs", "Effect": "Deny", "Principal": "*", "Action": "ecr:DeleteRepository"}
    text = json.dumps({"Version": "2012-10-17", "Statement": [theirs]})
    past("ecr").set_repository_policy(repositoryName="mlinfer/cats", policyText=text)


def no_log_group(_: LoopbackAws, past: Past) -> None:
    """Delete the log group."""
    past("logs").delete_log_group(logGroupName="/aws/lambda/mlinfer-cats")


CASES = [
    (the_command, "function", "changed", ["lambda:UpdateFunctionConfiguration"]),
    (the_log, "function", "changed", ["lambda:UpdateFunctionConfiguration"]),
    (the_memory, "function", "changed", ["lambda:UpdateFunctionConfiguration"]),
    (the_concurrency, "function", "changed", ["lambda:DeleteFunctionConcurrency"]),
    (no_role, "role", "missing", ["iam:CreateRole", "iam:PutRolePolicy", "lambda:UpdateFunctionConfiguration"]),
    (no_policy, "role", "changed", ["iam:PutRolePolicy"]),
    (another_role, "role", "recreated", ["lambda:UpdateFunctionConfiguration"]),
    (public, "bucket", "changed", ["s3:PutBucketpublicAccessBlock"]),
    (no_model, "model", "missing", ["s3:PutObject"]),
    (no_pull, "repository", "changed", ["ecr:SetRepositoryPolicy"]),
    (no_log_group, "log group", "missing", ["logs:CreateLogGroup", "logs:PutRetentionPolicy"]),
]


@pytest.mark.parametrize(("spoil", "resource", "problem", "changes"), CASES)
def test_changes_by_hand_are_shown(
    mlinfer: MlInfer,
    live: LoopbackAws,
    past: Past,
    deploy_arguments: list[str],
    tiny_model: Path,
    spoil: Callable[[LoopbackAws, Past], None],
    resource: str,
    problem: str,
    changes: list[str],
) -> None:
    """status and the plan show the change, deploy repairs only that, and then nothing differs."""
    spoil(live, past)
    live.reset_calls()
    run = mlinfer("status", "--model", tiny_model, "--json", "--exit-code")
    told = json.loads(run.out)
    assert (run.code, told["as_here"]) == (6, False)
    assert [(drift["resource"], drift["problem"]) for drift in told["drift"]] == [(resource, problem)]
    plan = json.loads(mlinfer("deploy", *deploy_arguments, "--dry-run", "--json").out)
    planned = {step["name"] for step in plan["steps"] if step["outcome"] not in ("unchanged", "skipped")}
    assert ("function" if problem == "recreated" else resource) in planned
    assert live.changes == []
    run = mlinfer("deploy", *deploy_arguments)
    assert run.code == 0, run.err
    assert live.changes == changes
    run = mlinfer("status", "--model", tiny_model, "--json", "--exit-code")
    assert (run.code, json.loads(run.out)["drift"]) == (0, [])
    assert mlinfer("deploy", *deploy_arguments).code == 0
    assert live.changes == changes


@pytest.mark.parametrize("spoil", [no_role, another_role, no_model])
def test_an_unverified_live_version_is_verified_again(
    mlinfer: MlInfer,
    live: LoopbackAws,
    past: Past,
    deploy_arguments: list[str],
    spoil: Callable[[LoopbackAws, Past], None],
) -> None:
    """The deployed version is verified again once its role, policy or model is restored."""
    spoil(live, past)
    live.reset_calls()
    run = mlinfer("deploy", *deploy_arguments)
    assert run.code == 0, run.err
    assert live.calls.count("lambda:Invoke") == 3
    assert "lambda:PublishVersion" not in live.calls


def test_the_role_reads_the_models_of_ten_versions(
    mlinfer: MlInfer, live: LoopbackAws, past: Past, deploy_arguments: list[str], tmp_path: Path
) -> None:
    """The eleventh model replaces the first in the role; deploying again changes nothing."""
    for number in range(10):
        model = models.mean_colour(tmp_path / f"{number}.onnx", name=f"m{number}")
        run = mlinfer("deploy", "--model", model, *deploy_arguments[2:])
        assert run.code == 0, run.err
    policy = past("iam").get_role_policy(**ROLE, PolicyName="mlinfer")["PolicyDocument"]
    (readable,) = (s["Resource"] for s in policy["Statement"] if s["Sid"] == "ReadModels")
    assert len(readable) == 10
    live.reset_calls()
    assert mlinfer("deploy", "--model", model, *deploy_arguments[2:]).code == 0
    assert live.changes == []
    assert json.loads(mlinfer("status", "--model", model, "--json").out)["drift"] == []


def test_foreign_policies_are_reported_and_kept(
    mlinfer: MlInfer, live: LoopbackAws, past: Past, deploy_arguments: list[str], tiny_model: Path
) -> None:
    """A policy that someone attached to the role is listed and kept, and does not cause exit code 6."""
    iam = past("iam")
    statement = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    text = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_role_policy(**ROLE, PolicyName="theirs", PolicyDocument=text)
    arn = iam.create_policy(PolicyName="wide", PolicyDocument=text)["Policy"]["Arn"]
    iam.attach_role_policy(**ROLE, PolicyArn=arn)
    live.reset_calls()
    run = mlinfer("status", "--model", tiny_model, "--json", "--exit-code")
    assert (run.code, [drift["problem"] for drift in json.loads(run.out)["drift"]]) == (0, ["added", "added"])
    run = mlinfer("deploy", *deploy_arguments, "--json")
    assert (run.code, live.changes) == (0, [])
    assert "theirs" in run.out
    assert "wide" in run.out
    assert mlinfer("destroy", "--bucket", BUCKET, "--yes").code == 0


def test_an_interrupted_measurement_is_reported(
    mlinfer: MlInfer, live: LoopbackAws, deploy_arguments: list[str], tiny_model: Path
) -> None:
    """status shows the changes that a killed bench left, and deploy reverts them."""
    live.before = lambda _, request, forward: forward(request) if len(live.changes) <= 1 else None
    assert mlinfer("bench", "--target", "aws", "--cold", "1", "--warm", "1", "--memory", "512").code == 4
    live.before = None
    live.reset_calls()
    told = json.loads(mlinfer("status", "--model", tiny_model, "--json").out)
    assert [drift["problem"] for drift in told["drift"]] == ["unfinished"]
    assert mlinfer("deploy", *deploy_arguments).code == 0
    assert live.changes == ["lambda:UpdateFunctionConfiguration"]
    assert json.loads(mlinfer("status", "--model", tiny_model, "--json").out)["drift"] == []


def test_resources_without_read_access_are_unknown(mlinfer: MlInfer, live: LoopbackAws, tiny_model: Path) -> None:
    """A resource that these credentials cannot see is unknown; status shows the rest."""
    for call in ("logs:DescribeLogGroups", "ecr:DescribeRepositories"):
        live.fail(call, lambda *_, call=call: failed(call, 403, "AccessDeniedException", "not authorized"))
    run = mlinfer("status", "--model", tiny_model, "--json", "--exit-code")
    drift = json.loads(run.out)["drift"]
    assert run.code == 0
    assert {(item["resource"], item["problem"]) for item in drift} == {
        ("log group", "unknown"),
        ("repository", "unknown"),
    }
