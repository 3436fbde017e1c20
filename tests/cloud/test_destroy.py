"""Deleting a project's resources."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from botocore import xform_name
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

from ..conftest import IMAGE, Run
from ..servers.aws import ACCOUNT, REGION, LoopbackAws, failed, hides_tags
from ..servers.http import Answer

MlInfer = Callable[..., Run]
Past = Callable[[str], Any]
BUCKET = "cloud-models"


@pytest.fixture
def full(mlinfer: MlInfer, cloud: LoopbackAws, past: Past, deploy_arguments: list[str]) -> LoopbackAws:
    """Return an AWS with everything that a project can have: two versions, a URL, an image, a staged image."""
    tags = [{"Key": "mlinfer:project", "Value": "cats"}]
    past("ecr").create_repository(repositoryName="mlinfer/cats", tags=tags)
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json"}
    manifest |= {"config": {"size": 1, "digest": "sha256:" + "1" * 64}, "layers": []}
    past("ecr").put_image(repositoryName="mlinfer/cats", imageManifest=json.dumps(manifest), imageTag="a")
    for more in ([], ["--memory", "512", "--url", "public", "--yes"]):
        run = mlinfer("deploy", *deploy_arguments, *more)
        assert run.code == 0, run.err
    past("s3").put_object(Bucket=BUCKET, Key="mlinfer-staging/cats/red.png", Body=b"x")
    cloud.calls.clear()
    return cloud


def left(past: Past) -> dict[str, list[str]]:
    """Return the names of everything in AWS."""
    return {
        "functions": [item["FunctionName"] for item in past("lambda").list_functions()["Functions"]],
        "roles": [item["RoleName"] for item in past("iam").list_roles()["Roles"]],
        "logs": [item["logGroupName"] for item in past("logs").describe_log_groups()["logGroups"]],
        "repositories": [item["repositoryName"] for item in past("ecr").describe_repositories()["repositories"]],
        "buckets": [item["Name"] for item in past("s3").list_buckets()["Buckets"]],
    }


NOTHING: dict[str, list[str]] = {"functions": [], "roles": [], "logs": [], "repositories": [], "buckets": []}


def test_all_resources_of_the_project_are_deleted(mlinfer: MlInfer, full: LoopbackAws, past: Past) -> None:
    """Everything is listed, then deleted; a second run finds nothing and succeeds."""
    run = mlinfer("destroy", "--bucket", BUCKET, "--yes")
    assert run.code == 0, run.err
    kinds = ["function", "staging", "models", "bucket", "log group", "repository", "role"]
    told = run.err.splitlines()
    assert [line[:10].strip() for line in told] == kinds * 2
    assert all(line.endswith("deleted") for line in told[len(kinds) :])
    assert "1 container image)" in run.err
    assert left(past) == NOTHING
    full.calls.clear()
    run = mlinfer("destroy", "--bucket", BUCKET)
    assert (run.code, run.err.splitlines()[-1]) == (0, "Project cats has no resources in AWS.")
    assert f"s3://{BUCKET}  (" in run.err
    assert full.changes == []


def services_of(calls: list[str]) -> set[str]:
    """Return the services that were called."""
    return {call.partition(":")[0] for call in calls}


def listings(past: Past, services: set[str]) -> dict[str, Any]:
    """Return the answer of every operation of the services that lists something and needs no name."""
    found = {}
    for service in sorted(services):
        client = past(service)
        for name in client.meta.service_model.operation_names:
            needs = client.meta.service_model.operation_model(name).input_shape
            if name.startswith(("List", "Describe")) and not (needs and needs.required_members):
                with suppress(ClientError, ResponseParserError):  # moto does not have it
                    answer = getattr(client, xform_name(name))()
                    found[f"{service}:{name}"] = {k: v for k, v in answer.items() if k != "ResponseMetadata"}
    return found


@pytest.mark.slow
def test_every_kind_that_a_deployment_creates_goes(
    mlinfer: MlInfer, world: LoopbackAws, past: Past, tiny_model: Path
) -> None:
    """After deploy and destroy, all services that deploy calls list what they listed before.

    No kind of resource is named here: services and listings follow from deploy's calls, also for a kind added later.
    """
    everything = ["--create-bucket", "--concurrency", "3", "--url", "public", "--yes"]
    assert mlinfer("deploy", "--model", tiny_model, *everything, "--dry-run").code == 0
    services = services_of(world.calls)
    before = listings(past, services)
    assert mlinfer("deploy", "--model", tiny_model, *everything).code == 0
    created = [name for name, answer in listings(past, services).items() if answer != before[name]]
    assert services_of(created) == services_of(world.changes)
    assert mlinfer("destroy", "--yes").code == 0
    assert listings(past, services) == before


@pytest.mark.usefixtures("full")
def test_a_bucket_that_was_named_by_a_flag_of_deploy(mlinfer: MlInfer, past: Past) -> None:
    """Without --bucket, it is the function's bucket; without function and role, S3 is skipped with a note."""
    run = mlinfer("destroy", "--yes")
    assert run.code == 0, run.err
    assert f"s3://{BUCKET}" in run.err
    assert left(past) == NOTHING
    assert "S3" in mlinfer("destroy").err


@pytest.mark.usefixtures("full")
def test_the_function_is_already_deleted(mlinfer: MlInfer, past: Past) -> None:
    """If the function was deleted by hand, the bucket is found through the role."""
    past("lambda").delete_function(FunctionName="mlinfer-cats")
    assert mlinfer("destroy", "--yes").code == 0
    assert left(past) == NOTHING


def test_nothing_is_deleted_without_confirmation(mlinfer: MlInfer, full: LoopbackAws, past: Past) -> None:
    """Without a terminal, everything is listed with project, account and Region, and nothing is deleted."""
    run = mlinfer("destroy", "--bucket", BUCKET)
    assert run.code == 2
    assert "mlinfer destroy --yes --project cats" in run.err
    assert f"project cats in account {ACCOUNT}, Region {REGION}" in run.err
    assert "repository mlinfer/cats" in run.err
    assert full.changes == []
    assert left(past)["functions"] == ["mlinfer-cats"]


def test_yes_needs_an_explicit_project(
    mlinfer: MlInfer, full: LoopbackAws, past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--yes does not accept the folder's name as the project; flag, variable or mlinfer.toml must name it."""
    monkeypatch.delenv("MLINFER_PROJECT")
    run = mlinfer("destroy", "--yes", "--json")
    assert (run.code, json.loads(run.out)["error"]["code"]) == (2, "no_project")
    assert full.changes == []
    Path("mlinfer.toml").write_text('project = "dogs"\n')
    assert mlinfer("destroy", "--yes").code == 0
    assert full.changes == []
    assert mlinfer("destroy", "--yes", "--project", "cats").code == 0
    assert left(past) == NOTHING


def test_the_models_can_be_kept(mlinfer: MlInfer, full: LoopbackAws, past: Past) -> None:
    """--keep-model keeps the models, the bucket and its other rules; staged images are deleted."""
    run = mlinfer("destroy", "--bucket", BUCKET, "--keep-model", "--yes", "--json")
    assert run.code == 0, run.err
    kinds = [thing["kind"] for thing in json.loads(run.out)["things"]]
    assert kinds == ["function", "staging", "log group", "repository", "role"]
    assert left(past) == {**NOTHING, "buckets": [BUCKET]}
    keys = [item["Key"] for item in past("s3").list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert [key.partition("/")[0] for key in keys] == ["models"]
    rules = past("s3").get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]
    assert [rule["ID"] for rule in rules] == ["mlinfer-abandoned-parts"]
    assert "s3:DeleteObjects" in full.changes


def test_a_bucket_that_the_project_does_not_manage(
    mlinfer: MlInfer, cloud: LoopbackAws, past: Past, deploy_arguments: list[str]
) -> None:
    """In a bucket without the project's tag, only the project's staging prefix is deleted."""
    s3 = past("s3")
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_object(Bucket=BUCKET, Key="theirs.txt", Body=b"x")
    assert mlinfer("deploy", *deploy_arguments).code == 0
    for key in ("mlinfer-staging/cats/red.png", "mlinfer-staging/dogs/red.png"):
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"x")
    assert mlinfer("destroy", "--bucket", BUCKET, "--yes").code == 0
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert [key.partition("/")[0] for key in keys] == ["mlinfer-staging", "models", "theirs.txt"]
    assert "mlinfer-staging/dogs/red.png" in keys
    assert cloud.calls.count("s3:DeleteObjects") == 1


def test_other_objects_keep_the_bucket(mlinfer: MlInfer, full: LoopbackAws, past: Past) -> None:
    """Objects of others are not deleted, so the bucket stays, with a note."""
    past("s3").put_object(Bucket=BUCKET, Key="models/notes.txt", Body=b"x")
    run = mlinfer("destroy", "--bucket", BUCKET, "--yes")
    assert run.code == 0, run.err
    assert [line for line in run.err.splitlines() if line.startswith("bucket     kept: ")]
    assert [item["Key"] for item in past("s3").list_objects_v2(Bucket=BUCKET)["Contents"]] == ["models/notes.txt"]
    assert "lambda:DeleteFunction" in full.changes


def test_a_bucket_that_another_project_uses(mlinfer: MlInfer, full: LoopbackAws, past: Past, tiny_model: Path) -> None:
    """The models stay while another project is deployed from the bucket."""
    assert full
    run = mlinfer("deploy", "--project", "dogs", "--model", tiny_model, "--bucket", BUCKET, "--image", IMAGE)
    assert run.code == 0, run.err
    run = mlinfer("destroy", "--bucket", BUCKET, "--yes", "--json")
    assert run.code == 0, run.err
    assert "bucket" not in [thing["kind"] for thing in json.loads(run.out)["things"]]
    assert "project dogs" in run.err
    keys = [item["Key"].partition("/")[0] for item in past("s3").list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert keys == ["models"]
    assert mlinfer("destroy", "--project", "dogs", "--bucket", BUCKET, "--yes").code == 0
    assert mlinfer("destroy", "--bucket", BUCKET, "--yes").code == 0
    assert left(past) == NOTHING


def test_models_that_s3_keeps_are_named(mlinfer: MlInfer, full: LoopbackAws, past: Past) -> None:
    """An object that S3 refuses to delete stays: exit code 4 with S3's words."""
    held = "<DeleteResult><Error><Key>models/x.onnx</Key><Code>AccessDenied</Code><Message>locked</Message></Error></DeleteResult>"
    full.fail("s3:DeleteObjects", lambda *_: Answer(200, {"content-type": "application/xml"}, held.encode()))
    run = mlinfer("destroy", "--bucket", BUCKET, "--yes", "--json")
    assert (run.code, json.loads(run.out)["error"]["code"]) == (4, "left_behind")
    assert "locked" in json.loads(run.out)["error"]["message"]
    assert left(past) == {**NOTHING, "buckets": [BUCKET]}


def test_foreign_resources_are_kept(mlinfer: MlInfer, cloud: LoopbackAws, past: Past) -> None:
    """Resources with our names but without the project's tag are kept."""
    trust = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "sts:AssumeRole"}]}
    role = past("iam").create_role(RoleName="mlinfer-cats", AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
    past("lambda").create_function(
        FunctionName="mlinfer-cats", Role=role, Code={"ImageUri": IMAGE}, PackageType="Image"
    )
    past("ecr").create_repository(repositoryName="mlinfer/cats")
    past("logs").create_log_group(logGroupName="/aws/lambda/mlinfer-cats")
    past("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    run = mlinfer("destroy", "--yes", "--bucket", BUCKET)
    assert run.code == 0
    assert run.err.endswith("Project cats has no resources in AWS.\n")
    assert run.err.count("kept: not managed by project cats") == 5
    assert cloud.changes == []


@pytest.mark.parametrize(
    ("call", "kind", "permission"),
    [
        ("lambda:GetFunction", "function", "lambda:ListTags"),
        ("logs:ListTagsForResource", "log group", "logs:ListTagsForResource"),
        ("ecr:ListTagsForResource", "repository", "ecr:ListTagsForResource"),
        ("s3:GET tagging", "bucket", "s3:GetBucketTagging"),
    ],
)
def test_resources_with_unknown_tags_are_kept(
    mlinfer: MlInfer, full: LoopbackAws, past: Past, call: str, kind: str, permission: str
) -> None:
    """A resource whose tags are hidden stays, the rest is deleted, and exit code 4 names the permission."""
    full.before = hides_tags(call)
    run = mlinfer("destroy", "--bucket", BUCKET, "--yes", "--json")
    document = json.loads(run.out)
    assert (run.code, document["error"]["code"]) == (4, "left_behind")
    assert permission in document["error"]["hint"]
    kept = [thing["kind"] for thing in document["things"] if thing["outcome"] == "kept"]
    assert kept == [kind]
    assert sum(map(len, left(past).values())) == 1
    full.before = None
    assert mlinfer("destroy", "--bucket", BUCKET, "--yes").code == 0
    assert left(past) == NOTHING


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        ("lambda:DeleteFunction", "functions"),
        ("iam:DeleteRole", "roles"),
        ("logs:DeleteLogGroup", "logs"),
        ("ecr:DeleteRepository", "repositories"),
        ("s3:DELETE", "buckets"),
    ],
)
def test_resources_without_delete_access_are_named(
    mlinfer: MlInfer, full: LoopbackAws, past: Past, call: str, kind: str
) -> None:
    """If a deletion is refused, only that resource stays; it is named, and the exit code is 4."""
    full.fail(call, lambda *_: failed(call, 403, "AccessDenied", f"not authorized to perform: {call}"))
    run = mlinfer("destroy", "--bucket", BUCKET, "--yes", "--json")
    document = json.loads(run.out)
    assert (run.code, document["error"]["code"]) == (4, "left_behind")
    (kept,) = [thing["name"] for thing in document["things"] if thing["outcome"] == "kept"]
    assert kept in document["error"]["message"]
    assert {name: found for name, found in left(past).items() if found}.keys() == {kind}


def test_an_interrupted_removal_is_finished(mlinfer: MlInfer, full: LoopbackAws, past: Past) -> None:
    """If some deletions fail, the others are done; the next run deletes the rest."""
    calls = ("lambda:DeleteFunction", "logs:DeleteLogGroup", "ecr:DeleteRepository", "iam:DeleteRole")
    for call in calls:
        refusal = failed(call, 500, "InternalFailure", "Sorry")
        full.fail(call, lambda *_, refusal=refusal: refusal, times=1)
    run = mlinfer("destroy", "--bucket", BUCKET, "--yes", "--json")
    document = json.loads(run.out)
    assert (run.code, document["error"]["code"]) == (4, "left_behind")
    kept = [thing["kind"] for thing in document["things"] if thing["outcome"] == "kept"]
    assert kept == ["function", "log group", "repository", "role"]
    assert left(past)["buckets"] == []
    assert mlinfer("destroy", "--bucket", BUCKET, "--yes").code == 0
    assert left(past) == NOTHING


def test_expired_credentials_in_the_middle(mlinfer: MlInfer, full: LoopbackAws, past: Past) -> None:
    """After an error that would affect every deletion, the rest is not tried and is listed as kept."""
    full.fail("logs:DeleteLogGroup", lambda *_: failed("logs:DeleteLogGroup", 400, "ExpiredTokenException", "expired"))
    run = mlinfer("destroy", "--yes", "--json")
    kept = [thing["kind"] for thing in json.loads(run.out)["things"] if thing["outcome"] == "kept"]
    assert (run.code, kept) == (4, ["log group", "repository", "role"])
    assert "ecr:DeleteRepository" not in full.changes
    assert left(past)["functions"] == []


@pytest.mark.parametrize(
    ("call", "kind", "name"),
    [
        ("s3:HeadBucket", "bucket", f"s3://{BUCKET}"),
        ("logs:DescribeLogGroups", "log group", "/aws/lambda/mlinfer-cats"),
        ("ecr:DescribeRepositories", "repository", "mlinfer/cats"),
    ],
)
def test_resources_without_read_access_are_kept(
    mlinfer: MlInfer, full: LoopbackAws, past: Past, call: str, kind: str, name: str
) -> None:
    """A resource that these credentials cannot see stays and is listed, the rest is deleted, and the exit code is 4."""
    full.fail(call, lambda *_: failed(call, 403, "AccessDenied", "no"))
    run = mlinfer("destroy", "--yes", "--json")
    document = json.loads(run.out)
    assert (run.code, document["error"]["code"]) == (4, "left_behind")
    assert [(t["kind"], t["name"]) for t in document["things"] if t["outcome"] == "kept"] == [(kind, name)]
    assert sum(map(len, left(past).values())) == 1


def test_a_bucket_that_the_function_does_not_use(mlinfer: MlInfer, full: LoopbackAws, past: Past) -> None:
    """A bucket other than the function's is refused before anything is deleted."""
    Path("mlinfer.toml").write_text('bucket = "old-models"\n')
    for flags in (["--bucket", "typo-models"], []):
        run = mlinfer("destroy", *flags, "--yes", "--json")
        error = json.loads(run.out)["error"]
        assert (run.code, error["code"]) == (2, "another_bucket")
        assert f"--bucket {BUCKET}" in error["hint"]
    assert full.changes == []
    assert mlinfer("destroy", "--bucket", BUCKET, "--yes").code == 0
    assert left(past) == NOTHING


def test_a_role_in_an_instance_profile(mlinfer: MlInfer, full: LoopbackAws, past: Past) -> None:
    """The role stays; the error names the instance profile and the command to run; the rest is deleted."""
    assert full
    past("iam").create_instance_profile(InstanceProfileName="servers")
    past("iam").add_role_to_instance_profile(InstanceProfileName="servers", RoleName="mlinfer-cats")
    run = mlinfer("destroy", "--yes", "--json")
    document = json.loads(run.out)
    assert (run.code, document["error"]["code"]) == (4, "left_behind")
    assert "servers" in document["error"]["message"]
    assert "aws iam remove-role-from-instance-profile" in document["error"]["hint"]
    assert left(past) == {**NOTHING, "roles": ["mlinfer-cats"]}
    assert past("iam").list_role_policies(RoleName="mlinfer-cats")["PolicyNames"]
    past("iam").remove_role_from_instance_profile(InstanceProfileName="servers", RoleName="mlinfer-cats")
    assert mlinfer("destroy", "--yes").code == 0
    assert left(past) == NOTHING
