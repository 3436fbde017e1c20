"""The alias `live`, which callers use, and the URL that it may have."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from ...clients.aws import Client
from ...clients.aws_errors import error_code, explained, none_if_absent
from ...errors import RemoteError
from ...names import ALIAS, Names
from ..plan import Change, Document, compare

_ROLLED_BACK = re.compile(r"rolled back from (?P<before>\S+) to (?P<version>\d+)")
_AUTH = {"iam": "AWS_IAM", "public": "NONE"}
# Since October 2025 a URL without authentication needs both.
# https://docs.aws.amazon.com/lambda/latest/dg/urls-auth.html
_PUBLIC: dict[str, dict[str, Any]] = {
    "mlinfer-url": {"Action": "lambda:InvokeFunctionUrl", "FunctionUrlAuthType": "NONE"},
    "mlinfer-url-invoke": {"Action": "lambda:InvokeFunction", "InvokedViaFunctionUrl": True},
}


@dataclass(frozen=True)
class Alias:
    """Which version is live. weights: of other versions that share its traffic. revision: changes with each change.

    rolled_back_from: the version that was live before, where a rollback to the version before it led here; else "".
    """

    version: str
    weights: Document
    revision: str
    rolled_back_from: str = ""


def read_alias(client: Client, names: Names) -> Alias | None:
    """Return the alias, or None. Raises ClientError."""
    found = none_if_absent(lambda: client.get_alias(FunctionName=names.function, Name=ALIAS))
    if found is None:
        return None
    weights = (found.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or {}
    version, told = found["FunctionVersion"], _ROLLED_BACK.fullmatch(found.get("Description", ""))
    before = told["before"] if told and told["version"] == version else ""  # else somebody has moved the alias since
    return Alias(version, weights, found.get("RevisionId", ""), before)


def plan_alias(there: Alias | None, version: str) -> Change:
    """Say what it takes until all traffic goes to the version."""
    held = {"version": there.version, **({"weights": there.weights} if there.weights else {})} if there else None
    before = f", before: {there.version}" if there and there.version != version else ""
    return compare("alias", held, {"version": version}, f"{ALIAS} -> {version}{before}")


def move_alias(
    client: Client, names: Names, there: Alias | None, version: str, *, rolled_back_from: str = ""
) -> Change:
    """Send all traffic to the version, if the alias still is what `there` says. Raises RemoteError.

    rolled_back_from: is kept with the alias, in its description, so that the same rollback run again finds it done.
    """
    change = plan_alias(there, version)
    if change.outcome == "unchanged":
        return change
    description = f"rolled back from {rolled_back_from} to {version}" if rolled_back_from else ""
    which = {"FunctionName": names.function, "Name": ALIAS, "FunctionVersion": version, "Description": description}
    with explained(f"the alias {ALIAS} of {names.function}"):
        try:
            if there is None:
                client.create_alias(**which)
            else:
                guard = {"RevisionId": there.revision} if there.revision else {}
                client.update_alias(**which, RoutingConfig={"AdditionalVersionWeights": {}}, **guard)
        except ClientError as error:
            if error_code(error) not in ("PreconditionFailedException", "ResourceConflictException"):
                raise
            now = read_alias(client, names)  # moved by a request whose answer was lost, or by somebody else
            if now is None or plan_alias(now, version).outcome != "unchanged":
                raise _moved(now) from error
    return change


def ensure_url(client: Client, names: Names, kind: str, *, dry_run: bool = False) -> tuple[Change, str]:
    """Give the alias a URL, or take it away with the permissions that it had. Return the URL too. Raises RemoteError.

    kind: none, iam (callers sign, and their own policies must let them) or public.
    """
    with explained(f"the URL of {names.function}"):
        url, there = read_url(client, names)
        wanted = {"url": kind, "permissions": sorted(_PUBLIC) if kind == "public" else []}
        missing = {"url": "none", "permissions": []}
        change = compare("url", None if there == missing and kind != "none" else there, wanted, kind)
        if change.outcome == "unchanged" or dry_run:
            return change, url
        for statement in set(there["permissions"]) - set(wanted["permissions"]):
            _forbid(client, names, statement)
        url = _set_url(client, names, there["url"], kind, url)
        for statement in sorted(set(wanted["permissions"]) - set(there["permissions"])):
            _permit(client, names, statement)
    return change, url


def read_url(client: Client, names: Names) -> tuple[str, Document]:
    """Return the alias's URL, "" without one, and what is compared: its kind, and which of our permissions it has."""
    which = {"FunctionName": names.function, "Qualifier": ALIAS}
    found = none_if_absent(lambda: client.get_function_url_config(**which)) or {}
    policy = none_if_absent(lambda: client.get_policy(**which)["Policy"])
    sids = {statement.get("Sid") for statement in json.loads(policy)["Statement"]} if policy else set()
    kind = {auth: kind for kind, auth in _AUTH.items()}.get(found.get("AuthType", ""), "none")
    return str(found.get("FunctionUrl", "")), {"url": kind, "permissions": sorted(sids & set(_PUBLIC))}


def _set_url(client: Client, names: Names, there: str, kind: str, url: str) -> str:
    """Make, change or delete the URL itself, and return it."""
    which = {"FunctionName": names.function, "Qualifier": ALIAS}
    if there == kind:
        return url
    if kind == "none":
        none_if_absent(lambda: client.delete_function_url_config(**which))
        return ""
    if there == "none":
        try:
            return str(client.create_function_url_config(**which, AuthType=_AUTH[kind])["FunctionUrl"])
        except ClientError as error:  # made by a request whose answer was lost
            if error_code(error) != "ResourceConflictException":
                raise
    return str(client.update_function_url_config(**which, AuthType=_AUTH[kind])["FunctionUrl"])


def _permit(client: Client, names: Names, statement: str) -> None:
    which = {"FunctionName": names.function, "Qualifier": ALIAS, "StatementId": statement}
    try:
        client.add_permission(**which, Principal="*", **_PUBLIC[statement])
    except ClientError as error:  # added by a request whose answer was lost
        if error_code(error) != "ResourceConflictException":
            raise


def _forbid(client: Client, names: Names, statement: str) -> None:
    which = {"FunctionName": names.function, "Qualifier": ALIAS, "StatementId": statement}
    none_if_absent(lambda: client.remove_permission(**which))


def _moved(now: Alias | None) -> RemoteError:
    message = f"somebody else has moved the alias {ALIAS} meanwhile{f', to version {now.version}' if now else ''}"
    return RemoteError("alias_moved", message, "It was left there. Run the command again to move it.")
