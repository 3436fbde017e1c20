"""The shapes of events and answers: direct invocations, function URLs, API Gateway v1 and v2, load balancers.

An event that a service queues (S3, SQS, SNS, EventBridge) is refused by an exception: its sender takes every answer for
success and drops the event.

Shapes: https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html#urls-payloads,
https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html,
https://docs.aws.amazon.com/elasticloadbalancing/latest/application/lambda-functions.html; queued:
https://docs.aws.amazon.com/lambda/latest/dg/lambda-services.html
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import QueuedEventError, RequestError, quoted
from ..settings import MAX_IMAGE_BYTES

DEFAULT_TOP_K = 5
_URL_SAFE = str.maketrans("-_", "+/")  # RFC 4648, section 5


@dataclass(frozen=True)
class Question:
    """What the caller asks. Exactly one of image (encoded bytes) and s3 (a URI) is set; neither for the health document."""

    image: bytes | None = None
    s3: str | None = None
    top_k: int = DEFAULT_TOP_K


def is_http(event: object) -> bool:
    """Tell an HTTP event of any of the four services from a direct invocation."""
    return (
        isinstance(event, dict)
        and isinstance(event.get("requestContext"), dict)
        and ("httpMethod" in event or "http" in event["requestContext"])
    )


def parse(event: object) -> Question | None:
    """Read any event; None if there is nothing to do. Raises RequestError, QueuedEventError."""
    if isinstance(event, dict) and is_http(event):
        return _parse_http(event)
    if isinstance(event, dict) and event.get("image") is None and event.get("s3") is None:
        if _is_s3_test(event):
            return None
        if sender := _queue(event):
            raise QueuedEventError(
                f"the event comes from {quoted(sender)}, and this version does not process queued events. The invocation "
                "fails so that the event is not lost: the sender retries it, then passes it to the failure destination if there is one"
            )
    return _parse_fields(event, DEFAULT_TOP_K)


def answer(event: object, status: int, body: dict[str, Any]) -> dict[str, Any]:
    """Wrap a body in the shape that the event's sender expects."""
    if not (isinstance(event, dict) and is_http(event)):
        return {"statusCode": status, "body": body}
    result: dict[str, Any] = {"statusCode": status, "isBase64Encoded": False, "body": json.dumps(body)}
    headers = {"content-type": "application/json"}
    if status == 405:
        headers["allow"] = "GET, HEAD, POST"
    if "elb" in event["requestContext"] and isinstance(event.get("multiValueHeaders"), dict):
        # A target group with multi-value headers switched on reads no others.
        result["multiValueHeaders"] = {name: [value] for name, value in headers.items()}
    else:
        result["headers"] = headers
    return result


def _queue(event: dict[str, Any]) -> str:
    """Return the service that queued the event, as the event names it; "" if none did."""
    if "detail-type" in event:  # EventBridge
        return str(event.get("source") or "EventBridge")
    records = event.get("Records")
    first = records[0] if isinstance(records, list) and records else event
    for field in ("eventSource", "EventSource"):
        if isinstance(first, dict) and isinstance(first.get(field), str):
            return str(first[field])
    return "a queue" if "Records" in event else ""


def _is_s3_test(event: object) -> bool:
    """Tell whether this is what S3 sends once, when a notification is set up: directly, or by SQS, SNS or both."""
    if not isinstance(event, dict):
        return False
    records = event.get("Records")
    if isinstance(records, list) and records:
        return all(_is_s3_test(_message(record)) for record in records)
    return event.get("Event") == "s3:TestEvent" or ("Message" in event and _is_s3_test(_message({"Sns": event})))


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


def _parse_http(event: dict[str, Any]) -> Question:
    http = event["requestContext"].get("http")
    method = http.get("method") if isinstance(http, dict) else event.get("httpMethod")
    if method in ("GET", "HEAD"):
        return Question()
    if method != "POST":
        raise RequestError(
            405, "method_not_allowed", f"POST an image, or GET the health document; the method was {quoted(method)}"
        )
    top_k = _top_k(_first(event, "queryStringParameters", "multiValueQueryStringParameters", "top_k"), from_text=True)
    content_type = _first(event, "headers", "multiValueHeaders", "content-type") or ""
    media_type = content_type if isinstance(content_type, str) else quoted(content_type)
    media_type = media_type.partition(";")[0].strip().lower()
    body = event.get("body")
    encoded = event.get("isBase64Encoded") is True
    if not body:
        raise RequestError(400, "missing_image", "the body is empty: send the image's bytes, or JSON")
    if media_type in ("application/json", "text/json") or media_type.endswith("+json"):
        return _parse_fields(_json(_decoded(body, "the body") if encoded else body), top_k)
    # No Content-Type means octet-stream: RFC 9110, section 8.3.
    if media_type.startswith("image/") or media_type in ("application/octet-stream", ""):
        if not encoded:
            raise RequestError(
                400,
                "invalid_base64",
                "the image arrived as text, which destroys it: let the API pass its media type as binary "
                "(binaryMediaTypes), or send JSON with the image in base64",
            )
        return Question(image=_decoded(body, "the body"), top_k=top_k)
    raise RequestError(
        415,
        "unsupported_media_type",
        f"the Content-Type is {quoted(media_type)}: send image/*, application/octet-stream or application/json",
    )


def _first(event: Mapping[str, Any], single: str, multiple: str, name: str) -> object:
    """Return a header or query parameter by its lower-case name, from the single- or the multi-value field."""
    for field in (single, multiple):
        values = event.get(field)
        for key, value in values.items() if isinstance(values, dict) else ():
            if str(key).lower() == name:
                return value[-1] if isinstance(value, list) and value else value
    return None


def _json(text: object) -> object:
    if not isinstance(text, str | bytes):
        raise RequestError(400, "invalid_json", "the body is not text")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "invalid_json", f"the body is not valid JSON: {quoted(str(error))}") from error


def _parse_fields(fields: object, top_k: int) -> Question:
    """Read `{"image": ..., "top_k": ...}` or `{"s3": ..., "top_k": ...}`."""
    if not isinstance(fields, dict):
        raise RequestError(
            400, "invalid_json", f'the event is no object: {quoted(fields)}; send {{"image": "<base64>"}}'
        )
    image, s3 = fields.get("image"), fields.get("s3")
    if image is None and s3 is None:
        raise RequestError(
            400, "missing_image", 'there is no image: send {"image": "<base64>"} or {"s3": "s3://bucket/key"}'
        )
    if image is not None and s3 is not None:
        raise RequestError(400, "invalid_json", "both image and s3 are given: send one of them")
    if fields.get("top_k") is not None:
        top_k = _top_k(fields["top_k"])
    if image is not None:
        return Question(image=_decoded(image, "image"), top_k=top_k)
    if not isinstance(s3, str):
        raise RequestError(400, "invalid_json", f"s3 is {quoted(s3)}, not a string s3://bucket/key")
    return Question(s3=s3, top_k=top_k)


def _top_k(value: object, *, from_text: bool = False) -> int:
    if value is None:
        return DEFAULT_TOP_K
    if from_text and isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 10:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RequestError(400, "invalid_top_k", f"top_k is {quoted(value)}, not a whole number from 1")
    return value


def _decoded(text: object, what: str) -> bytes:
    if not isinstance(text, str):
        raise RequestError(400, "invalid_base64", f"{what} is {quoted(text)}, not a base64 string")
    if len(text) // 4 * 3 > MAX_IMAGE_BYTES + 3:
        raise RequestError(413, "image_too_large", f"the image has more than {MAX_IMAGE_BYTES:,} bytes")
    try:
        return _strict_base64(text)
    except ValueError:
        pass
    try:
        return _strict_base64(_plain_base64(text))
    except ValueError as error:
        raise RequestError(400, "invalid_base64", f"{what} is not valid base64: {quoted(str(error))}") from error


def _plain_base64(text: str) -> str:
    """Return base64 in its plain form: without the head of a `data:` URL and line breaks, not URL-safe, and padded.

    A space inside a line stays, and makes the text invalid: it is what a form makes of a plus sign. Raises ValueError.
    """
    text = text.lstrip(" \t\r\n")
    if text[:5].lower() == "data:":  # RFC 2397
        head, comma, text = text.partition(",")
        if not comma or not head.lower().rstrip().endswith(";base64"):
            raise ValueError("the data: URL does not say ;base64,")
    text = "".join(line.strip(" \t") for line in text.replace("\r", "\n").split("\n"))  # `base64 cat.jpg` breaks lines
    if "-" in text or "_" in text:
        if "+" in text or "/" in text:
            raise ValueError("it mixes the plain and the URL-safe alphabet")
        text = text.translate(_URL_SAFE)
    return text if text.endswith("=") else text + "=" * (-len(text) % 4)


def _strict_base64(text: str) -> bytes:
    return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
