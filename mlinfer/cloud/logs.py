"""Read the function's log from CloudWatch, once or continuously."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from ..clients.aws_errors import error_code, explained
from ..errors import RemoteError, UsageError
from ..names import Names

if TYPE_CHECKING:
    from mypy_boto3_logs import CloudWatchLogsClient


POLL_S = 2.0
# An event can reach CloudWatch this much later than events that were written after it.
# https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/CloudWatchLogs-Concepts.html
LATE_MS = 30_000
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Line:
    """One line of the log. timestamp: ms since 1970, UTC. stream: the log stream of one function instance."""

    timestamp: int
    message: str
    stream: str


def since_ms(text: str, now_ms: int) -> int:
    """Return the time in ms that is `45s`, `10m`, `2h` or `3d` before now_ms. Raises UsageError."""
    found = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if not found:
        raise UsageError("invalid_value", f"--since must be a duration such as 45s, 10m, 2h or 3d, not {text!r}")
    start = now_ms - int(found[1]) * _UNITS_S[found[2]] * 1000
    if start < 0:
        raise UsageError("invalid_value", f"--since {text} is before 1970", "Use a shorter duration, such as 3d.")
    return start


def read(client: CloudWatchLogsClient, names: Names, start_ms: int) -> Iterator[Line]:
    """Yield the lines since start_ms, oldest first. Raises RemoteError, MissingError."""
    for _, line in _events(client, names, start_ms):
        yield line


def follow(
    client: CloudWatchLogsClient, names: Names, start_ms: int, *, sleep: Callable[[float], None]
) -> Iterator[Line]:
    """Yield the lines since start_ms, then each new line without end. Raises RemoteError, MissingError."""
    seen: dict[str, int] = {}
    while True:
        for event_id, line in _events(client, names, start_ms):
            if event_id not in seen:
                seen[event_id] = line.timestamp
                yield line
        start_ms = max(start_ms, max(seen.values(), default=0) - LATE_MS)
        seen = {event_id: timestamp for event_id, timestamp in seen.items() if timestamp >= start_ms}
        sleep(POLL_S)


def _events(client: CloudWatchLogsClient, names: Names, start_ms: int) -> Iterator[tuple[str, Line]]:
    pages = client.get_paginator("filter_log_events").paginate(logGroupName=names.log_group, startTime=start_ms)
    with explained(f"log group {names.log_group}", "logs:FilterLogEvents on the log group"):
        try:
            for page in pages:
                for event in page["events"]:
                    line = Line(event["timestamp"], event["message"].rstrip("\n"), event["logStreamName"])
                    yield event.get("eventId") or repr(line), line  # services like CloudWatch leave the id out
        except ClientError as error:
            if error_code(error) != "ResourceNotFoundException":
                raise
            message = f"log group {names.log_group} does not exist in {client.meta.region_name}"
            raise RemoteError(
                "not_deployed", message, "Create it with `mlinfer deploy`, or set its Region with --region."
            ) from error
