"""Read what is deployed in AWS, and compare it with the local configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..clients.aws_errors import explained
from ..errors import RemoteError
from ..names import Names
from .plan import Document, difference
from .resources.alias import read_alias
from .resources.function import Function, FunctionConfig, read_function, snapshot
from .resources.function_url import read_url
from .resources.version import newest_of, versions

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient


# https://docs.aws.amazon.com/lambda/latest/dg/functions-states.html
_STATES = {
    "Active": "ready",
    "Pending": "starting",
    "Inactive": "inactive after weeks without a call (the next call takes longer)",
    "Failed": "failed",
}


@dataclass(frozen=True)
class Status:
    """What is deployed. live: None if the alias does not exist. newest: the last published version. url: "" if none.

    published: Lambda's description of each version, oldest first.
    """

    function: str
    latest: Function
    live: Function | None
    weights: Document
    newest: Function | None
    published: Sequence[Document]
    url: str
    url_kind: str

    @property
    def bucket(self) -> str:
        """Return the bucket of the live version's model, "" if that is in the image."""
        uri = (self.live or self.latest).settings.environment.get("MLINFER_MODEL_URI", "")
        return uri.removeprefix("s3://").partition("/")[0] if uri.startswith("s3://") else ""

    def facts(self) -> dict[str, Any]:
        """Return the deployed state for `--json`."""
        shown = self.live or self.latest
        settings, environment = shown.settings, shown.settings.environment
        facts: dict[str, Any] = {"function": self.function, "state": in_words(self.latest, self.live)}
        facts |= {
            "live": self.live.version if self.live else None,
            "newest": self.newest.version if self.newest else None,
        }
        facts |= {"also_live": self.weights} if self.weights else {}
        facts |= {"image": settings.image, "arch": settings.arch}
        facts |= {
            "model": environment.get("MLINFER_MODEL_URI"),
            "model_sha256": environment.get("MLINFER_MODEL_SHA256"),
        }
        facts |= {"memory": settings.memory, "timeout": settings.timeout, "tmp": settings.tmp}
        facts |= {"concurrency": self.latest.settings.concurrency, "environment": dict(environment)}
        return {**facts, "url": self.url or None, "url_kind": self.url_kind, "updated": shown.updated}


def read_status(client: LambdaClient, names: Names) -> Status:
    """Read the state from AWS. Raises RemoteError, also if nothing is deployed."""
    with explained(f"function {names.function}"):
        latest = read_function(client, names)
        if latest is None:
            message = f"function {names.function} does not exist in {client.meta.region_name}"
            raise RemoteError("not_deployed", message, "Create it with `mlinfer deploy`.")
        alias = read_alias(client, names)
        live = read_function(client, names, alias.version) if alias else None
        published = versions(client, names)
        url, kind = read_url(client, names)
        newest = newest_of(client, names, published)
    weights = alias.weights if alias else {}
    return Status(names.function, latest, live, weights, newest, published, url, kind["url"])


def served_model(client: LambdaClient, names: Names) -> str:
    """Return the SHA-256 of the model that the function serves, "" if there is none. Raises RemoteError."""
    with explained(f"function {names.function}"):
        there = read_function(client, names)
        alias = read_alias(client, names) if there else None
        served = read_function(client, names, alias.version) if alias else there
    return served.settings.environment.get("MLINFER_MODEL_SHA256", "") if served else ""


def differences(status: Status, here: FunctionConfig, url_kind: str) -> str:
    """Return the unified diff from the deployed to the local settings, "" if equal. An image "" is not compared."""
    if status.live is None:
        return "no version is deployed"
    of_function = {"concurrency": status.latest.settings.concurrency, "url": status.url_kind}
    live, wanted = snapshot(status.live.settings) | of_function, here.document() | {"url": url_kind}
    if not here.image:
        live, wanted = ({**document, "image": "not compared"} for document in (live, wanted))
    return difference("function", live, wanted)


def in_words(latest: Function, live: Function | None) -> str:
    """Describe the state of the deployed version, and the last update if it failed or is in progress."""
    shown = live or latest
    words = _STATES.get(shown.state, shown.state)
    told = f"{words}: {shown.reason}" if shown.reason and shown.state != "Active" else words
    if latest.settings.concurrency == 0:
        told = "stopped: its reserved concurrency is 0, so Lambda rejects every call"
    if latest.updating == "Failed":
        told += f", the last update failed: {latest.update_reason or 'Lambda gives no reason'}"
    elif latest.updating == "InProgress":
        told += ", update in progress"
    return told if live else f"{told}, no version is deployed"
