"""The alias `live`, which callers use and which sends all traffic to one version."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from ...clients.aws_errors import error_code, explained, none_if_absent
from ...errors import RemoteError
from ...names import ALIAS, Names
from ..plan import Change, Document, compare

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient


_ROLLED_BACK = re.compile(r"rolled back from (?P<before>\S+) to (?P<version>\d+)")


@dataclass(frozen=True)
class Alias:
    """The version that has the traffic. weights: of other versions that share it. revision: changes with every update.

    rolled_back_from: the previous version if the last update was a rollback without a named version, else "".
    """

    version: str
    weights: Document
    revision: str
    rolled_back_from: str = ""


def read_alias(client: LambdaClient, names: Names) -> Alias | None:
    """Return the alias, or None. Raises ClientError."""
    found = none_if_absent(lambda: client.get_alias(FunctionName=names.function, Name=ALIAS))
    if found is None:
        return None
    weights = (found.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or {}
    version, told = found["FunctionVersion"], _ROLLED_BACK.fullmatch(found.get("Description", ""))
    before = (
        told["before"] if told and told["version"] == version else ""
    )  # otherwise the alias was moved after the rollback
    return Alias(version, weights, found.get("RevisionId", ""), before)


def plan_alias(there: Alias | None, version: str) -> Change:
    """Return the change that sends all traffic to the version."""
    held = {"version": there.version, **({"weights": there.weights} if there.weights else {})} if there else None
    before = f" (was {there.version})" if there and there.version != version else ""
    return compare("alias", held, {"version": version}, detail=f"{ALIAS} -> {version}{before}")


def apply_alias(
    client: LambdaClient, names: Names, *, there: Alias | None, version: str, rolled_back_from: str = ""
) -> Change:
    """Send all traffic to the version, unless the alias has changed since `there` was read. Raises RemoteError.

    rolled_back_from: stored in the alias's description, so that a repeated rollback finds it done.
    """
    change = plan_alias(there, version)
    if change.outcome == "unchanged":
        return change
    description = f"rolled back from {rolled_back_from} to {version}" if rolled_back_from else ""
    which: dict[str, Any] = {"FunctionName": names.function, "Name": ALIAS, "FunctionVersion": version}
    which |= {"Description": description}
    with explained(f"alias {ALIAS} of function {names.function}"):
        try:
            if there is None:
                client.create_alias(**which)
            else:
                guard = {"RevisionId": there.revision} if there.revision else {}
                client.update_alias(**which, RoutingConfig={"AdditionalVersionWeights": {}}, **guard)
        except ClientError as error:
            if error_code(error) not in ("PreconditionFailedException", "ResourceConflictException"):
                raise
            now = read_alias(client, names)  # moved by a request whose response was lost, or by another process
            if now is None or plan_alias(now, version).outcome != "unchanged":
                raise _moved(now) from error
    return change


def _moved(now: Alias | None) -> RemoteError:
    message = f"another process {f'moved alias {ALIAS} to version {now.version}' if now else f'deleted alias {ALIAS}'}"
    return RemoteError("alias_moved", message, "Run the command again to move it.")
