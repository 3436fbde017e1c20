"""Call the deployed function through its function URL, with signed requests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from botocore import exceptions as boto

from ..clients.aws import UrlCaller
from ..clients.aws_errors import explained, none_if_absent, refusal
from ..clients.invocation import require_prediction
from ..clients.waiter import Waiter
from ..errors import InvocationError, RemoteError, UsageError
from ..names import ALIAS, Names
from . import Target
from .aws import BUSY, TOO_MANY, explain_lost_answer, explained_invocation, send_until_accepted
from .payload import MakePayload

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient


def read_live_url(functions: LambdaClient, names: Names) -> str:
    """Return the function URL of the deployed version. Raises MlinferError."""
    which = {"FunctionName": names.function, "Qualifier": ALIAS}
    with explained(f"URL of function {names.function}", "lambda:GetFunctionUrlConfig on the function"):
        found = none_if_absent(lambda: functions.get_function_url_config(**which))
    if not found:
        hint = "Create one with `mlinfer deploy --url iam`."
        raise UsageError("no_url", f"function {names.function} has no URL", hint)
    return str(found["FunctionUrl"])


def make_target(call: UrlCaller, url: str, make_payload: MakePayload, *, waiter: Waiter) -> Target:
    """Return the target that calls the function URL. call: sends a signed request without retries."""

    def send(body: bytes) -> tuple[int, bytes]:
        status, content = call(body)
        if status in (429, 503):  # raise what boto3 raises for the Invoke API
            code = TOO_MANY if status == 429 else BUSY
            answer: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
            raise boto.ClientError(answer, "InvokeFunctionUrl")
        return status, content

    def ask(name: str, data: bytes, top_k: int) -> dict[str, Any]:
        with make_payload(name, data, top_k) as body, explained_invocation(url):
            status, content = send_until_accepted(lambda: send(body), waiter)
        try:
            document = json.loads(content)
        except ValueError:
            document = None
        if isinstance(document, dict) and (status == 200 or "error" in document):
            return require_prediction({"statusCode": status, "body": document}, url)
        raise _refused_by_url(status, content, url)

    return ask


def _refused_by_url(status: int, content: bytes, url: str) -> RemoteError:
    """Return the error for a response that comes from Lambda and not from the handler."""
    if status == 200:
        return explain_lost_answer(url)
    if status == 403 and b"expired" in content:
        return refusal("ExpiredTokenException", url)
    if status == 403:
        hint = "Ask your AWS administrator for lambda:InvokeFunctionUrl and lambda:InvokeFunction on the function."
        return RemoteError("access_denied", f"access denied to {url}", hint)
    if status == 404:
        return RemoteError("not_deployed", f"no function exists at {url}", "Check it with `mlinfer status`.")
    if status >= 500:
        message = f"the function at {url} failed (status {status})"
        return InvocationError("function_failed", message, "Check its log with `mlinfer logs --since 5m`.")
    return RemoteError("aws_refused", f"{url} returned status {status}", "Check it with `mlinfer status`.")
