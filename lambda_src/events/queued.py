"""Refuse queued events: S3, SQS, SNS, EventBridge.

They are refused with an exception, because the sender treats any answer as success and deletes the event.
https://docs.aws.amazon.com/lambda/latest/dg/lambda-services.html
"""

from __future__ import annotations

import json
from typing import Any

from ..errors import QueuedEventError, quoted


def is_s3_test(event: object) -> bool:
    """Tell whether an event is S3's test message for a new notification, sent directly or through SQS, SNS or both."""
    if not isinstance(event, dict):
        return False
    records = event.get("Records")
    if isinstance(records, list) and records:
        return all(is_s3_test(_message(record)) for record in records)
    return event.get("Event") == "s3:TestEvent" or ("Message" in event and is_s3_test(_message({"Sns": event})))


def refuse_queued(event: object) -> None:
    """Refuse an event that a service queued. Raises QueuedEventError."""
    if isinstance(event, dict) and (sender := _sender(event)):
        raise QueuedEventError(
            f"queued events are not supported (the event is from {quoted(sender)}). The invocation fails so that the event "
            "is not lost: the sender retries it, then sends it to the failure destination if there is one"
        )


def _sender(event: dict[str, Any]) -> str:
    """Return the name of the service that queued the event, "" if it was not queued."""
    if "detail-type" in event:  # EventBridge
        return str(event.get("source") or "EventBridge")
    records = event.get("Records")
    first = records[0] if isinstance(records, list) and records else event
    for field in ("eventSource", "EventSource"):
        if isinstance(first, dict) and isinstance(first.get(field), str):
            return str(first[field])
    return "a queue" if "Records" in event else ""


def _message(record: object) -> object:
    """Return the JSON in a record of SQS or SNS, None if it has none."""
    if not isinstance(record, dict):
        return None
    sns = record.get("Sns")
    text = sns.get("Message") if isinstance(sns, dict) else record.get("body")
    try:
        return json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
