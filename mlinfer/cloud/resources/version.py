"""The function's published versions: numbered, immutable copies of container image and configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from ...clients.aws_errors import error_code, explained, none_if_absent
from ...clients.waiter import Waiter
from ...errors import RemoteError
from ...names import Names
from ..plan import Change, Document
from .function import Function, FunctionConfig, read_function, reason_to_wait, snapshot, wait_until_ready

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient


def versions(client: LambdaClient, names: Names) -> list[Document]:
    """Return Lambda's description of each published version, oldest first; [] if there is no function. Raises ClientError."""

    def pages() -> list[Document]:
        found = client.get_paginator("list_versions_by_function").paginate(FunctionName=names.function)
        return [dict(version) for page in found for version in page["Versions"] if version["Version"] != "$LATEST"]

    return sorted(none_if_absent(pages) or [], key=lambda version: int(version["Version"]))


def newest_of(client: LambdaClient, names: Names, published: Sequence[Document]) -> Function | None:
    """Return the newest published version, None if there is none. Raises RemoteError, ClientError."""
    return read_function(client, names, published[-1]["Version"]) if published else None


def plan_version(newest: Function | None, wanted: FunctionConfig) -> tuple[Change, str]:
    """Return the change that publishes the wanted function, unless the newest version is equal. Return its number too."""
    if newest and snapshot(newest.settings) == snapshot(wanted):
        return Change("unchanged", f"version {newest.version}"), newest.version
    number = str(int(newest.version) + 1) if newest else "1"
    return Change("created", f"version {number}"), number


def apply_version(client: LambdaClient, names: Names, wanted: FunctionConfig, *, waiter: Waiter) -> tuple[Change, str]:
    """Publish the function as a version, unless the newest one is equal. Return its number too.

    Raises RemoteError, also if another deployment has changed the function.
    """
    with explained(f"function {names.function}"):
        latest = wait_until_ready(client, names, waiter)
        if snapshot(latest.settings) != snapshot(wanted):
            message = f"function {names.function} was changed by another process, so it was not published"
            raise RemoteError("conflict", message, "Wait until the other command ends, then run this one again.")
        if newest := _newest_if_equal(client, names, latest):
            return Change("unchanged", f"version {newest}"), newest
        try:
            guard: dict[str, Any] = {"RevisionId": latest.revision} if latest.revision else {}
            number = waiter.retry(
                lambda: client.publish_version(FunctionName=names.function, **guard)["Version"], reason_to_wait
            )
        except ClientError as error:
            if error_code(error) != "PreconditionFailedException":
                raise
            number = _newest_if_equal(client, names, latest)  # published by a request whose response was lost
            if not number:
                raise
        wait_until_ready(client, names, waiter, version=str(number))
    return Change("created", f"version {number}"), str(number)


def _newest_if_equal(client: LambdaClient, names: Names, latest: Function) -> str:
    """Return the number of the newest version if it equals the function, else ""."""
    newest = newest_of(client, names, versions(client, names))
    return newest.version if newest and snapshot(newest.settings) == snapshot(latest.settings) else ""
