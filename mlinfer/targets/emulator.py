"""Ask the function that `mlinfer run-local` runs, through Lambda's Invoke API."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from botocore import exceptions as boto

from ..clients.invocation import read_answer, require_prediction
from ..errors import InvocationError, MissingError, RemoteError
from ..local.address import INVOCATIONS, listens
from . import Target
from .payload import MakePayload

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient


RESTART_S = 10.0


def make_target(
    client: LambdaClient, make_payload: MakePayload, lock: Callable[[], AbstractContextManager[None]]
) -> Target:
    """Return the target that asks the emulator, which answers one request at a time: each is made inside `lock()`."""

    url = client.meta.endpoint_url

    def ask(name: str, data: bytes, top_k: int) -> dict[str, Any]:
        with make_payload(name, data, top_k) as body, lock():
            try:
                with _explained_here(url):
                    answer = read_answer(_payload(client, body), "the function")
                return require_prediction(answer, f"what listens at {url}")
            except InvocationError as error:
                if error.code == "container_crashed":
                    _wait_for_restart(url)
                raise

    return ask


def _wait_for_restart(url: str) -> None:
    """Wait, not for long, until the Engine has started an emulator that ended: then the next request is answered."""
    until = time.monotonic() + RESTART_S
    while not listens(url + INVOCATIONS) and time.monotonic() < until:
        time.sleep(0.05)


def _payload(client: LambdaClient, body: bytes) -> bytes:
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
def _explained_here(url: str) -> Iterator[None]:
    """Turn what boto3 raises of the emulator into errors about it. Raises MissingError, RemoteError."""
    try:
        yield
    except (boto.EndpointConnectionError, boto.ConnectTimeoutError) as error:
        raise MissingError(
            "not_running", f"nothing answers at {url}", "Start it: mlinfer run-local --detach"
        ) from error
    except boto.ReadTimeoutError as error:
        hint = (
            "Start it again: mlinfer run-local --stop && mlinfer run-local --detach. If that was given a longer --timeout, set "
            "timeout in mlinfer.toml instead: the time waited here follows it."
        )
        raise InvocationError("function_timeout", f"{url} did not answer in time", hint) from error
    except (boto.ConnectionError, boto.HTTPClientError) as error:
        hint = (
            "The emulator ends when two requests come at once; it starts again by itself: try again. Else see its log."
        )
        raise InvocationError(
            "container_crashed", f"{url} ended the connection in the middle of the request", hint
        ) from error
    except (boto.ClientError, boto.BotoCoreError) as error:
        hint = "Does mlinfer run-local listen on this port? See port in mlinfer.toml."
        raise RemoteError("no_function", f"what answers at {url} is no Lambda function", hint) from error
