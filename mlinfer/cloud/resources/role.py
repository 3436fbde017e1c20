"""The IAM role of the function, with its trust policy and one inline policy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from ...clients.aws_errors import error_code, explained, is_denied, none_if_absent
from ...clients.ownership import Owner, as_mapping, owner_of
from ...names import ROLE_PATH, Account, Names
from ..plan import Change, Document, compare
from .policies import READ_MODELS, trust_policy, with_models

if TYPE_CHECKING:
    from mypy_boto3_iam import IAMClient


POLICY = "mlinfer"  # the one inline policy's name

_DESCRIPTION = "Permissions of the Lambda function of mlinfer project {}."


def plan_role(there: Document | None, policy: Document, *, names: Names, others: Sequence[str]) -> Change:
    """Return the change that gives the role our policies. others: policies not added by mlinfer, which are kept."""
    told = f" (policies not added by mlinfer are kept: {', '.join(others)})" if others else ""
    return compare("role", there, {"trust": trust_policy(), "policy": policy}, detail=f"{names.function}{told}")


def apply_role(iam: IAMClient, names: Names, policy: Document) -> Change:
    """Create the role, or update its policies if they differ.

    Raises RemoteError, also if a role with this name belongs to another project.
    """
    trust = trust_policy()
    with explained(f"role {names.function}"):
        there = read_role(iam, names)
        change = plan_role(there, policy, names=names, others=other_policies(iam, names) if there else [])
        if change.outcome == "unchanged":
            return change
        if there is None:
            _create(iam, names)
        elif there["trust"] != trust:
            iam.update_assume_role_policy(RoleName=names.function, PolicyDocument=json.dumps(trust))
        if there is None or there["policy"] != policy:
            iam.put_role_policy(RoleName=names.function, PolicyName=POLICY, PolicyDocument=json.dumps(policy))
    return change


def plan_readable(there: Document | None, names: Names, model: str) -> Change:
    """Return the change that lets the function read one more model. model: its ARN."""
    held = there["policy"] if there else {}
    return compare("policy", held, _with_model(held, model), detail=names.function)


def apply_readable(iam: IAMClient, names: Names, model: str) -> Change:
    """Let the function read one more model, and keep its other permissions. Raises RemoteError."""
    with explained(f"role {names.function}"):
        there = read_role(iam, names)
        change = plan_readable(there, names, model)
        if change.outcome != "unchanged":
            policy = json.dumps(_with_model(there["policy"] if there else {}, model))
            iam.put_role_policy(RoleName=names.function, PolicyName=POLICY, PolicyDocument=policy)
    return change


def _with_model(policy: Document, model: str) -> Document:
    """Return the policy extended by permission to read the model."""
    statements = policy.get("Statement", [])
    readable = {arn for statement in statements if statement["Sid"] == READ_MODELS for arn in statement["Resource"]}
    if model in readable:
        return policy
    others = [statement for statement in statements if statement["Sid"] != READ_MODELS]
    return with_models(others, readable | {model})


def read_role(iam: IAMClient, names: Names) -> Document | None:
    """Return the role's two policies, {} for a missing one; None if there is no role. Raises RemoteError, ClientError."""
    role = find_role(iam, names)
    if role is None:
        return None
    owner_of_role(names, role).require_ours()
    return {"trust": role["AssumeRolePolicyDocument"], "policy": read_policy(iam, names)}


def read_policy(iam: IAMClient, names: Names) -> Document:
    """Return the inline policy that `apply_role` writes, {} if it is missing. Raises ClientError."""
    inline = none_if_absent(lambda: iam.get_role_policy(RoleName=names.function, PolicyName=POLICY))
    document: Any = inline["PolicyDocument"] if inline else {}  # botocore has parsed the JSON
    return dict(document)


def other_policies(iam: IAMClient, names: Names) -> list[str]:
    """Return the names of the role's policies that are not ours; [] if access is denied. Raises ClientError."""
    which: dict[str, Any] = {"RoleName": names.function}
    try:
        inline = [policy for policy in iam.list_role_policies(**which)["PolicyNames"] if policy != POLICY]
        attached = iam.list_attached_role_policies(**which)["AttachedPolicies"]
    except ClientError as error:
        if not is_denied(error):
            raise
        return []
    return sorted([*inline, *(policy["PolicyName"] for policy in attached)])


def find_role(iam: IAMClient, names: Names) -> Mapping[str, Any] | None:
    """Return IAM's description of the role, whatever its path; None if it does not exist. Raises ClientError."""
    return none_if_absent(lambda: iam.get_role(RoleName=names.function)["Role"])


def role_arn(iam: IAMClient, account: Account, names: Names) -> str:
    """Return the ARN of the existing role, whatever its path, or of the one that `apply_role` creates.

    Raises RemoteError.
    """
    return role_facts(iam, account, names)[0]


def role_facts(iam: IAMClient, account: Account, names: Names) -> tuple[str, datetime | None]:
    """Return the role's ARN as `role_arn` does, and its creation time, None if it does not exist. Raises RemoteError."""
    with explained(f"role {names.function}"):
        there = find_role(iam, names)
    return (str(there["Arn"]), there["CreateDate"]) if there else (account.role(names), None)


def owner_of_role(names: Names, role: Mapping[str, Any]) -> Owner:
    """Return who manages the role. IAM returns its tags with the role."""
    return owner_of(
        "role", names.function, names, permission="iam:GetRole", read_tags=lambda: as_mapping(role.get("Tags", []))
    )


def _create(iam: IAMClient, names: Names) -> None:
    tags: list[Any] = [{"Key": key, "Value": value} for key, value in names.tags.items()]
    trust = json.dumps(trust_policy())
    try:
        iam.create_role(
            RoleName=names.function,
            Path=ROLE_PATH,
            AssumeRolePolicyDocument=trust,
            Description=_DESCRIPTION.format(names.project),
            Tags=tags,
        )
    except ClientError as error:  # created by a request whose response was lost, with our tags
        if error_code(error) != "EntityAlreadyExists" or read_role(iam, names) is None:
            raise
