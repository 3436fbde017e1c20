"""Call the function that `mlinfer run-local` runs, through Lambda's Invoke API."""

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
    """Return the target that calls the emulator. Each request runs inside `lock()`, because it handles one at a time."""

    url = client.meta.endpoint_url

    def ask(name: str, data: bytes, top_k: int) -> dict[str, Any]:
        with make_payload(name, data, top_k) as body, lock():
            try:
                with _explained_here(url):
                    answer = read_answer(_payload(client, body), "the function")
                return require_prediction(answer, f"the server at {url}")
            except InvocationError as error:
                if error.code == "container_crashed":
                    _wait_for_restart(url)
                raise

    return ask


def _wait_for_restart(url: str) -> None:
    """Wait briefly until the Engine has restarted the emulator, so that the next request succeeds."""
    until = time.monotonic() + RESTART_S
    while not listens(url + INVOCATIONS) and time.monotonic() < until:
        time.sleep(0.05)


def _payload(client: LambdaClient, body: bytes) -> bytes:
    """Invoke and return the body of the response. The body of a 502, which says why, is kept; boto3 drops it."""
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
    """Turn boto3's exceptions into errors about the emulator. Raises MissingError, RemoteError."""
    try:
        yield
    except (boto.EndpointConnectionError, boto.ConnectTimeoutError) as error:
        hint = "Start it with `mlinfer run-local --detach`."
        raise MissingError("not_running", f"no function is running at {url}", hint) from error
    except boto.ReadTimeoutError as error:
        hint = "Increase timeout in mlinfer.toml, then run `mlinfer run-local --stop && mlinfer run-local --detach`."
        raise InvocationError("function_timeout", f"the function at {url} timed out", hint) from error
    except (boto.ConnectionError, boto.HTTPClientError) as error:
        hint = "Try again. If it fails again, check the container's log."
        raise InvocationError("container_crashed", f"the server at {url} closed the connection", hint) from error
    except (boto.ClientError, boto.BotoCoreError) as error:
        hint = "Check port in mlinfer.toml: another program uses this port."
        raise RemoteError("no_function", f"the server at {url} is not a Lambda function", hint) from error
