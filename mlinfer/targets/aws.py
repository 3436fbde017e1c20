"""Call the deployed function through Lambda's Invoke API.

A request is repeated only if the function has certainly not run, so that it never runs twice.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from botocore import exceptions as boto

from ..clients.aws_errors import error_code, explained, refusal
from ..clients.invocation import read_prediction
from ..clients.waiter import Waiter
from ..errors import InvocationError, RemoteError
from ..names import ALIAS, Names
from . import Target
from .payload import MakePayload

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient


T = TypeVar("T")

ACTIVATION_S = 300  # Lambda loads the container image again after weeks without requests
BUSY_S = 1.5  # total of the pauses before an image fails

TOO_MANY = "TooManyRequestsException"
BUSY = "ServiceUnavailableException"
_TRANSIENT = (500, 503, 504)  # statuses of Lambda's temporary failures
_BAD_GATEWAY = "502"  # without a Lambda error code, it comes from a gateway on the way
_NEVER_SENT = (boto.EndpointConnectionError, boto.ConnectTimeoutError, boto.ProxyConnectionError)
_INACTIVE = ("ResourceNotReadyException", "CodeArtifactUserPendingException")


def read_live_timeout(functions: LambdaClient, names: Names) -> int:
    """Return the timeout of the deployed version, in seconds. Raises MlinferError."""
    with explained(f"function {names.function}", "lambda:GetFunctionConfiguration on the function"):
        try:
            live = functions.get_function_configuration(FunctionName=names.function, Qualifier=ALIAS)
        except boto.ClientError as error:
            if error_code(error) != "ResourceNotFoundException":
                raise
            message = f"function {names.function} with alias {ALIAS} does not exist in {functions.meta.region_name}"
            hint = "Create it with `mlinfer deploy`, or set its Region with --region."
            raise RemoteError("not_deployed", message, hint) from error
    return int(live["Timeout"])


def make_target(
    client: LambdaClient,
    names: Names,
    make_payload: MakePayload,
    *,
    waiter: Waiter,
    log: Callable[[str], None] | None = None,
) -> Target:
    """Return the target that calls the deployed version. client: one without retries.

    log: takes the end of the function's log, line by line.
    """
    which: dict[str, Any] = {"FunctionName": names.function, "Qualifier": ALIAS, **({"LogType": "Tail"} if log else {})}
    subject = f"function {names.function}"

    def ask(name: str, data: bytes, top_k: int) -> dict[str, Any]:
        with make_payload(name, data, top_k) as body, explained_invocation(subject):
            answer = send_until_accepted(lambda: client.invoke(**which, Payload=body), waiter)
            payload = answer["Payload"].read()
        if log:
            for line in base64.b64decode(answer.get("LogResult", "")).decode(errors="replace").splitlines():
                log(line)
        return read_prediction(payload, subject)

    return ask


def find_reason_to_wait(error: boto.ClientError) -> str:
    """Return what to wait for if the function has not run, so that a retry is safe; else "".

    A function is inactive after weeks without requests: the first request fails and makes Lambda load its container image.
    https://docs.aws.amazon.com/lambda/latest/dg/functions-states.html
    """
    code, message = error_code(error), str(error.response.get("Error", {}).get("Message", ""))
    if code == TOO_MANY:
        return "the concurrency limit of the account or function is reached"
    inactive = code == "ResourceConflictException" and any(
        word in message for word in ("Pending", "Inactive", "progress")
    )
    return "Lambda is activating the function" if inactive or code in _INACTIVE else ""


def send_until_accepted(send: Callable[[], T], waiter: Waiter) -> T:
    """Send a request. Retry while the function has certainly not run: no connection, or Lambda rejected the request.

    Raises ClientError, BotoCoreError.
    """
    pauses: Iterator[bool] | None = None
    while True:
        try:
            return waiter.retry(send, find_reason_to_wait, ACTIVATION_S)
        except (boto.ClientError, *_NEVER_SENT) as error:
            if isinstance(error, boto.ClientError) and _status(error) != 503:
                raise
            pauses = pauses or waiter.pauses("Lambda is busy or unreachable", BUSY_S)
            if not next(pauses, False):
                raise


@contextmanager
def explained_invocation(subject: str, permissions: str = "lambda:InvokeFunction on alias live") -> Iterator[None]:
    """Turn exceptions of an invocation into MlinferErrors; an InvocationError if the next one may succeed.

    A lost response is an InvocationError: the function may have run, so the request is not repeated.
    """
    with explained(subject, permissions):
        try:
            yield
        except boto.ReadTimeoutError as error:
            raise InvocationError("function_timeout", f"{subject} timed out", "Try again.") from error
        except (boto.HTTPClientError, boto.IncompleteReadError) as error:  # if it was not sent: ConnectionError
            raise explain_lost_answer(subject) from error
        except boto.ClientError as error:
            if _status(error) not in _TRANSIENT and error_code(error) != _BAD_GATEWAY:
                raise
            told = refusal(BUSY, subject)
            raise InvocationError(told.code, str(told), told.hint) from error


def explain_lost_answer(subject: str) -> InvocationError:
    """Return the error for a response that was lost."""
    message = f"{subject}: the connection broke before the response was complete (the function may have run)"
    return InvocationError("answer_lost", message, "Try again.")


def _status(error: boto.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
