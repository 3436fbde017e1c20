"""Find the permissions for deploying that the credentials lack, with IAM's policy simulator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from ..clients.aws_errors import error_code, explained
from ..cloud.resources.policies import DOCTOR
from ..errors import MlinferError
from ..names import Account
from .findings import OF_CREDENTIALS, Finding, PolicyFor

if TYPE_CHECKING:
    from mypy_boto3_iam import IAMClient
    from mypy_boto3_sts import STSClient


def check_permissions(sts: STSClient, iam: IAMClient, policy_for: PolicyFor) -> Iterator[Finding]:
    """Simulate each action that deploying needs; a warning if the simulation is not permitted."""
    try:
        with explained("simulation of permissions", "iam:SimulatePrincipalPolicy and iam:GetRole"):
            arn = str(sts.get_caller_identity()["Arn"])
            _, partition, _, _, account, who = arn.split(":", 5)
            if who == "root":
                said = "these are credentials of the account's root user"
                yield Finding("permissions", "warning", said, "Use an IAM user or role instead.")
                return
            principal = _principal(iam, partition, account, who=who)
            refused = sorted(_refused(iam, principal, policy_for(Account(account, sts.meta.region_name, partition))))
    except MlinferError as error:
        if error.code in OF_CREDENTIALS:
            raise
        yield Finding("permissions", "warning", f"not checked: {error}", error.hint)
        return
    if refused:
        remedy = "Ask your AWS administrator for the policy that `mlinfer doctor --policy` prints."
        yield Finding("permissions", "missing", f"denied in IAM's policy simulator: {', '.join(refused)}", remedy)
    else:
        yield Finding("permissions", "ok", "all required permissions (IAM policy simulator)")


def _principal(iam: IAMClient, partition: str, account: str, *, who: str) -> str:
    """Return the ARN to simulate. For an assumed role it is the role's ARN, whose path only IAM knows."""
    if not who.startswith("assumed-role/"):
        return f"arn:{partition}:iam::{account}:{who}"
    name = who.split("/")[1]
    try:
        return str(iam.get_role(RoleName=name)["Role"]["Arn"])
    except ClientError as error:
        if error_code(error) != "AccessDenied":
            raise
        return f"arn:{partition}:iam::{account}:role/{name}"


def _refused(iam: IAMClient, principal: str, policy: Mapping[str, Any]) -> set[str]:
    """Return the actions in a policy that the principal is denied on the policy's resources."""
    refused = set()
    for statement in policy["Statement"]:
        if statement["Sid"].startswith(DOCTOR):
            continue  # the permissions of this check itself, which reports them separately
        entries: list[Any] = [
            {"ContextKeyName": key, "ContextKeyValues": [value], "ContextKeyType": "string"}
            for condition in statement.get("Condition", {}).values()
            for key, value in condition.items()
        ]
        pages = iam.get_paginator("simulate_principal_policy").paginate(
            PolicySourceArn=principal,
            ActionNames=statement["Action"],
            ResourceArns=statement["Resource"],
            ContextEntries=entries,
        )
        for page in pages:
            for result in page["EvaluationResults"]:
                if result["EvalDecision"] != "allowed":
                    refused.add(str(result["EvalActionName"]))
    return refused
