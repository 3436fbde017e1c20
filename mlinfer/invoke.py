"""Ask a function through Lambda's Invoke API: here the emulator of `mlinfer run-local`."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from botocore import exceptions as boto

from lambda_src.errors import RequestError
from lambda_src.images import decode

from .answers import MAX_REQUEST_BYTES, read_answer
from .aws import Client
from .errors import ImageError, MissingError, RemoteError
from .predict import Target, event

REDUCED_SIDE = 1024  # of a reduced picture's shorter side, px: four times what ResNet-18 resizes it to
_JPEG_QUALITY = 95


def emulator(
    client: Client, tell: Callable[[str], None], max_pixels: int, alone: Callable[[], AbstractContextManager[None]]
) -> Target:
    """Return the target that asks the emulator, which answers one request at a time: each is made inside `alone()`.

    A picture over Lambda's 6 MB is sent reduced, and `tell` hears of it.
    """

    def ask(name: str, data: bytes, top_k: int) -> dict[str, Any]:
        body = json.dumps(event(data, top_k)).encode()
        if len(body) > MAX_REQUEST_BYTES:
            data, size = reduce(data, max_pixels, MAX_REQUEST_BYTES // 4 * 3 - 1024)
            tell(f"{name} is over Lambda's 6 MB for a request: sent reduced to {size[0]} x {size[1]} pixels.")
            body = json.dumps(event(data, top_k)).encode()
        with alone(), _explained(client.meta.endpoint_url):
            return read_answer(_payload(client, body), "the function")

    return ask


def reduce(data: bytes, max_pixels: int, limit: int) -> tuple[bytes, tuple[int, int]]:
    """Return a smaller file of the picture and its width and height: at most `limit` bytes, losslessly coded if it fits.

    Raises ImageError if it is none, or cannot be made small enough.
    """
    try:
        image = decode(data, max_pixels, REDUCED_SIDE)
    except RequestError as error:
        raise ImageError(error.code, str(error)) from error
    scale = min(1.0, REDUCED_SIDE / min(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    image = image.resize((width, height), reducing_gap=3.0)
    for kind, options in (("PNG", {}), ("JPEG", {"quality": _JPEG_QUALITY, "subsampling": 0})):
        file = io.BytesIO()
        image.save(file, kind, **options)
        if file.tell() <= limit:
            return file.getvalue(), image.size
    raise ImageError("image_too_large", "the picture is too long to be reduced to Lambda's 6 MB", "Send a part of it.")


def _payload(client: Client, body: bytes) -> bytes:
    """Invoke and return the body of the answer, of a 502 too: boto3 drops that, and it says how the function ended."""
    seen: dict[str, Any] = {}

    def keep(response_dict: dict[str, Any], **_: Any) -> None:
        seen.update(status=response_dict["status_code"], body=response_dict["body"])

    client.meta.events.register("before-parse.lambda.Invoke", keep)
    try:
        payload: bytes = client.invoke(FunctionName="function", Payload=body)["Payload"].read()
        return payload
    except boto.ClientError:
        if seen.get("status") != 502:
            raise
        content: bytes = seen["body"] or b'{"errorType": "Runtime.ExitError", "errorMessage": ""}'
        return content
    finally:
        client.meta.events.unregister("before-parse.lambda.Invoke", keep)


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turn what boto3 raises of the emulator into errors about it. Raises MissingError, RemoteError."""
    try:
        yield
    except (boto.EndpointConnectionError, boto.ConnectTimeoutError) as error:
        raise MissingError(
            "not_running", f"nothing answers at {url}", "Start it: mlinfer run-local --detach"
        ) from error
    except boto.ReadTimeoutError as error:
        hint = "Start it anew: mlinfer run-local --stop && mlinfer run-local --detach"
        raise RemoteError("function_timeout", f"{url} did not answer in time", hint) from error
    except (boto.ConnectionError, boto.HTTPClientError) as error:
        hint = (
            "The emulator ends when two requests come at once; it starts again by itself: try again. Else see its log."
        )
        raise RemoteError("container_crashed", f"{url} broke off in the middle of the request", hint) from error
    except (boto.ClientError, boto.BotoCoreError) as error:
        hint = "Does mlinfer run-local listen on this port? See port in mlinfer.toml."
        raise RemoteError("no_function", f"what answers at {url} is no Lambda function", hint) from error
