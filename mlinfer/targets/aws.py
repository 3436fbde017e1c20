"""Ask what is live in AWS, through Lambda's Invoke API or the function's URL.

A request is never repeated once the function may have run: a client that repeats it runs the function twice.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import uuid4

from botocore import exceptions as boto

from ..clients.aws import Client, UrlCaller, error_code, explained, refusal
from ..clients.waiter import Waiter
from ..cloud.resources.alias import read_url
from ..cloud.resources.model_object import encryption
from ..errors import InvocationError, MlinferError, RemoteError, UsageError
from ..names import ALIAS, Names
from .answers import read_answer
from .embedded import Target
from .payload import Fit, request

T = TypeVar("T")

WAKING_S = 300  # an image that was not used for weeks is fetched anew
BUSY_S = 1.5  # of pauses, until a picture is given up

_TOO_MANY = "TooManyRequestsException"
_BUSY = "ServiceUnavailableException"
_PASSING = (500, 503, 504)  # statuses of Lambda's own failures, which the next request need not meet
_BAD_GATEWAY = "502"  # with none of Lambda's own codes: of something on the way
_EVERY_PICTURES = {"expired_credentials", "invalid_credentials", "clock_skewed"}
_NEVER_SENT = (boto.EndpointConnectionError, boto.ConnectTimeoutError, boto.ProxyConnectionError)
_ASLEEP = ("ResourceNotReadyException", "CodeArtifactUserPendingException")


def staging(s3: Client, bucket: str, names: Names, tell: Callable[[str], None], kms_key: str = "") -> Fit:
    """Return what hands a picture over Lambda's 6 MB to the function by S3, unchanged; `tell` hears of it.

    The object is the request's own, and removed afterwards with its version: nothing else waits for it or keeps it. One
    that a killed command leaves expires by the bucket's rule.
    """

    @contextmanager
    def fit(name: str, data: bytes, top_k: int) -> Iterator[bytes]:
        body = request(data, top_k)
        if body is not None:
            yield body
            return
        where = {"Bucket": bucket, "Key": f"{names.staging_prefix}{uuid4().hex}"}
        subject = f"s3://{bucket}/{where['Key']}"
        try:
            with explained(subject, "s3:PutObject and s3:DeleteObject on it"):
                made = s3.put_object(**where, Body=data, **encryption(kms_key))
        except RemoteError as error:
            if error.code in _EVERY_PICTURES:
                raise
            raise InvocationError(error.code, str(error), error.hint) from error
        version = {"VersionId": made["VersionId"]} if "VersionId" in made else {}
        tell(f"{name} is over Lambda's 6 MB for a request: handed over by s3://{bucket}/{names.staging_prefix}.")
        try:
            yield json.dumps({"s3": subject, "top_k": top_k}).encode()
        finally:
            try:
                with explained(subject, "s3:DeleteObject and s3:DeleteObjectVersion on it"):
                    s3.delete_object(**where, **version)
            except MlinferError as error:  # no reason to lose the answer
                tell(f"Warning: the copy of {name} was not removed; it expires after a day. {error}. {error.hint}")

    return fit


def live_timeout(functions: Client, names: Names) -> int:
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


def live_url(functions: Client, names: Names) -> str:
    """Return the URL of what is live. Raises MlinferError."""
    with explained(f"the URL of {names.function}", "lambda:GetFunctionUrlConfig on the function"):
        url, _ = read_url(functions, names)
    if not url:
        raise UsageError("no_url", f"the function {names.function} has no URL", "Give it one: mlinfer deploy --url iam")
    return url


def cloud(client: Client, names: Names, fit: Fit, waiter: Waiter, log: Callable[[str], None] | None = None) -> Target:
    """Return the target that asks what is live in Lambda. client: one that repeats no request.

    log: takes the end of the function's own log, line by line.
    """
    which = {"FunctionName": names.function, "Qualifier": ALIAS, **({"LogType": "Tail"} if log else {})}
    subject = f"the function {names.function}"

    def ask(name: str, data: bytes, top_k: int) -> dict[str, Any]:
        with fit(name, data, top_k) as body, one_invocation(subject):
            answer = until_taken(lambda: client.invoke(**which, Payload=body), waiter)
            payload = answer["Payload"].read()
        if log:
            for line in base64.b64decode(answer.get("LogResult", "")).decode(errors="replace").splitlines():
                log(line)
        return read_answer(payload, subject)

    return ask


def not_run_yet(error: boto.ClientError) -> str:
    """Say what to wait for when the function has not run at all, so that asking again runs nothing twice; else "".

    A function that was idle for weeks is inactive: the first request fails and makes Lambda fetch its image.
    https://docs.aws.amazon.com/lambda/latest/dg/functions-states.html
    """
    code, message = error_code(error), str(error.response.get("Error", {}).get("Message", ""))
    if code == _TOO_MANY:
        return "Lambda runs as many requests at once as this account or function may"
    asleep = code == "ResourceConflictException" and any(
        word in message for word in ("Pending", "Inactive", "progress")
    )
    return "Lambda wakes the function or makes it ready" if asleep or code in _ASLEEP else ""


def until_taken(send: Callable[[], T], waiter: Waiter) -> T:
    """Send a request, again while the function has certainly not run: no connection, or Lambda refused to run it.

    Raises ClientError, BotoCoreError.
    """
    pauses: Iterator[bool] | None = None
    while True:
        try:
            return waiter.retry(send, not_run_yet, WAKING_S)
        except (boto.ClientError, *_NEVER_SENT) as error:
            if isinstance(error, boto.ClientError) and _status(error) != 503:
                raise
            pauses = pauses or waiter.pauses("Lambda is busy or cannot be reached", BUSY_S)
            if not next(pauses, False):
                raise


@contextmanager
def one_invocation(subject: str, permissions: str = "lambda:InvokeFunction on its alias live") -> Iterator[None]:
    """Turn what ends an invocation inside into a MlinferError: InvocationError if the next one need not meet it.

    An answer that is lost on the way is one of these: the function may have run, so it is not asked again.
    """
    with explained(subject, permissions):
        try:
            yield
        except boto.ReadTimeoutError as error:
            raise InvocationError("function_timeout", f"{subject} did not answer in time", "Try again.") from error
        except (boto.HTTPClientError, boto.IncompleteReadError) as error:  # what was never sent is a ConnectionError
            raise _lost(subject) from error
        except boto.ClientError as error:
            if _status(error) not in _PASSING and error_code(error) != _BAD_GATEWAY:
                raise
            told = refusal(_BUSY, subject)
            raise InvocationError(told.code, str(told), told.hint) from error


def _lost(subject: str) -> InvocationError:
    message = f"{subject}: the connection broke before the whole answer came; the function may have run"
    return InvocationError("answer_lost", message, "Try again.")


def _status(error: boto.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def by_url(call: UrlCaller, url: str, fit: Fit, waiter: Waiter) -> Target:
    """Return the target that asks the function's URL. call: makes a signed request, and repeats none."""

    def send(body: bytes) -> tuple[int, bytes]:
        status, content = call(body)
        if status in (429, 503):  # as boto3 raises it of the Invoke API
            code = _TOO_MANY if status == 429 else _BUSY
            raise boto.ClientError(
                {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "InvokeFunctionUrl"
            )
        return status, content

    def ask(name: str, data: bytes, top_k: int) -> dict[str, Any]:
        with fit(name, data, top_k) as body, one_invocation(url):
            status, content = until_taken(lambda: send(body), waiter)
        try:
            document = json.loads(content)
        except ValueError:
            document = None
        if isinstance(document, dict) and ("predictions" in document or "error" in document):
            return {"statusCode": status, "body": document}
        raise _refused_by_url(status, content, url)

    return ask


def _refused_by_url(status: int, content: bytes, url: str) -> RemoteError:
    """Explain an answer that is Lambda's own and not the handler's."""
    if status == 200:
        return _lost(url)
    if status == 403 and b"expired" in content:
        return refusal("ExpiredTokenException", url)
    if status == 403:
        hint = (
            "They need lambda:InvokeFunctionUrl and lambda:InvokeFunction on the function, or deploy with --url public."
        )
        return RemoteError("access_denied", f"these credentials may not call {url}", hint)
    if status == 404:
        return RemoteError("not_deployed", f"there is no function at {url}", "See: mlinfer status")
    if status >= 500:
        message = f"the function behind {url} ended without an answer (status {status})"
        return InvocationError("function_failed", message, "See why: mlinfer logs --since 5m")
    return RemoteError("aws_refused", f"{url} answered with status {status}", "See: mlinfer status")
