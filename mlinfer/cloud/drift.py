"""Find resources that were changed or deleted in AWS after `deploy`, independent of the local configuration.

`deploy` repairs all of them, except policies that were added to the role.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..clients.aws_errors import explained
from ..errors import RemoteError
from ..names import Account, Names
from .deploy import READABLE_VERSIONS, DeploymentClients, model_uri
from .plan import difference
from .resources.bucket import is_bucket, plan_bucket, read_bucket
from .resources.function import before_bench, is_older, snapshot
from .resources.log_group import read_log_group
from .resources.model_object import is_object
from .resources.policies import READ_MODELS, role_policy, trust_policy
from .resources.repository import plan_repository, read_repository
from .resources.role import find_role, other_policies, read_role
from .resources.staging import plan_expiry, read_expiry
from .status import Status

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient


@dataclass(frozen=True)
class Drift:
    """One difference from what `deploy` created.

    problem: missing, changed, recreated (a role whose key grant is no longer valid), added (a policy, which is kept),
    unfinished (an interrupted measurement) or unknown (access denied).
    """

    resource: str
    name: str
    problem: str
    detail: str
    difference: str = ""

    @property
    def mended(self) -> bool:
        """Return whether the next `deploy` repairs it."""
        return self.problem not in ("added", "unknown")

    def as_json(self) -> dict[str, Any]:
        """Return the document for `--json`."""
        return {**asdict(self), "mended_by_deploy": self.mended}


def find_drift(
    clients: DeploymentClients, *, account: Account, names: Names, status: Status, kms_key: str
) -> list[Drift]:
    """Return what differs from what `deploy` left for the live version. Raises MlinferError.

    kms_key: ARN of the bucket's key, "" = none.
    """
    uri = _environment(status).get("MLINFER_MODEL_URI", "")
    checks: list[tuple[str, str, Callable[[], Iterator[Drift]]]] = [
        ("function", names.function, lambda: _function(names, status)),
        ("role", names.function, lambda: _role(clients, account=account, names=names, status=status, kms_key=kms_key)),
        ("log group", names.log_group, lambda: _log_group(clients, names)),
    ]
    if uri.startswith("s3://"):
        checks.append(("model", uri, lambda: _model(clients, uri)))
    if bucket := _bucket(names, status):
        checks.append(("bucket", f"s3://{bucket}", lambda: _in_bucket(clients, names, bucket)))
    ecr = clients.ecr
    if ecr and f"/{names.image}@" in (status.live or status.latest).settings.image:
        checks.append(("repository", names.image, lambda: _repository(ecr, names)))
    return [drift for resource, name, look in checks for drift in _looked(resource, name, look)]


def _looked(resource: str, name: str, look: Callable[[], Iterator[Drift]]) -> list[Drift]:
    """Return the differences found, or one that says that access is denied."""
    try:
        with explained(f"{resource} {name}"):
            return list(look())
    except RemoteError as error:
        if error.code not in ("access_denied", "owner_unknown"):
            raise
        return [Drift(resource, name, "unknown", str(error))]


def _environment(status: Status) -> dict[str, str]:
    return dict((status.live or status.latest).settings.environment)


def _bucket(names: Names, status: Status) -> str:
    """Return the bucket of the staging prefix, "" if there is none."""
    for prefix in _environment(status).get("MLINFER_INPUT_PREFIXES", "").split():
        if prefix.endswith(f"/{names.staging_prefix}"):
            return prefix.removeprefix("s3://").partition("/")[0]
    return ""


def _function(names: Names, status: Status) -> Iterator[Drift]:
    """Yield the differences between the function and its newest version, which cannot change."""
    latest, newest = status.latest.settings, status.newest
    before = before_bench(latest)
    if before != latest:
        told = f"bench or tune is running or was interrupted: $LATEST has {latest.memory} MB, not {before.memory} MB"
        yield Drift("function", names.function, "unfinished", told)
    if newest and snapshot(before) != snapshot(newest.settings):
        diff = difference("function", snapshot(before), snapshot(newest.settings))
        told = f"$LATEST differs from the newest version ({newest.version})"
        yield Drift("function", names.function, "changed", told, diff)
    if latest.concurrency == 0:
        yield Drift(
            "function", names.function, "changed", "its reserved concurrency is 0, so Lambda rejects every call"
        )


def _role(
    clients: DeploymentClients, *, account: Account, names: Names, status: Status, kms_key: str
) -> Iterator[Drift]:
    there, role = read_role(clients.iam, names), find_role(clients.iam, names)
    if there is None or role is None:
        yield Drift("role", names.function, "missing", "the function cannot read its model or write its log")
        return
    if is_older(status.latest, role["CreateDate"]):
        told = "it was recreated after the function's last update, so Lambda cannot decrypt the function's environment"
        yield Drift("role", names.function, "recreated", told)
    uris = {model_uri(version) for version in status.published[-READABLE_VERSIONS:]}
    uris.add(_environment(status).get("MLINFER_MODEL_URI", ""))
    prefixes = _environment(status).get("MLINFER_INPUT_PREFIXES", "").split()
    policy = role_policy(
        account, names, models={uri for uri in uris if uri.startswith("s3://")}, prefixes=prefixes, kms_key=kms_key
    )
    held, wanted = ({"trust": t, "policy": p} for t, p in ((there["trust"], there["policy"]), (trust_policy(), policy)))
    if _without_older_models(held, wanted) != wanted:
        yield Drift("role", names.function, "changed", "its policies were changed", difference("role", held, wanted))
    for other in other_policies(clients.iam, names):
        yield Drift("role", names.function, "added", f"policy {other} was not added by mlinfer")


def _without_older_models(held: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Return the role's policies without models that only older versions need."""
    needed = {arn for s in wanted["policy"]["Statement"] if s["Sid"] == READ_MODELS for arn in s["Resource"]}
    statements = [
        s | {"Resource": [arn for arn in s["Resource"] if arn in needed]} if s.get("Sid") == READ_MODELS else s
        for s in held["policy"].get("Statement", [])
    ]
    return {**held, "policy": {**held["policy"], "Statement": statements}}


def _log_group(clients: DeploymentClients, names: Names) -> Iterator[Drift]:
    if read_log_group(clients.logs, names) is None:
        yield Drift("log group", names.log_group, "missing", "the function cannot write its log")


def _model(clients: DeploymentClients, uri: str) -> Iterator[Drift]:
    there = is_object(clients.s3, uri)
    if there is None:
        yield Drift("model", uri, "unknown", "these credentials cannot check whether it exists")
    elif not there:
        yield Drift("model", uri, "missing", "new instances of the function cannot load it")


def _in_bucket(clients: DeploymentClients, names: Names, bucket: str) -> Iterator[Drift]:
    if not is_bucket(clients.s3, bucket):
        yield Drift("bucket", f"s3://{bucket}", "missing", "it contained the model and staged images")
        return
    closed = plan_bucket(read_bucket(clients.s3, names, bucket), bucket)
    if closed.outcome == "changed":
        yield Drift("bucket", f"s3://{bucket}", "changed", "public access is not blocked", closed.difference)
    expiry = plan_expiry(read_expiry(clients.s3, bucket), names)
    if expiry.outcome != "unchanged":
        told = "the lifecycle rule of staged images is missing or was changed"
        yield Drift("staging", f"s3://{bucket}/{names.staging_prefix}", "changed", told, expiry.difference)


def _repository(ecr: ECRClient, names: Names) -> Iterator[Drift]:
    there = read_repository(ecr, names)
    if there is None:
        yield Drift("repository", names.image, "missing", "it contained the container image of the deployed version")
        return
    change = plan_repository(there, names)
    if change.outcome == "changed":
        yield Drift("repository", names.image, "changed", "its settings or policies were changed", change.difference)
