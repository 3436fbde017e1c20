"""The role that the function runs under: made, and kept at exactly the policies that are wanted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError

from ...clients.aws import Client
from ...clients.aws_errors import error_code, explained, is_denied, none_if_absent
from ...clients.ownership import Owner, as_mapping, owner_of
from ...names import ROLE_PATH, Account, Names
from ..plan import Change, Document, compare
from .policies import READ_MODELS, trust_policy, with_models

POLICY = "mlinfer"  # the one inline policy's name

_DESCRIPTION = "What the Lambda function of the mlinfer project {} may do."


def ensure_role(iam: Client, names: Names, policy: Document, *, dry_run: bool = False) -> Change:
    """Make the role, or give it the wanted policies where it has others; equal ones are not written again.

    Raises RemoteError: also when a role of that name is not the project's.
    """
    wanted = {"trust": trust_policy(), "policy": policy}
    with explained(f"the role {names.function}"):
        there = read_role(iam, names)
        others = other_policies(iam, names) if there else []
        told = f"; not added by mlinfer, and kept: {', '.join(others)}" if others else ""
        change = compare("role", there, wanted, f"{names.function}{told}")
        if change.outcome == "unchanged" or dry_run:
            return change
        if there is None:
            _create(iam, names)
        elif there["trust"] != wanted["trust"]:
            iam.update_assume_role_policy(RoleName=names.function, PolicyDocument=json.dumps(wanted["trust"]))
        if there is None or there["policy"] != policy:
            iam.put_role_policy(RoleName=names.function, PolicyName=POLICY, PolicyDocument=json.dumps(policy))
    return change


def ensure_readable(iam: Client, account: Account, names: Names, uri: str) -> Change:
    """Let the function read one more model, if it may not yet; what else it may stays as it is. Raises RemoteError."""
    there = read_role(iam, names) or {"policy": {}}
    statements = there["policy"].get("Statement", [])
    readable = {arn for statement in statements if statement["Sid"] == READ_MODELS for arn in statement["Resource"]}
    if account.s3(uri) in readable:
        return Change("unchanged", names.function)
    others = [statement for statement in statements if statement["Sid"] != READ_MODELS]
    policy = with_models(others, readable | {account.s3(uri)})
    change = compare("policy", there["policy"], policy, names.function)
    iam.put_role_policy(RoleName=names.function, PolicyName=POLICY, PolicyDocument=json.dumps(policy))
    return change


def read_role(iam: Client, names: Names) -> Document | None:
    """Return the role's two policies, {} for one that is missing; None without a role. Raises RemoteError, ClientError."""
    role = find_role(iam, names)
    if role is None:
        return None
    owner_of_role(names, role).require_ours()
    return {"trust": role["AssumeRolePolicyDocument"], "policy": read_policy(iam, names)}


def read_policy(iam: Client, names: Names) -> Document:
    """Return the role's policy that `ensure_role` writes, {} without it. Raises ClientError."""
    inline = none_if_absent(lambda: iam.get_role_policy(RoleName=names.function, PolicyName=POLICY))
    return dict(inline["PolicyDocument"]) if inline else {}


def other_policies(iam: Client, names: Names) -> list[str]:
    """Return the names of the role's policies that are not ours; [] where IAM does not tell. Raises ClientError."""
    which = {"RoleName": names.function}
    try:
        inline = [policy for policy in iam.list_role_policies(**which)["PolicyNames"] if policy != POLICY]
        attached = iam.list_attached_role_policies(**which)["AttachedPolicies"]
    except ClientError as error:
        if not is_denied(error):
            raise
        return []
    return sorted([*inline, *(policy["PolicyName"] for policy in attached)])


def find_role(iam: Client, names: Names) -> dict[str, Any] | None:
    """Return what IAM says of the role of our name, at whatever path; None without one. Raises ClientError."""
    return none_if_absent(lambda: iam.get_role(RoleName=names.function)["Role"])


def role_arn(iam: Client, account: Account, names: Names) -> str:
    """Return the role's ARN: of one that is there, at whatever path, else of the one that `ensure_role` makes.

    Raises RemoteError.
    """
    return role_facts(iam, account, names)[0]


def role_facts(iam: Client, account: Account, names: Names) -> tuple[str, datetime | None]:
    """Return the role's ARN as `role_arn` does, and when it was created; None without one. Raises RemoteError."""
    with explained(f"the role {names.function}"):
        there = find_role(iam, names)
    return (str(there["Arn"]), there["CreateDate"]) if there else (account.role(names), None)


def owner_of_role(names: Names, role: Mapping[str, Any]) -> Owner:
    """Return who manages the role; IAM always tells its tags with it."""
    return owner_of("role", names.function, names, "iam:GetRole", lambda: as_mapping(role.get("Tags", [])))


def _create(iam: Client, names: Names) -> None:
    tags = [{"Key": key, "Value": value} for key, value in names.tags.items()]
    trust = json.dumps(trust_policy())
    try:
        iam.create_role(
            RoleName=names.function,
            Path=ROLE_PATH,
            AssumeRolePolicyDocument=trust,
            Description=_DESCRIPTION.format(names.project),
            Tags=tags,
        )
    except ClientError as error:  # made by a request whose answer was lost, with our tags
        if error_code(error) != "EntityAlreadyExists" or read_role(iam, names) is None:
            raise
