"""Find and remove all of a project's in AWS: what carries its tag, or a name that only it gives.

What has our name and not our tag is somebody else's, and stays. Each thing is found by asking, so that a run which was
cut short is finished by the next.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from ..aws import Client, error_code, explained, none_if_absent
from ..names import ALIAS, TAG, Names
from .function import reason_to_wait
from .loggroup import find_log_group
from .staging import expiry_rule, read_rules, remove_expiry
from .waiting import Patience

_MODEL = r"[^/]+/[0-9a-f]{64}\.onnx"  # what `upload` makes below its prefix
_AT_ONCE = 1000  # objects that S3 deletes in one request


@dataclass(frozen=True)
class Thing:
    """Something of the project's. remove: does it, and returns why it was kept, "" if it is gone."""

    kind: str
    name: str
    detail: str
    remove: Callable[[], str]


@dataclass(frozen=True)
class Clients:
    """The services that the project has something in."""

    functions: Client
    iam: Client
    logs: Client
    ecr: Client
    s3: Client


def find(
    clients: Clients, names: Names, bucket: str, prefix: str, patience: Patience, *, keep_model: bool
) -> list[Thing]:
    """Return what is there, in the order in which it is to go. bucket "" = none is configured. Raises MlinferError."""
    found = [
        *_function(clients.functions, names, patience),
        *_role(clients.iam, names),
        *_log_group(clients.logs, names),
        *_repository(clients.ecr, names),
    ]
    if bucket:
        with explained(f"s3://{bucket}", "s3:ListBucket, s3:ListBucketVersions and s3:GetBucketTagging on the bucket"):
            found += _in_bucket(clients.s3, names, bucket, prefix, keep_model=keep_model)
    return found


def bucket_in_use(functions: Client, names: Names) -> str:
    """Return the bucket that the function may read staged pictures from, which `deploy` tells it; "" if none is known."""
    with explained(f"the function {names.function}"):
        there = none_if_absent(lambda: functions.get_function(FunctionName=names.function)) or {}
    if there.get("Tags", {}).get(TAG) != names.project:
        return ""
    variables = there["Configuration"].get("Environment", {}).get("Variables", {})
    found = re.findall(
        rf"s3://([^/ ]+)/{re.escape(names.staging_prefix)}(?= |$)", variables.get("MLINFER_INPUT_PREFIXES", "")
    )
    return str(found[-1]) if found else ""


def remove(thing: Thing) -> str:
    """Remove it; return why it was kept, "" if it is gone. Raises RemoteError."""
    with explained(f"the {thing.kind} {thing.name}"):
        return thing.remove()


def _function(client: Client, names: Names, patience: Patience) -> Iterator[Thing]:
    which = {"FunctionName": names.function}

    def gone() -> str:
        none_if_absent(lambda: client.delete_function_url_config(**which, Qualifier=ALIAS))
        patience.retry(lambda: none_if_absent(lambda: client.delete_function(**which)), reason_to_wait)
        return ""

    with explained(f"the function {names.function}"):
        there = none_if_absent(lambda: client.get_function(**which))
        if there and there.get("Tags", {}).get(TAG) == names.project:
            yield Thing("function", names.function, "with its versions, alias and URL", gone)


def _role(iam: Client, names: Names) -> Iterator[Thing]:
    which = {"RoleName": names.function}

    def gone() -> str:
        for policy in iam.list_role_policies(**which)["PolicyNames"]:
            none_if_absent(lambda name=policy: iam.delete_role_policy(**which, PolicyName=name))  # type: ignore[misc]
        for attached in iam.list_attached_role_policies(**which)["AttachedPolicies"]:
            arn = attached["PolicyArn"]
            none_if_absent(lambda arn=arn: iam.detach_role_policy(**which, PolicyArn=arn))  # type: ignore[misc]
        none_if_absent(lambda: iam.delete_role(**which))
        return ""

    with explained(f"the role {names.function}"):
        there = none_if_absent(lambda: iam.get_role(**which)["Role"])
        if there and {"Key": TAG, "Value": names.project} in there.get("Tags", []):
            yield Thing("role", names.function, "with its policy", gone)


def _log_group(logs: Client, names: Names) -> Iterator[Thing]:
    def gone() -> str:
        none_if_absent(lambda: logs.delete_log_group(logGroupName=names.log_group))
        return ""

    with explained(f"the log group {names.log_group}"):
        if there := find_log_group(logs, names):
            yield Thing("log group", names.log_group, f"{there.get('storedBytes', 0):,} bytes", gone)


def _repository(ecr: Client, names: Names) -> Iterator[Thing]:
    def gone() -> str:
        none_if_absent(lambda: ecr.delete_repository(repositoryName=names.image, force=True))
        return ""

    with explained(f"the repository {names.image}"):
        there = none_if_absent(lambda: ecr.describe_repositories(repositoryNames=[names.image])["repositories"][0])
        if there is None:
            return
        tags = ecr.list_tags_for_resource(resourceArn=there["repositoryArn"])["tags"]
        if {"Key": TAG, "Value": names.project} in tags:
            pages = ecr.get_paginator("describe_images").paginate(repositoryName=names.image)
            count = sum(len(page["imageDetails"]) for page in pages)
            yield Thing("repository", names.image, f"{count} images", gone)


def _in_bucket(s3: Client, names: Names, bucket: str, prefix: str, *, keep_model: bool) -> Iterator[Thing]:
    """Yield the staged pictures; and in a bucket that is the project's own, the models and the bucket itself."""
    tags = none_if_absent(lambda: s3.get_bucket_tagging(Bucket=bucket)["TagSet"])
    if tags is None and none_if_absent(lambda: s3.head_bucket(Bucket=bucket)) is None:
        return
    staged = _objects(s3, bucket, names.staging_prefix, "(?s:.*)")
    if staged or expiry_rule(names)["ID"] in [rule["ID"] for rule in read_rules(s3, bucket)[0]]:

        def unstage() -> str:
            _delete(s3, bucket, staged)
            remove_expiry(s3, bucket, names)
            return ""

        yield Thing(
            "staging", f"s3://{bucket}/{names.staging_prefix}", f"{len(staged)} pictures, and their rule", unstage
        )
    if {"Key": TAG, "Value": names.project} not in (tags or []) or keep_model:
        return
    below = "/".join([*filter(None, prefix.split("/")), ""])
    if models := _objects(s3, bucket, below, _MODEL):
        yield Thing("models", f"s3://{bucket}/{below}", f"{len(models)} objects", lambda: _delete(s3, bucket, models))
    yield Thing("bucket", f"s3://{bucket}", "if nothing else is in it", lambda: _delete_bucket(s3, bucket))


def _objects(s3: Client, bucket: str, prefix: str, pattern: str) -> list[dict[str, Any]]:
    """Return key and version of what lies below a prefix, older versions and marks of deletion included."""
    pages = s3.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix)
    found = [item for page in pages for kind in ("Versions", "DeleteMarkers") for item in page.get(kind, [])]
    named = [item for item in found if re.fullmatch(pattern, item["Key"].removeprefix(prefix))]
    return [{"Key": item["Key"], "VersionId": item["VersionId"]} for item in named]


def _delete(s3: Client, bucket: str, objects: list[dict[str, Any]]) -> str:
    for start in range(0, len(objects), _AT_ONCE):
        answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": objects[start : start + _AT_ONCE], "Quiet": True})
        if errors := answer.get("Errors"):
            return f"S3 keeps {errors[0]['Key']}: {errors[0].get('Message', errors[0]['Code'])}"
    return ""


def _delete_bucket(s3: Client, bucket: str) -> str:
    try:
        none_if_absent(lambda: s3.delete_bucket(Bucket=bucket))
    except ClientError as error:
        if error_code(error) != "BucketNotEmpty":
            raise
        return "other objects are in it"
    return ""
