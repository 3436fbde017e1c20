"""Events that a service queues: S3, SQS, SNS, EventBridge.

They are refused by an exception: their sender takes every answer for success and drops the event.
https://docs.aws.amazon.com/lambda/latest/dg/lambda-services.html
"""

from __future__ import annotations

import json
from typing import Any

from ..errors import QueuedEventError, quoted


def is_s3_test(event: object) -> bool:
    """Tell whether this is what S3 sends once, when a notification is set up: directly, or by SQS, SNS or both."""
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
            f"the event comes from {quoted(sender)}, and this version does not process queued events. The invocation "
            "fails so that the event is not lost: the sender retries it, then passes it to the failure destination if there is one"
        )


def _sender(event: dict[str, Any]) -> str:
    """Return the service that queued the event, as the event names it; "" if none did."""
    if "detail-type" in event:  # EventBridge
        return str(event.get("source") or "EventBridge")
    records = event.get("Records")
    first = records[0] if isinstance(records, list) and records else event
    for field in ("eventSource", "EventSource"):
        if isinstance(first, dict) and isinstance(first.get(field), str):
            return str(first[field])
    return "a queue" if "Records" in event else ""


def _message(record: object) -> object:
    """Return the JSON that a record of SQS or SNS carries; None if it carries none."""
    if not isinstance(record, dict):
        return None
    sns = record.get("Sns")
    text = sns.get("Message") if isinstance(sns, dict) else record.get("body")
    try:
        return json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
