"""The IAM policies, statement by statement, and the function's role."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from lambda_src.service import _covers
from mlinfer.cloud.resources.policies import deployer_policy, role_policy, trust_policy
from mlinfer.cloud.resources.repository import pull_statement
from mlinfer.cloud.resources.role import apply_readable, apply_role, plan_role
from mlinfer.errors import RemoteError
from mlinfer.names import Account, Names

from ...servers.aws import ACCOUNT, REGION

NAMES, HERE = Names("cats"), Account(ACCOUNT, REGION)
MODEL = "s3://my-models/models/resnet18/0123.onnx"
STAGING = "s3://my-models/mlinfer-staging/cats/"

Past = Callable[[str], Any]


def statements(policy: dict[str, Any]) -> dict[str, tuple[list[str], list[str]]]:
    """Return actions and resources of each statement; all of them allow."""
    assert policy["Version"] == "2012-10-17"
    assert {statement["Effect"] for statement in policy["Statement"]} == {"Allow"}
    return {s["Sid"]: (s["Action"], s.get("Resource", [])) for s in policy["Statement"]}


def test_only_lambda_can_assume_the_role() -> None:
    """Only Lambda may assume the role."""
    (statement,) = trust_policy()["Statement"]
    assert statement["Principal"] == {"Service": "lambda.amazonaws.com"}
    assert statement["Action"] == ["sts:AssumeRole"]


def test_the_function_may_write_its_log_and_read_its_model_and_pictures() -> None:
    """The role allows its log streams, one model object, and the objects under the prefixes: nothing else."""
    policy = role_policy(HERE, NAMES, models=[MODEL], prefixes=["s3://pictures/inbox/", STAGING])
    log = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/aws/lambda/mlinfer-cats:*"
    assert statements(policy) == {
        "WriteItsLog": (["logs:CreateLogStream", "logs:PutLogEvents"], [log]),
        "ReadPictures": (
            ["s3:GetObject"],
            ["arn:aws:s3:::my-models/mlinfer-staging/cats/*", "arn:aws:s3:::pictures/inbox/*"],
        ),
        "ReadModels": (["s3:GetObject"], ["arn:aws:s3:::my-models/models/resnet18/0123.onnx"]),
    }


def test_a_function_without_a_bucket_may_only_write_its_log() -> None:
    """With the model in the image and no bucket, the role reads nothing from S3."""
    assert list(statements(role_policy(HERE, NAMES, models=[], prefixes=[]))) == ["WriteItsLog"]


@pytest.mark.parametrize(
    ("prefix", "resource"),
    [
        ("s3://pictures", "pictures/*"),
        ("s3://pictures/in", "pictures/in/*"),
        ("s3://pictures/a*b?/", "pictures/a${*}b${?}/*"),
        ("s3://pictures/$x/", "pictures/${$}x/*"),
    ],
)
def test_a_prefix_means_the_same_to_iam_as_to_the_handler(prefix: str, resource: str) -> None:
    """A bucket alone covers everything, a prefix ends with a /, and IAM wildcards are escaped."""
    policy = role_policy(HERE, NAMES, models=[], prefixes=[prefix])
    assert statements(policy)["ReadPictures"][1] == [f"arn:aws:s3:::{resource}"]
    folder = prefix.removeprefix("s3://pictures").strip("/")
    assert _covers(prefix, "pictures", f"{folder}/x.jpg".lstrip("/"))
    assert _covers(prefix, "pictures", f"{folder}-private/x.jpg") is (prefix == "s3://pictures")


def test_a_kms_key_adds_what_it_needs() -> None:
    """With the bucket's key, the function may decrypt and the deployer encrypt; without a bucket, nothing is added."""
    key = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1234"
    assert statements(role_policy(HERE, NAMES, models=[MODEL], prefixes=[], kms_key=key))["Decrypt"] == (
        ["kms:Decrypt"],
        [key],
    )
    assert "Decrypt" not in statements(role_policy(HERE, NAMES, models=[], prefixes=[], kms_key=key))
    deployer = statements(deployer_policy(HERE, NAMES, bucket="my-models", prefix="models", kms_key=key))
    assert deployer["Key"] == (["kms:Decrypt", "kms:GenerateDataKey"], [key])
    assert "Key" not in statements(deployer_policy(HERE, NAMES, bucket="", prefix="models", kms_key=key))


def test_lambda_may_pull_the_image_for_this_function() -> None:
    """The repository's policy names the two actions, Lambda, and this function."""
    statement = pull_statement(HERE.repository(NAMES), NAMES.function)
    arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:mlinfer-cats"
    assert statement == {
        "Sid": "MlinferLambdaPull",
        "Effect": "Allow",
        "Principal": {"Service": "lambda.amazonaws.com"},
        "Action": ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
        "Condition": {"StringLike": {"aws:sourceArn": [arn, f"{arn}:*"]}},
    }


def test_the_deployer_reaches_this_project_alone() -> None:
    """Each statement that can name a resource names this project's; only Lambda can get the role."""
    policy = deployer_policy(HERE, NAMES, bucket="my-models", prefix="models")
    named = statements(policy)
    wide = {sid for sid, (_, resources) in named.items() if "*" in resources}
    assert wide == {"FindLogs", "LogInToRepositories", "Doctor"}
    for sid, (actions, resources) in named.items():
        assert not any("*" in action for action in actions), sid
        reads_only = sid in wide or sid == "DoctorSimulates"
        assert reads_only or all("cats" in arn or "my-models" in arn for arn in resources)
    (pass_role,) = (s for s in policy["Statement"] if s["Action"] == ["iam:PassRole"])
    assert pass_role["Resource"] == [f"arn:aws:iam::{ACCOUNT}:role/mlinfer/mlinfer-cats"]
    assert pass_role["Condition"] == {"StringEquals": {"iam:PassedToService": "lambda.amazonaws.com"}}
    assert named["Objects"][1] == ["arn:aws:s3:::my-models/mlinfer-staging/cats/*", "arn:aws:s3:::my-models/models/*"]
    assert len(json.dumps(policy)) < 6144  # what a managed policy of a customer's may have


def test_other_partitions() -> None:
    """In China and GovCloud, the ARNs have that partition."""
    policy = json.dumps(role_policy(Account("1", "cn-north-1", "aws-cn"), NAMES, models=[MODEL], prefixes=[]))
    assert "arn:aws:" not in policy
    assert "arn:aws-cn:s3:::my-models" in policy


def test_the_role_is_created_kept_and_changed(past: Past) -> None:
    """A missing role is created with path and tag, an equal one is kept, a changed policy is written again."""
    iam, policy = past("iam"), role_policy(HERE, NAMES, models=[MODEL], prefixes=[])
    assert apply_role(iam, NAMES, policy).outcome == "created"
    role = iam.get_role(RoleName="mlinfer-cats")["Role"]
    assert role["Arn"] == HERE.role(NAMES)
    assert role["Tags"] == [{"Key": "mlinfer:project", "Value": "cats"}]
    assert apply_role(iam, NAMES, policy).outcome == "unchanged"
    wider = role_policy(HERE, NAMES, models=[MODEL], prefixes=[STAGING])
    change = apply_role(iam, NAMES, wider)
    assert change.outcome == "changed"
    assert '+        "Sid": "ReadPictures"' in change.difference
    assert iam.get_role_policy(RoleName="mlinfer-cats", PolicyName="mlinfer")["PolicyDocument"] == wider


def test_a_role_changed_by_hand_is_repaired(past: Past) -> None:
    """A changed trust policy is restored."""
    iam, policy = past("iam"), role_policy(HERE, NAMES, models=[MODEL], prefixes=[])
    apply_role(iam, NAMES, policy)
    open_to_all = {**trust_policy(), "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "sts:AssumeRole"}]}
    iam.update_assume_role_policy(RoleName="mlinfer-cats", PolicyDocument=json.dumps(open_to_all))
    assert apply_role(iam, NAMES, policy).outcome == "changed"
    assert iam.get_role(RoleName="mlinfer-cats")["Role"]["AssumeRolePolicyDocument"] == trust_policy()


def test_a_plan_of_the_role() -> None:
    """The plan shows the complete role."""
    change = plan_role(None, role_policy(HERE, NAMES, models=[MODEL], prefixes=[]), names=NAMES, others=[])
    assert (change.outcome, '+    "Version": "2012-10-17"' in change.difference) == ("created", True)


def test_a_foreign_role_is_not_changed(past: Past) -> None:
    """A role without our tag is refused and not changed."""
    iam = past("iam")
    iam.create_role(RoleName="mlinfer-cats", AssumeRolePolicyDocument=json.dumps(trust_policy()))
    with pytest.raises(RemoteError) as raised:
        apply_role(iam, NAMES, role_policy(HERE, NAMES, models=[MODEL], prefixes=[]))
    assert raised.value.code == "not_ours"
    assert iam.list_role_policies(RoleName="mlinfer-cats")["PolicyNames"] == []


def test_one_more_model_becomes_readable(past: Past) -> None:
    """A rollback adds the old version's model to the role and removes nothing."""
    iam = past("iam")
    apply_role(iam, NAMES, role_policy(HERE, NAMES, models=[MODEL], prefixes=[STAGING]))
    older = MODEL.replace("0123", "0000")
    assert apply_readable(iam, NAMES, HERE.s3(MODEL)).outcome == "unchanged"
    assert apply_readable(iam, NAMES, HERE.s3(older)).outcome == "changed"
    there = iam.get_role_policy(RoleName="mlinfer-cats", PolicyName="mlinfer")["PolicyDocument"]
    assert there == role_policy(HERE, NAMES, models=[MODEL, older], prefixes=[STAGING])
