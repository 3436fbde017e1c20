"""Parse and answer HTTP events of function URLs, API Gateway v1 and v2, and load balancers.

https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html#urls-payloads,
https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html,
https://docs.aws.amazon.com/elasticloadbalancing/latest/application/lambda-functions.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeGuard

from ..errors import RequestError, quoted
from .direct import Question, decode_base64, parse_fields, parse_top_k


def is_http(event: object) -> TypeGuard[dict[str, Any]]:
    """Tell whether an event is an HTTP request of one of the four services."""
    return (
        isinstance(event, dict)
        and isinstance(event.get("requestContext"), dict)
        and ("httpMethod" in event or "http" in event["requestContext"])
    )


def parse_http(event: dict[str, Any]) -> Question:
    """Parse an HTTP request. Raises RequestError."""
    http = event["requestContext"].get("http")
    method = http.get("method") if isinstance(http, dict) else event.get("httpMethod")
    if method in ("GET", "HEAD"):
        return Question()
    if method != "POST":
        raise RequestError(
            405,
            "method_not_allowed",
            f"method {quoted(method)} is not supported: POST an image, or GET the health status",
        )
    top_k = parse_top_k(
        _first(event, "top_k", ("queryStringParameters", "multiValueQueryStringParameters")), from_text=True
    )
    content_type = _first(event, "content-type", ("headers", "multiValueHeaders")) or ""
    media_type = content_type if isinstance(content_type, str) else quoted(content_type)
    media_type = media_type.partition(";")[0].strip().lower()
    body = event.get("body")
    encoded = event.get("isBase64Encoded") is True
    if not body:
        raise RequestError(400, "missing_image", "the body is empty: send the bytes of an image, or JSON")
    if media_type in ("application/json", "text/json") or media_type.endswith("+json"):
        return parse_fields(_json(decode_base64(body, "the body") if encoded else body), top_k)
    # No Content-Type means octet-stream: RFC 9110, section 8.3.
    if media_type.startswith("image/") or media_type in ("application/octet-stream", ""):
        if not encoded:
            raise RequestError(
                400,
                "invalid_base64",
                "the image arrived as text and is damaged: add its media type to the API's binary types "
                "(binaryMediaTypes), or send JSON with base64",
            )
        return Question(image=decode_base64(body, "the body"), top_k=top_k)
    raise RequestError(
        415,
        "unsupported_media_type",
        f"Content-Type {quoted(media_type)} is not supported: send image/*, application/octet-stream or application/json",
    )


def answer_http(event: dict[str, Any], status: int, body: dict[str, Any]) -> dict[str, Any]:
    """Wrap a body in the format that the request's service expects."""
    result: dict[str, Any] = {"statusCode": status, "isBase64Encoded": False, "body": json.dumps(body)}
    headers = {"content-type": "application/json"}
    if status == 405:
        headers["allow"] = "GET, HEAD, POST"
    if "elb" in event["requestContext"] and isinstance(event.get("multiValueHeaders"), dict):
        # A target group with multi-value headers ignores `headers`.
        result["multiValueHeaders"] = {name: [value] for name, value in headers.items()}
    else:
        result["headers"] = headers
    return result


def _first(event: Mapping[str, Any], name: str, fields: tuple[str, str]) -> object:
    """Return a header or query parameter by its lower-case name, from the single-value or the multi-value field."""
    for field in fields:
        values = event.get(field)
        for key, value in values.items() if isinstance(values, dict) else ():
            if str(key).lower() == name:
                return value[-1] if isinstance(value, list) and value else value
    return None


def _json(text: object) -> object:
    if not isinstance(text, str | bytes):
        raise RequestError(400, "invalid_json", "the body must be text")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "invalid_json", f"the body is not valid JSON: {quoted(str(error))}") from error
