"""The function's log group, created before the function because the function's role cannot create it."""

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
    """Return the change that creates the log group or sets its retention in days."""
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
    """Return the project's log group; None if it does not exist. Raises RemoteError if it is not ours, ClientError."""
    there = find_log_group(logs, names)
    if there:
        owner_of_log_group(logs, names, there).require_ours()
    return there


def find_log_group(logs: CloudWatchLogsClient, names: Names) -> Mapping[str, Any] | None:
    """Return CloudWatch's description of the log group, None if it does not exist. Raises ClientError."""
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
    except ClientError as error:  # created by a request whose response was lost
        if error_code(error) != "ResourceAlreadyExistsException" or read_log_group(logs, names) is None:
            raise
