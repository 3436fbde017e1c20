"""Find and delete the AWS resources of a project.

Resources without the project's tag are kept, also if their tags cannot be read. Each run searches AWS again, so it
completes an interrupted one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from ..clients.aws_errors import error_code, explained, none_if_absent
from ..clients.ownership import Owner
from ..clients.waiter import Waiter
from ..errors import MlinferError, RemoteError, UsageError
from ..names import ALIAS, Account, Names
from ..terminal import counted
from .resources.bucket import is_untouched, owner_of_bucket
from .resources.function import owner_of_function, reason_to_wait
from .resources.log_group import find_log_group, owner_of_log_group
from .resources.repository import owner_of_repository
from .resources.role import find_role, other_policies, owner_of_role, read_policy
from .resources.staging import expiry_rule, projects_with_expiry, read_rules, remove_expiry

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient
    from mypy_boto3_iam import IAMClient
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_s3 import S3Client


_MODEL = r"[^/]+/[0-9a-f]{64}\.onnx"  # the keys that `upload` creates below its prefix
_UNSEEN = ("access_denied", "wrong_region")  # access is denied, or the bucket now belongs to another account
_EVERYTHINGS = ("connection_failed", "expired_credentials", "invalid_credentials", "clock_skewed")
_AT_ONCE = 1000  # objects that S3 deletes in one request


@dataclass(frozen=True)
class Resource:
    """A resource with one of the project's names. remove: deletes it, and returns why it was kept, "" if deleted.

    left: why it must not be deleted, "" if it can be. remedy: how to fix that, "" if it belongs to someone else.
    """

    kind: str
    name: str
    detail: str
    remove: Callable[[], str]
    left: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class RemovalClients:
    """The clients of all services that the project uses."""

    functions: LambdaClient
    iam: IAMClient
    logs: CloudWatchLogsClient
    ecr: ECRClient
    s3: S3Client


@dataclass(frozen=True)
class RemovalSpec:
    """What to delete. bucket: "" if unknown. prefix: key prefix of its models."""

    account: Account
    names: Names
    bucket: str
    prefix: str
    keep_model: bool


def plan_removal(spec: RemovalSpec, clients: RemovalClients, waiter: Waiter) -> list[Resource]:
    """Return the resources in the order of their deletion. Raises MlinferError.

    Resources that must be kept are included with the reason. The role is last because its policy still names the bucket
    when the function is gone: see `bucket_in_use`.
    """
    names = spec.names
    return [
        *_function(clients.functions, names, waiter),
        *_seen("bucket", f"s3://{spec.bucket}", lambda: _bucket(spec, clients)),
        *_seen("log group", names.log_group, lambda: _log_group(clients.logs, names)),
        *_seen("repository", names.image, lambda: _repository(clients.ecr, names)),
        *_role(clients.iam, names),
    ]


def _seen(kind: str, name: str, look: Callable[[], Iterator[Resource]]) -> list[Resource]:
    """Return the resources found, or one that is kept because access is denied. Raises MlinferError."""
    try:
        return list(look())
    except RemoteError as error:
        if error.code not in _UNSEEN:
            raise
        return [Resource(kind, name, f"kept: {error}", lambda: "", str(error), error.hint)]


def _resource(owner: Owner, detail: str, remove: Callable[[], str]) -> Iterator[Resource]:
    """Yield the resource, to be deleted if the project manages it and kept otherwise."""
    if owner.state == "ours":
        yield Resource(owner.kind, owner.name, detail, remove)
    else:
        remedy = owner.remedy if owner.state == "unknown" else ""
        yield Resource(owner.kind, owner.name, f"kept: {owner.reason}", lambda: owner.reason, owner.reason, remedy)


def bucket_in_use(functions: LambdaClient, iam: IAMClient, names: Names) -> str:
    """Return the bucket with the staging prefix that `deploy` configured; "" if unknown.

    Raises RemoteError.
    """
    with explained(f"function {names.function}"):
        there = none_if_absent(lambda: functions.get_function(FunctionName=names.function))
        ours = there and owner_of_function(functions, names, there).state == "ours"
        variables = there["Configuration"].get("Environment", {}).get("Variables", {}) if there and ours else {}
    if found := re.findall(_staging("s3://", names), variables.get("MLINFER_INPUT_PREFIXES", "")):
        return str(found[-1])
    return _bucket_of_role(iam, names)


def require_bucket_in_use(named: str, in_use: str) -> None:
    """Raise UsageError if the named bucket is not the one that the deployment uses."""
    if named and in_use and named != in_use:
        message = f"the deployed function uses bucket {in_use}, not {named}"
        raise UsageError("another_bucket", message, f"Run `mlinfer destroy --bucket {in_use}`.")


def _bucket_of_role(iam: IAMClient, names: Names) -> str:
    """Return the bucket with the staging prefix that the project's role may read, "" if there is none. Raises RemoteError."""
    with explained(f"role {names.function}"):
        role = find_role(iam, names)
        policy = read_policy(iam, names) if role and owner_of_role(names, role).state == "ours" else {}
    found = re.findall(_staging(":s3:::", names), " ".join(json.dumps(policy).split('"')))
    return str(found[-1]) if found else ""


def _staging(begin: str, names: Names) -> str:
    """Return the pattern that finds the bucket in the staging prefix's S3 URI or ARN."""
    return rf"{begin}([^/ ]+)/{re.escape(names.staging_prefix)}\*?(?= |$)"


@dataclass(frozen=True)
class Removal:
    """The result for a resource. kept: why it still exists, "" if deleted. remedy: set if deleting it failed."""

    resource: Resource
    kept: str = ""
    remedy: str = ""


def remove(resources: Iterable[Resource]) -> Iterator[Removal]:
    """Delete the resources in order, and yield the result of each.

    A failure does not stop the others, except for errors that would affect all of them, such as expired credentials.
    """
    ended: MlinferError | None = None
    for resource in resources:
        if resource.left:
            yield Removal(resource, resource.left, resource.remedy)
            continue
        try:
            if ended:
                raise ended
            with explained(f"{resource.kind} {resource.name}"):
                kept = resource.remove()
            yield Removal(resource, kept)
        except MlinferError as error:
            if error.code in _EVERYTHINGS:
                ended = error
            yield Removal(resource, str(error), error.hint or "Run the command again.")


def is_foreign(resource: Resource) -> bool:
    """Return whether another owner certainly manages the resource."""
    return bool(resource.left and not resource.remedy)


def left_behind(removals: Sequence[Removal]) -> RemoteError | None:
    """Return the error that lists the resources that could not be deleted, or None."""
    left = [removal for removal in removals if removal.remedy]
    if not left:
        return None
    return RemoteError("left_behind", f"could not delete {', '.join(map(_with_reason, left))}", left[0].remedy)


def _with_reason(removal: Removal) -> str:
    name = f"{removal.resource.kind} {removal.resource.name}"
    return f"{name} ({removal.kept.removeprefix(f'{name}: ')})"


def _function(client: LambdaClient, names: Names, waiter: Waiter) -> Iterator[Resource]:
    which = {"FunctionName": names.function}

    def gone() -> str:
        none_if_absent(lambda: client.delete_function_url_config(**which, Qualifier=ALIAS))
        waiter.retry(lambda: none_if_absent(lambda: client.delete_function(**which)), reason_to_wait)
        return ""

    with explained(f"function {names.function}"):
        there = none_if_absent(lambda: client.get_function(**which))
        if there:
            yield from _resource(owner_of_function(client, names, there), "with its versions, alias and URL", gone)


def _role(iam: IAMClient, names: Names) -> Iterator[Resource]:
    which: dict[str, Any] = {"RoleName": names.function}

    def gone() -> str:
        if profiles := _instance_profiles(iam, names):
            command = f"aws iam remove-role-from-instance-profile --role-name {names.function} --instance-profile-name"
            message = f"role {names.function} is in instance profile {', '.join(profiles)}"
            raise RemoteError("role_in_use", message, f"Run `{command} {profiles[0]}`, then `mlinfer destroy`.")
        for policy in iam.list_role_policies(**which)["PolicyNames"]:
            none_if_absent(lambda name=policy: iam.delete_role_policy(**which, PolicyName=name))  # type: ignore[misc]
        for attached in iam.list_attached_role_policies(**which)["AttachedPolicies"]:
            arn = attached["PolicyArn"]
            none_if_absent(lambda arn=arn: iam.detach_role_policy(**which, PolicyArn=arn))  # type: ignore[misc]
        none_if_absent(lambda: iam.delete_role(**which))
        return ""

    with explained(f"role {names.function}"):
        if there := find_role(iam, names):
            others = other_policies(iam, names)
            detail = (
                f"with its policies, including some not added by mlinfer: {', '.join(others)}"
                if others
                else "with its policy"
            )
            yield from _resource(owner_of_role(names, there), detail, gone)


def _instance_profiles(iam: IAMClient, names: Names) -> list[str]:
    """Return the instance profiles with the role, which IAM then cannot delete; [] if access is denied."""
    try:
        found = iam.list_instance_profiles_for_role(RoleName=names.function)["InstanceProfiles"]
    except ClientError:  # deleting the role then reports the error
        return []
    return [profile["InstanceProfileName"] for profile in found]


def _log_group(logs: CloudWatchLogsClient, names: Names) -> Iterator[Resource]:
    def gone() -> str:
        none_if_absent(lambda: logs.delete_log_group(logGroupName=names.log_group))
        return ""

    with explained(f"log group {names.log_group}"):
        if there := find_log_group(logs, names):
            yield from _resource(owner_of_log_group(logs, names, there), f"{there.get('storedBytes', 0):,} bytes", gone)


def _repository(ecr: ECRClient, names: Names) -> Iterator[Resource]:
    def gone() -> str:
        none_if_absent(lambda: ecr.delete_repository(repositoryName=names.image, force=True))
        return ""

    with explained(f"repository {names.image}"):
        there = none_if_absent(lambda: ecr.describe_repositories(repositoryNames=[names.image])["repositories"][0])
        if there is None:
            return
        owner, count = owner_of_repository(ecr, names, there), 0
        if owner.state == "ours":
            pages = ecr.get_paginator("describe_images").paginate(repositoryName=names.image)
            count = sum(len(page["imageDetails"]) for page in pages)
        yield from _resource(owner, counted(count, "container image"), gone)


def _bucket(spec: RemovalSpec, clients: RemovalClients) -> Iterator[Resource]:
    """Yield the project's objects in the bucket, and the bucket."""
    if not spec.bucket:
        return
    named = spec.bucket == _bucket_of_role(clients.iam, spec.names)
    with explained(f"bucket {spec.bucket}", "s3:ListBucket and s3:ListBucketVersions on the bucket"):
        inside = list(_in_bucket(clients.s3, spec))
        if named and not spec.keep_model and (untagged := list(_untagged_bucket(clients.s3, spec))):
            inside = [*(resource for resource in inside if not is_foreign(resource)), *untagged]
    yield from inside


def _in_bucket(s3: S3Client, spec: RemovalSpec) -> Iterator[Resource]:
    """Yield the staged images and, if the project manages the bucket, the models and the bucket."""
    names, bucket = spec.names, spec.bucket
    if none_if_absent(lambda: s3.head_bucket(Bucket=bucket)) is None:
        reason = "it does not exist"
        yield Resource("bucket", f"s3://{bucket}", reason, lambda: reason, reason)
        return
    staged, rules = _objects(s3, bucket, prefix=names.staging_prefix, pattern="(?s:.*)"), read_rules(s3, bucket)[0]
    if staged or expiry_rule(names)["ID"] in [rule["ID"] for rule in rules]:

        def unstage() -> str:
            _delete(s3, bucket, staged)
            remove_expiry(s3, bucket, names)
            return ""

        yield Resource(
            "staging",
            f"s3://{bucket}/{names.staging_prefix}",
            f"{counted(len(staged), 'image')} and the lifecycle rule",
            unstage,
        )
    if spec.keep_model:
        return
    owner = owner_of_bucket(s3, names, bucket)
    if owner.state != "ours":
        yield from _resource(owner, "", lambda: "")
        return
    if others := sorted(projects_with_expiry(rules) - {names.project}):
        reason = f"it also contains models and images of project {', '.join(others)}"
        yield Resource("bucket", f"s3://{bucket}", f"kept with its models: {reason}", lambda: reason, reason)
        return
    below = "/".join([*filter(None, spec.prefix.split("/")), ""])
    if models := _objects(s3, bucket, prefix=below, pattern=_MODEL):
        yield Resource(
            "models", f"s3://{bucket}/{below}", counted(len(models), "object"), lambda: _delete(s3, bucket, models)
        )
    yield from _resource(owner, "only if it is empty", lambda: _delete_bucket(s3, bucket))


def _untagged_bucket(s3: S3Client, spec: RemovalSpec) -> Iterator[Resource]:
    """Yield the bucket named by the role's policy if `deploy` was killed before it tagged the bucket."""
    bucket = spec.bucket
    if none_if_absent(lambda: s3.head_bucket(Bucket=bucket)) is None or not is_untouched(s3, bucket, spec.account.id):
        return
    if owner_of_bucket(s3, spec.names, bucket).state == "foreign":
        yield Resource("bucket", f"s3://{bucket}", "empty and not tagged yet", lambda: _delete_bucket(s3, bucket))


def _objects(s3: S3Client, bucket: str, *, prefix: str, pattern: str) -> list[dict[str, Any]]:
    """Return keys and versions of the objects below a prefix, including older versions and delete markers."""
    pages: Iterable[Any] = s3.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix)
    found = [item for page in pages for kind in ("Versions", "DeleteMarkers") for item in page.get(kind, [])]
    named = [item for item in found if re.fullmatch(pattern, item["Key"].removeprefix(prefix))]
    return [{"Key": item["Key"], "VersionId": item["VersionId"]} for item in named]


def _delete(s3: S3Client, bucket: str, objects: list[Any]) -> str:
    for start in range(0, len(objects), _AT_ONCE):
        answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": objects[start : start + _AT_ONCE], "Quiet": True})
        if errors := answer.get("Errors"):
            code = "access_denied" if errors[0]["Code"] == "AccessDenied" else "service_failed"
            raise RemoteError(
                code,
                f"S3 did not delete {errors[0]['Key']}",
                "Add the permissions that `mlinfer doctor --policy` prints, then run the command again.",
                reason=errors[0].get("Message", errors[0]["Code"]),
            )
    return ""


def _delete_bucket(s3: S3Client, bucket: str) -> str:
    try:
        none_if_absent(lambda: s3.delete_bucket(Bucket=bucket))
    except ClientError as error:
        if error_code(error) != "BucketNotEmpty":
            raise
        return "it contains other objects"
    return ""
