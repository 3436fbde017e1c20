"""The policy of `doctor --policy`, compared with every AWS call of every command.

A proxy before moto records each call with its request. The tables below say which IAM action and resource it needs, and
the policy for the same settings must allow them. `pytest -s` prints the result.
https://docs.aws.amazon.com/service-authorization/latest/reference/reference_policies_actions-resources-contextkeys.html
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pytest
from PIL import Image

from lambda_src.inference.download import sha256_of

from .. import models
from ..conftest import CAT, OTHER_IMAGE, Run
from ..pictures import encoded
from ..servers.aws import ACCOUNT, REGION, LoopbackAws
from ..servers.http import Request
from .conftest import BUCKET

MlInfer = Callable[..., Run]
Past = Callable[[str], Any]
Need = tuple[str, str]  # an action and a resource
Step = list[str] | Callable[[], None]  # a command, or what a person does by hand
ROLE = f"arn:aws:iam::{ACCOUNT}:role/mlinfer/mlinfer-cats"

# The actions of calls whose action has another name.
ACTIONS = {
    "lambda:Invoke": ["lambda:InvokeFunction"],
    # A tag in the creating call needs its own permission.
    "lambda:CreateFunction": ["lambda:CreateFunction", "lambda:TagResource"],
    "iam:CreateRole": ["iam:CreateRole", "iam:TagRole"],
    "logs:CreateLogGroup": ["logs:CreateLogGroup", "logs:TagResource"],
    "ecr:CreateRepository": ["ecr:CreateRepository", "ecr:TagResource"],
    "s3:CreateBucket": ["s3:CreateBucket", "s3:TagResource"],
}
S3_BUCKET = {  # by method and the first part of the query
    "HEAD": "ListBucket",
    "GET list-type": "ListBucket",
    "GET versions": "ListBucketVersions",
    "GET uploads": "ListBucketMultipartUploads",
    "GET tagging": "GetBucketTagging",
    "GET versioning": "GetBucketVersioning",
    "GET lifecycle": "GetLifecycleConfiguration",
    "GET publicAccessBlock": "GetBucketPublicAccessBlock",
    "GET encryption": "GetEncryptionConfiguration",
    "PUT": "CreateBucket",
    "PUT tagging": "PutBucketTagging",
    "PUT publicAccessBlock": "PutBucketPublicAccessBlock",
    "PUT encryption": "PutEncryptionConfiguration",
    "PUT lifecycle": "PutLifecycleConfiguration",
    "PUT versioning": "PutBucketVersioning",
    "DELETE lifecycle": "PutLifecycleConfiguration",
    "DELETE": "DeleteBucket",
}
# Allowed although no call of the commands below needs it, each with its reason.
ELSEWHERE = {
    "lambda:InvokeFunctionUrl": "predict --url sends it to the function's URL, which is no call of an API",
    "lambda:ListTags": "GetFunction returns tags only with it",
    **dict.fromkeys(
        (
            "ecr:BatchCheckLayerAvailability",
            "ecr:BatchGetImage",
            "ecr:CompleteLayerUpload",
            "ecr:GetDownloadUrlForLayer",
            "ecr:InitiateLayerUpload",
            "ecr:PutImage",
            "ecr:UploadLayerPart",
        ),
        "the Docker Engine pushes and reads images under the token",
    ),
}


def needs(call: str, request: Request) -> Iterator[Need]:
    """Yield the IAM permissions that one call needs."""
    service, _, name = call.removesuffix(" DryRun").partition(":")
    if service == "sts":
        return  # GetCallerIdentity needs no permission
    if service == "s3":
        yield from of_s3(request)
        return
    resource = {"lambda": of_lambda, "iam": of_iam, "logs": of_json, "ecr": of_json}[service](request)
    for action in ACTIONS.get(f"{service}:{name}", [f"{service}:{name}"]):
        yield action, resource
    if service == "lambda" and request.body[:1] == b"{" and "Role" in (wanted := json.loads(request.body)):
        yield "iam:PassRole", wanted["Role"]


def of_lambda(request: Request) -> str:
    """Return the function's ARN, with version or alias if the request names one."""
    path = unquote(urlsplit(request.target).path)
    if arn := re.search("arn:.*", path):
        return arn[0]
    if found := re.search("/functions/([^/]+)", path):
        which = f":{request.query['Qualifier']}" if "Qualifier" in request.query else ""
        return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{found[1]}{which}"
    if path.endswith("/functions"):
        return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{json.loads(request.body)['FunctionName']}"
    return "*"


def of_iam(request: Request) -> str:
    """Return the ARN of the role, or of the simulated principal."""
    asked = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
    return asked.get("PolicySourceArn") or f"arn:aws:iam::{ACCOUNT}:role/mlinfer/{asked['RoleName']}"


def of_json(request: Request) -> str:
    """Return the ARN of the log group or repository; * for account-wide calls."""
    asked = json.loads(request.body or b"{}")
    if "resourceArn" in asked:
        return str(asked["resourceArn"])
    if "logGroupName" in asked:
        return f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{asked['logGroupName']}"
    name = asked.get("repositoryName") or next(iter(asked.get("repositoryNames", [])), "")
    return f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/{name}" if name else "*"


def of_s3(request: Request) -> Iterator[Need]:
    """Yield the permissions that a request to S3 needs."""
    bucket, _, key = unquote(urlsplit(request.target).path).strip("/").partition("/")
    arn, method = f"arn:aws:s3:::{bucket}", request.method
    if "delete" in request.query:
        for name in re.findall("<Key>(.*?)</Key>", request.body.decode()):
            yield from (("s3:DeleteObject", f"{arn}/{name}"), ("s3:DeleteObjectVersion", f"{arn}/{name}"))
    elif key:
        yield from of_kms(request)
        action = {"HEAD": "GetObject", "GET": "GetObject", "PUT": "PutObject", "POST": "PutObject"}.get(method)
        deletes = "DeleteObjectVersion" if "versionId" in request.query else "DeleteObject"
        deletes = "AbortMultipartUpload" if "uploadId" in request.query else deletes
        yield f"s3:{action or deletes}", f"{arn}/{key}"
    else:
        named = {name: action for name, action in S3_BUCKET.items() if name.partition(" ")[0] == method}
        parts = [f"{method} {word}" for word in request.query if f"{method} {word}" in named]
        call = "s3:CreateBucket" if method == "PUT" and not parts else ""
        for action in ACTIONS.get(call, [f"s3:{named[parts[0] if parts else method]}"]):
            yield action, arn


def of_kms(request: Request) -> Iterator[Need]:
    """Yield the permissions for the object's KMS key."""
    if key := request.headers.get("x-amz-server-side-encryption-aws-kms-key-id"):
        yield "kms:GenerateDataKey", key
        if "uploads" in request.query:
            yield "kms:Decrypt", key  # to put the parts together


def allowing(policy: dict[str, Any], need: Need) -> str:
    """Return the statement that allows an action on a resource; "" if none does."""
    for statement in policy["Statement"]:
        patterns = [re.escape(resource).replace(r"\*", ".*") for resource in statement["Resource"]]
        if need[0] in statement["Action"] and any(re.fullmatch(pattern, need[1]) for pattern in patterns):
            return str(statement["Sid"])
    return ""


@pytest.fixture
def large_picture() -> Path:
    """Return a picture over Lambda's 6 MB."""
    pixels = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), dtype=np.uint8)
    path = Path("large.png")
    path.write_bytes(encoded(Image.fromarray(pixels), "PNG"))
    return path


def leave_an_upload(past: Past, model: Path) -> None:
    """Start an upload of the model that never ends."""
    past("s3").create_multipart_upload(Bucket=BUCKET, Key=f"models/large/{sha256_of(model)}.onnx")


def change_by_hand(past: Past) -> None:
    """Change settings that `deploy`, `push` and `destroy` restore."""
    anyone = {"Effect": "Allow", "Principal": "*", "Action": "sts:AssumeRole"}
    trust = json.dumps({"Version": "2012-10-17", "Statement": [anyone]})
    past("iam").update_assume_role_policy(RoleName="mlinfer-cats", PolicyDocument=trust)
    more = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [more]})
    arn = past("iam").create_policy(PolicyName="more", PolicyDocument=document)["Policy"]["Arn"]
    past("iam").attach_role_policy(RoleName="mlinfer-cats", PolicyArn=arn)
    which = {"repositoryName": "mlinfer/cats"}
    past("ecr").put_image_tag_mutability(**which, imageTagMutability="MUTABLE")
    past("ecr").put_image_scanning_configuration(**which, imageScanningConfiguration={"scanOnPush": False})


def check(mlinfer: MlInfer, world: LoopbackAws, steps: list[Step]) -> set[str]:
    """Run the steps, require that the policy allows each call, and return the actions that no call used."""
    policy = json.loads(mlinfer("doctor", "--policy").out)
    rows: dict[tuple[str, str, str, str], str] = {}
    for step in steps:
        if callable(step):
            step()
            continue
        world.reset_calls()
        run = mlinfer(*step)
        assert run.code == 0, (step, run.err)
        for call, request in zip(world.calls, world.requests, strict=True):
            for action, resource in needs(call, request):
                rows[step[0], call, action, resource] = allowing(policy, (action, resource))
    shown = sorted({(*row[:3], statement) for row, statement in rows.items()})
    sys.stdout.write("".join(f"| {' | '.join(cells)} |\n" for cells in shown))
    assert [row for row, statement in rows.items() if not statement] == []
    allowed = {action for statement in policy["Statement"] for action in statement["Action"]}
    return allowed - {action for _, _, action, _ in rows}


@pytest.mark.slow
@pytest.mark.parametrize("kms_key", ["", f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1234abcd-12ab"])
def test_the_deployers_policy_is_what_is_called(
    mlinfer: MlInfer,
    world: LoopbackAws,
    past: Past,
    tiny_model: Path,
    large_picture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kms_key: str,
) -> None:
    """Every call of every command is allowed on its resource, and every allowed action is used."""
    monkeypatch.setenv("MLINFER_KMS_KEY", kms_key)
    here = ["--model", str(tiny_model)]
    other = ["--model", str(models.mean_colour(tmp_path / "other.onnx", name="other", color="BGR"))]
    large = models.large_model(tmp_path / "large.onnx", 33 * 2**20)
    measured = [str(CAT), "--target", "aws", "--cold", "1", "--warm", "1"]
    steps: list[Step] = [
        ["upload", str(tiny_model), "--create-bucket"],
        lambda: leave_an_upload(past, large),
        ["upload", str(large)],
        ["push", *here],
        ["doctor", *here],
        ["deploy", *here, "--create-bucket", "--concurrency", "3", "--url", "iam"],
        lambda: change_by_hand(past),
        ["deploy", *here, "--url", "public", "--yes", "--dry-run"],
        ["deploy", *here, "--url", "public", "--yes"],
        ["deploy", *other, "--image", OTHER_IMAGE, "--dry-run"],
        ["deploy", *other, "--image", OTHER_IMAGE],
        ["status", *here],
        ["predict", str(CAT), "--target", "aws", *other],
        ["predict", str(large_picture), "--target", "aws", *other],
        ["logs"],
        ["bench", *measured],
        ["tune", *measured, "--memory", "512"],
        ["rollback", *here],
        ["destroy", "--keep-model", "--yes"],
        ["destroy", "--yes"],
    ]
    assert check(mlinfer, world, steps) == set(ELSEWHERE)


@pytest.mark.slow
def test_without_a_bucket_nothing_of_s3_is_allowed(
    mlinfer: MlInfer, world: LoopbackAws, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the model in the image, the policy has no statement about S3, and no call needs one."""
    monkeypatch.delenv("MLINFER_BUCKET")
    monkeypatch.setenv("MLINFER_MODEL_SOURCE", "image")
    world.image_model = tiny_model
    here = ["--model", str(tiny_model)]
    steps: list[Step] = [["deploy", *here], ["status", *here], ["destroy", "--yes"]]
    assert not [action for action in check(mlinfer, world, steps) if action.startswith("s3:")]


def test_the_policy_is_printed_without_any_check(mlinfer: MlInfer, world: LoopbackAws) -> None:
    """doctor --policy calls AWS only to get the account."""
    run = mlinfer("doctor", "--policy")
    assert run.code == 0, run.err
    assert world.calls == ["sts:GetCallerIdentity"]
