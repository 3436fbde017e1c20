"""The function's log group: made before the function, whose role may not make it, and kept at its retention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from ...clients.aws_errors import error_code, explained
from ...clients.ownership import Owner, owner_of
from ...names import Names
from ..plan import Change, compare

if TYPE_CHECKING:
    from mypy_boto3_logs import CloudWatchLogsClient


def plan_log_group(there: Mapping[str, Any] | None, names: Names, days: int) -> Change:
    """Say what it takes until the log group is there and keeps its lines for so many days."""
    held = {"retention_days": there.get("retentionInDays")} if there else None
    return compare("log group", held, {"retention_days": days}, detail=f"{names.log_group}, {days} days")


def apply_log_group(logs: CloudWatchLogsClient, names: Names, days: int) -> Change:
    """Create the log group, or set its retention. Raises RemoteError."""
    with explained(f"log group {names.log_group}"):
        there = read_log_group(logs, names)
        change = plan_log_group(there, names, days)
        if change.outcome == "unchanged":
            return change
        if there is None:
            _create(logs, names)
        logs.put_retention_policy(logGroupName=names.log_group, retentionInDays=days)
    return change


def read_log_group(logs: CloudWatchLogsClient, names: Names) -> Mapping[str, Any] | None:
    """Return the project's log group; None without one. Raises RemoteError if it is not ours, ClientError."""
    there = find_log_group(logs, names)
    if there:
        owner_of_log_group(logs, names, there).require_ours()
    return there


def find_log_group(logs: CloudWatchLogsClient, names: Names) -> Mapping[str, Any] | None:
    """Return what CloudWatch says of the log group. Raises ClientError."""
    found = logs.describe_log_groups(logGroupNamePrefix=names.log_group).get("logGroups", [])
    return next((group for group in found if group["logGroupName"] == names.log_group), None)


def owner_of_log_group(logs: CloudWatchLogsClient, names: Names, there: Mapping[str, Any]) -> Owner:
    """Return who manages the log group. Raises ClientError."""
    arn = there.get("logGroupArn") or there["arn"].removesuffix(":*")
    permission = "logs:ListTagsForResource"
    return owner_of(
        "log group",
        names.log_group,
        names,
        permission=permission,
        read_tags=lambda: logs.list_tags_for_resource(resourceArn=arn)["tags"],
    )


def _create(logs: CloudWatchLogsClient, names: Names) -> None:
    try:
        logs.create_log_group(logGroupName=names.log_group, tags=names.tags)
    except ClientError as error:  # the answer to an earlier request was lost
        if error_code(error) != "ResourceAlreadyExistsException" or read_log_group(logs, names) is None:
            raise
