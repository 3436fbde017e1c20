"""Ask what is live in AWS through Lambda's Invoke API.

A request is never repeated once the function may have run: a client that repeats it runs the function twice.
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

ACTIVATION_S = 300  # Lambda loads the image of a function again that was idle for weeks
BUSY_S = 1.5  # of pauses, until a picture is given up

TOO_MANY = "TooManyRequestsException"
BUSY = "ServiceUnavailableException"
_TRANSIENT = (500, 503, 504)  # statuses of Lambda's own failures, which the next request need not meet
_BAD_GATEWAY = "502"  # with none of Lambda's own codes: of something on the way
_NEVER_SENT = (boto.EndpointConnectionError, boto.ConnectTimeoutError, boto.ProxyConnectionError)
_INACTIVE = ("ResourceNotReadyException", "CodeArtifactUserPendingException")


def read_live_timeout(functions: LambdaClient, names: Names) -> int:
    """Return the timeout of what is live, in seconds. Raises MlinferError."""
    with explained(f"the function {names.function}", "lambda:GetFunctionConfiguration on the function"):
        try:
            live = functions.get_function_configuration(FunctionName=names.function, Qualifier=ALIAS)
        except boto.ClientError as error:
            if error_code(error) != "ResourceNotFoundException":
                raise
            message = f"there is no function {names.function} with an alias {ALIAS} in {functions.meta.region_name}"
            raise RemoteError(
                "not_deployed", message, "Make it with `mlinfer deploy`, or name its --region."
            ) from error
    return int(live["Timeout"])


def make_target(
    client: LambdaClient,
    names: Names,
    make_payload: MakePayload,
    *,
    waiter: Waiter,
    log: Callable[[str], None] | None = None,
) -> Target:
    """Return the target that asks what is live in Lambda. client: one that repeats no request.

    log: takes the end of the function's own log, line by line.
    """
    which: dict[str, Any] = {"FunctionName": names.function, "Qualifier": ALIAS, **({"LogType": "Tail"} if log else {})}
    subject = f"the function {names.function}"

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
    """Say what to wait for when the function has not run at all, so that asking again runs nothing twice; else "".

    A function that was idle for weeks is inactive: the first request fails and makes Lambda fetch its image.
    https://docs.aws.amazon.com/lambda/latest/dg/functions-states.html
    """
    code, message = error_code(error), str(error.response.get("Error", {}).get("Message", ""))
    if code == TOO_MANY:
        return "Lambda runs as many requests at once as this account or function may"
    inactive = code == "ResourceConflictException" and any(
        word in message for word in ("Pending", "Inactive", "progress")
    )
    return "Lambda wakes the function or makes it ready" if inactive or code in _INACTIVE else ""


def send_until_accepted(send: Callable[[], T], waiter: Waiter) -> T:
    """Send a request, again while the function has certainly not run: no connection, or Lambda refused to run it.

    Raises ClientError, BotoCoreError.
    """
    pauses: Iterator[bool] | None = None
    while True:
        try:
            return waiter.retry(send, find_reason_to_wait, ACTIVATION_S)
        except (boto.ClientError, *_NEVER_SENT) as error:
            if isinstance(error, boto.ClientError) and _status(error) != 503:
                raise
            pauses = pauses or waiter.pauses("Lambda is busy or cannot be reached", BUSY_S)
            if not next(pauses, False):
                raise


@contextmanager
def explained_invocation(subject: str, permissions: str = "lambda:InvokeFunction on its alias live") -> Iterator[None]:
    """Turn what ends an invocation inside into a MlinferError: InvocationError if the next one need not meet it.

    An answer that is lost on the way is one of these: the function may have run, so it is not asked again.
    """
    with explained(subject, permissions):
        try:
            yield
        except boto.ReadTimeoutError as error:
            raise InvocationError("function_timeout", f"{subject} did not answer in time", "Try again.") from error
        except (boto.HTTPClientError, boto.IncompleteReadError) as error:  # what was never sent is a ConnectionError
            raise explain_lost_answer(subject) from error
        except boto.ClientError as error:
            if _status(error) not in _TRANSIENT and error_code(error) != _BAD_GATEWAY:
                raise
            told = refusal(BUSY, subject)
            raise InvocationError(told.code, str(told), told.hint) from error


def explain_lost_answer(subject: str) -> InvocationError:
    """Return the error of an answer that is lost on the way."""
    message = f"{subject}: the connection broke before the whole answer came; the function may have run"
    return InvocationError("answer_lost", message, "Try again.")


def _status(error: boto.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
