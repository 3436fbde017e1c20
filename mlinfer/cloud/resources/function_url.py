"""The function URL of the alias `live`, and the permission to call it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from botocore.exceptions import ClientError

from ...clients.aws_errors import error_code, explained, none_if_absent
from ...names import ALIAS, Names
from ..plan import Change, Document, compare

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient


_AUTH: dict[str, Literal["AWS_IAM", "NONE"]] = {"iam": "AWS_IAM", "public": "NONE"}
# Since October 2025 a URL without authentication needs both.
# https://docs.aws.amazon.com/lambda/latest/dg/urls-auth.html
_PUBLIC: dict[str, dict[str, Any]] = {
    "mlinfer-url": {"Action": "lambda:InvokeFunctionUrl", "FunctionUrlAuthType": "NONE"},
    "mlinfer-url-invoke": {"Action": "lambda:InvokeFunction", "InvokedViaFunctionUrl": True},
}


def read_url(client: LambdaClient, names: Names) -> tuple[str, Document]:
    """Return the URL ("" if none), and the state to compare: its kind and which of our permissions exist."""
    which: dict[str, Any] = {"FunctionName": names.function, "Qualifier": ALIAS}
    found: Mapping[str, Any] = none_if_absent(lambda: client.get_function_url_config(**which)) or {}
    policy = none_if_absent(lambda: client.get_policy(**which)["Policy"])
    sids = {statement.get("Sid") for statement in json.loads(policy)["Statement"]} if policy else set()
    kind = {str(auth): kind for kind, auth in _AUTH.items()}.get(found.get("AuthType", ""), "none")
    return str(found.get("FunctionUrl", "")), {"url": kind, "permissions": sorted(sids & set(_PUBLIC))}


def plan_url(there: Document, kind: str) -> Change:
    """Return the change from what `read_url` found. kind: none, iam (callers need permission and sign) or public."""
    missing = {"url": "none", "permissions": []}
    return compare("url", None if there == missing and kind != "none" else there, _wanted(kind), detail=kind)


def apply_url(client: LambdaClient, names: Names, kind: str) -> tuple[Change, str]:
    """Create, change or delete the URL and its permissions. Return the URL too. Raises RemoteError."""
    with explained(f"URL of function {names.function}"):
        url, there = read_url(client, names)
        wanted, change = _wanted(kind), plan_url(there, kind)
        if change.outcome == "unchanged":
            return change, url
        for statement in set(there["permissions"]) - set(wanted["permissions"]):
            _forbid(client, names, statement)
        url = _set_url(client, names, there=there["url"], kind=kind, url=url)
        for statement in sorted(set(wanted["permissions"]) - set(there["permissions"])):
            _permit(client, names, statement)
    return change, url


def _wanted(kind: str) -> Document:
    return {"url": kind, "permissions": sorted(_PUBLIC) if kind == "public" else []}


def _set_url(client: LambdaClient, names: Names, *, there: str, kind: str, url: str) -> str:
    """Create, change or delete the URL, and return it."""
    which: dict[str, Any] = {"FunctionName": names.function, "Qualifier": ALIAS}
    if there == kind:
        return url
    if kind == "none":
        none_if_absent(lambda: client.delete_function_url_config(**which))
        return ""
    if there == "none":
        try:
            return str(client.create_function_url_config(**which, AuthType=_AUTH[kind])["FunctionUrl"])
        except ClientError as error:  # created by a request whose response was lost
            if error_code(error) != "ResourceConflictException":
                raise
    return str(client.update_function_url_config(**which, AuthType=_AUTH[kind])["FunctionUrl"])


def _permit(client: LambdaClient, names: Names, statement: str) -> None:
    which: dict[str, Any] = {"FunctionName": names.function, "Qualifier": ALIAS, "StatementId": statement}
    try:
        client.add_permission(**which, Principal="*", **_PUBLIC[statement])
    except ClientError as error:  # added by a request whose response was lost
        if error_code(error) != "ResourceConflictException":
            raise


def _forbid(client: LambdaClient, names: Names, statement: str) -> None:
    which: dict[str, Any] = {"FunctionName": names.function, "Qualifier": ALIAS, "StatementId": statement}
    none_if_absent(lambda: client.remove_permission(**which))
