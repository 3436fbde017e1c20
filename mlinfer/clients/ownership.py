"""Decide by its tag whether the project manages an AWS resource.

Unless the tag says so, mlinfer neither changes nor deletes the resource.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from botocore.exceptions import ClientError

from ..errors import RemoteError
from ..names import TAG, Names
from .aws_errors import is_denied


@dataclass(frozen=True)
class Owner:
    """Who manages a resource with a name that the project uses. state "unknown": AWS does not return its tags.

    kind: the type of resource, such as "function". found: the value of the project tag, "" if missing. permission: the IAM
    action that reads the tags.
    """

    kind: str
    name: str
    project: str
    state: Literal["ours", "foreign", "unknown"]
    found: str
    permission: str

    @property
    def reason(self) -> str:
        """Return why mlinfer does not touch the resource; "" if the project manages it."""
        if self.state == "unknown":
            return f"cannot read its tags to check that project {self.project} manages it"
        tag = f"is {self.found}" if self.found else "is missing"
        return "" if self.state == "ours" else f"not managed by project {self.project} (tag {TAG} {tag})"

    @property
    def remedy(self) -> str:
        """Return what to do about it; "" if the project manages it."""
        if self.state == "unknown":
            return f"Ask your AWS administrator for {self.permission} on this {self.kind}."
        tag = f"{TAG}={self.project}"
        return "" if self.state == "ours" else f"Choose another project name, or add the tag {tag} to this {self.kind}."

    def require_ours(self) -> None:
        """Raise RemoteError unless the project manages the resource."""
        if self.state == "unknown":
            raise RemoteError("owner_unknown", f"{self.kind} {self.name}: {self.reason}", self.remedy)
        if self.state == "foreign":
            raise RemoteError("not_ours", f"{self.kind} {self.name} is {self.reason}", self.remedy)


def owner_of(
    kind: str, name: str, names: Names, *, permission: str, read_tags: Callable[[], Mapping[str, str] | None]
) -> Owner:
    """Return who manages a resource. read_tags: returns its tags, or None if AWS hides them. Raises ClientError."""
    try:
        tags = read_tags()
    except ClientError as error:
        if not is_denied(error):
            raise
        tags = None
    if tags is None:
        return Owner(kind, name, names.project, "unknown", "", permission)
    found = tags.get(TAG, "")
    return Owner(kind, name, names.project, "ours" if found == names.project else "foreign", found, permission)


def as_mapping(tags: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return a list of {Key, Value} pairs, as services return tags, as a dict."""
    return {tag["Key"]: tag["Value"] for tag in tags}
