"""Parse and answer direct invocations. The JSON body of an HTTP request has the same fields."""

from __future__ import annotations

import binascii
from typing import Any

from ..errors import RequestError, quoted
from ..records import Record
from ..settings import MAX_IMAGE_BYTES

DEFAULT_TOP_K = 5
_URL_SAFE = str.maketrans("-_", "+/")  # RFC 4648, section 5


class Question(Record):
    """A caller's request: image (encoded bytes) or s3 (a URI). Neither is set for a health check."""

    image: bytes | None = None
    s3: str | None = None
    top_k: int = DEFAULT_TOP_K


def has_image(event: object) -> bool:
    """Tell whether an event has an image or the URI of one."""
    return isinstance(event, dict) and (event.get("image") is not None or event.get("s3") is not None)


def parse_fields(fields: object, top_k: int = DEFAULT_TOP_K) -> Question:
    """Parse `{"image": ..., "top_k": ...}` or `{"s3": ..., "top_k": ...}`. Raises RequestError."""
    if not isinstance(fields, dict):
        raise RequestError(
            400,
            "invalid_json",
            f'the event must be a JSON object such as {{"image": "<base64>"}}, got {quoted(fields)}',
        )
    image, s3 = fields.get("image"), fields.get("s3")
    if image is None and s3 is None:
        raise RequestError(
            400, "missing_image", 'the event has no image: send {"image": "<base64>"} or {"s3": "s3://bucket/key"}'
        )
    if image is not None and s3 is not None:
        raise RequestError(400, "invalid_json", "the event has both image and s3: send only one of them")
    if fields.get("top_k") is not None:
        top_k = parse_top_k(fields["top_k"])
    if image is not None:
        return Question(image=decode_base64(image, "image"), top_k=top_k)
    if not isinstance(s3, str):
        raise RequestError(400, "invalid_json", f"s3 must be a string of the form s3://bucket/key, got {quoted(s3)}")
    return Question(s3=s3, top_k=top_k)


def answer_direct(status: int, body: dict[str, Any]) -> dict[str, Any]:
    """Wrap a body in the format that a direct caller expects."""
    return {"statusCode": status, "body": body}


def parse_top_k(value: object, *, from_text: bool = False) -> int:
    """Return the number of requested classes. from_text: the value is a query parameter. Raises RequestError."""
    if value is None:
        return DEFAULT_TOP_K
    if from_text and isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 10:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RequestError(400, "invalid_top_k", f"top_k must be a whole number above 0, got {quoted(value)}")
    return value


def decode_base64(text: object, what: str) -> bytes:
    """Decode base64. what: the name of the value in messages. Raises RequestError."""
    if not isinstance(text, str):
        raise RequestError(400, "invalid_base64", f"{what} must be a base64 string, got {quoted(text)}")
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
    """Return standard base64: without the prefix of a `data:` URL and line breaks, not URL-safe, and padded.

    A space inside a line stays and makes the text invalid: form encoding turns a plus sign into one. Raises ValueError.
    """
    text = text.lstrip(" \t\r\n")
    if text[:5].lower() == "data:":  # RFC 2397
        head, comma, text = text.partition(",")
        if not comma or not head.lower().rstrip().endswith(";base64"):
            raise ValueError("the data: URL has no ;base64, prefix")
    text = "".join(line.strip(" \t") for line in text.replace("\r", "\n").split("\n"))  # `base64 cat.jpg` breaks lines
    if "-" in text or "_" in text:
        if "+" in text or "/" in text:
            raise ValueError("it mixes the standard and the URL-safe alphabet")
        text = text.translate(_URL_SAFE)
    return text if text.endswith("=") else text + "=" * (-len(text) % 4)


def _strict_base64(text: str) -> bytes:
    return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
