"""Whether an AWS resource is the project's, by its tag: ours, foreign, or unknown where AWS does not tell the tags.

A resource that is not certainly ours is neither changed nor removed.
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
    """Who manages a resource that has a name of ours. state "unknown": its tags cannot be read.

    kind: such as "function". found: the value of the project's tag, "" without one. permission: the IAM action that reads
    the tags.
    """

    kind: str
    name: str
    project: str
    state: Literal["ours", "foreign", "unknown"]
    found: str
    permission: str

    @property
    def reason(self) -> str:
        """Say why the resource is left alone; "" if it is ours."""
        if self.state == "unknown":
            return f"AWS does not return its tags, so mlinfer cannot tell whether project {self.project} manages it"
        tag = f"is {self.found}" if self.found else "is missing"
        return "" if self.state == "ours" else f"project {self.project} does not manage it (tag {TAG} {tag})"

    @property
    def remedy(self) -> str:
        """Say what to do about it; "" if it is ours."""
        if self.state == "unknown":
            return (
                f"Get the permission {self.permission} on it; `mlinfer doctor --policy` prints all that mlinfer needs."
            )
        tag = f"{TAG}={self.project}"
        return "" if self.state == "ours" else f"Choose another project name, or give the {self.kind} the tag {tag}."

    def require_ours(self) -> None:
        """Refuse what is not certainly the project's. Raises RemoteError."""
        if self.state != "ours":
            code = "owner_unknown" if self.state == "unknown" else "not_ours"
            raise RemoteError(code, f"{self.kind} {self.name}: {self.reason}", self.remedy)


def owner_of(
    kind: str, name: str, names: Names, *, permission: str, read_tags: Callable[[], Mapping[str, str] | None]
) -> Owner:
    """Return who manages a resource. read_tags: returns its tags, or None where AWS hides them. Raises ClientError."""
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
    """Return tags that a service lists as pairs of Key and Value."""
    return {tag["Key"]: tag["Value"] for tag in tags}
