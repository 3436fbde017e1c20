"""AWS on loopback: moto stores the resources, and a proxy before it does what Lambda does and moto does not.

In addition to moto, it:
- runs the handler package for an image function, with the called version's environment and S3,
- names images by digest, and keeps a version's image when the function gets another,
- supports changes of architecture, /tmp, image command and log settings,
- returns revisions and compares them, and the time of the last change,
- refuses existing names,
- is busy for a while after a change, if a test says so.

States and errors: https://docs.aws.amazon.com/lambda/latest/dg/functions-states.html and the API reference.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from botocore.session import get_session

from lambda_src.service import Service
from lambda_src.settings import Settings

from .http import Answer, Forward, LoopbackS3, Request, error

ACCOUNT = "123456789012"
REGION = "eu-central-1"
READS = re.compile("Get|List|Describe|Head|BatchGet|BatchCheck|Simulate|Invoke|GET|Filter")


def refused(status: int, code: str, message: str = "") -> Answer:
    """Return the error of Lambda, or of another JSON service."""
    body = json.dumps({"__type": code, "Message": message, "message": message}).encode()
    return Answer(status, {"content-type": "application/json", "x-amzn-errortype": code}, body)


def failed(call: str, status: int, code: str, message: str) -> Answer:
    """Return the error of the called service."""
    service = call.partition(":")[0]
    if service == "s3":
        return error(status, code, message)
    if service in ("iam", "sts"):
        xml = f"<ErrorResponse><Error><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
        return Answer(status, {"content-type": "text/xml"}, xml.encode())
    return refused(status, code, message)


def hides_tags(*calls: str) -> Callable[[str, Request, Forward], Answer | None]:
    """Return a fault that answers as AWS does without the permissions to read tags."""

    def answer(call: str, request: Request, forward: Forward) -> Answer | None:
        if call in calls and call != "lambda:GetFunction":
            return failed(call, 403, "AccessDenied" if call.startswith("s3:") else "AccessDeniedException", "no")
        answer = forward(request)
        if call != "lambda:GetFunction" or call not in calls or answer.status != 200:
            return answer
        told = json.loads(answer.body)
        told.pop("Tags", None)
        told["TagsError"] = {
            "ErrorCode": "AccessDeniedException",
            "Message": "not authorized to perform: lambda:ListTags",
        }
        return with_body(answer, told)

    return answer


def identity(arn: str) -> Answer:
    """Return STS's answer for this identity."""
    who = f"<Arn>{arn}</Arn><UserId>x</UserId><Account>{ACCOUNT}</Account>"
    body = f"<GetCallerIdentityResponse><GetCallerIdentityResult>{who}</GetCallerIdentityResult>"
    return Answer(200, {"content-type": "text/xml"}, f"{body}</GetCallerIdentityResponse>".encode())


def simulation(decisions: dict[str, bool]) -> Answer:
    """Return IAM's answer for a simulation."""
    members = "".join(
        f"<member><EvalActionName>{action}</EvalActionName>"
        f"<EvalDecision>{'allowed' if allowed else 'implicitDeny'}</EvalDecision></member>"
        for action, allowed in decisions.items()
    )
    result = f"<EvaluationResults>{members}</EvaluationResults><IsTruncated>false</IsTruncated>"
    name = "SimulatePrincipalPolicy"
    body = f'<{name}Response xmlns="https://iam.amazonaws.com/doc/2010-05-08/"><{name}Result>{result}</{name}Result>'
    return Answer(200, {"content-type": "text/xml"}, f"{body}</{name}Response>".encode())


def service_of(request: Request) -> str:
    """Return the service that the request was signed for."""
    found = re.search(r"Credential=[^/]+/\d+/[^/]+/([^/]+)/", request.headers.get("authorization", ""))
    return found[1] if found else "s3"


def operation_of(request: Request) -> str:
    """Return service and operation, such as `lambda:GetFunction`; for S3, as the S3 proxy names them.

    Raises ValueError for a service that this AWS does not have.
    """
    service = service_of(request)
    if service == "s3":
        return "s3:DeleteObjects" if "delete" in request.query else f"s3:{request.operation}"
    if target := request.headers.get("x-amz-target"):
        return f"{service}:{target.rpartition('.')[2]}"
    if service in ("iam", "sts"):
        return f"{service}:{parse_qs(request.body.decode())['Action'][0]}"
    if service != "lambda":
        raise ValueError(f"unknown service {service}: {request.method} {request.target}")
    path = urlsplit(request.target).path.rstrip("/")
    return next(name for method, pattern, name in LAMBDA if method == request.method and pattern.fullmatch(path))


def _lambda_operations() -> list[tuple[str, re.Pattern[str], str]]:
    model = get_session().get_service_model("lambda")
    found = []
    for name in model.operation_names:
        http = model.operation_model(name).http
        path = http["requestUri"].partition("?")[0].rstrip("/")
        found.append((http["method"], re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), f"lambda:{name}"))
    return found


LAMBDA = _lambda_operations()


def moto_function(name: str, version: str = "$LATEST") -> Any:
    """Return moto's function version, to read and change, or None."""
    from moto.awslambda.exceptions import LambdaClientError
    from moto.awslambda.models import lambda_backends  # takes half a second, so only for the tests of AWS

    try:
        return lambda_backends[ACCOUNT][REGION].get_function(name, version)
    except LambdaClientError:  # there is none
        return None


class LoopbackAws(LoopbackS3):
    """The proxy. calls: in order; `before` sees each call first and may answer it."""

    def __init__(self, url: str, moto: str) -> None:
        super().__init__(url, moto)
        self.reset()

    def reset(self) -> None:
        """Forget everything that a test has set."""
        self.reset_calls()
        self._faults.clear()
        self.before: Callable[[str, Request, Forward], Answer | None] | None = None
        self.busy_for = 0  # questions, after each change
        self.image_model: Path | None = None  # what lies at a path inside of an image
        self.cache = Path()
        self.states: dict[str, str] = {}  # additions to moto's function configuration
        self._busy = 0
        self._services: dict[str, tuple[Service, list[str]]] = {}

    def reset_calls(self) -> None:
        """Forget what was asked."""
        self.requests.clear()
        self.calls: list[str] = []

    @staticmethod
    def is_change(call: str) -> bool:
        """Tell whether a call changes something; Lambda's dry runs do not."""
        return not READS.match(call.partition(":")[2]) and "DryRun" not in call

    @property
    def changes(self) -> list[str]:
        """Name the calls that change something."""
        return [call for call in self.calls if self.is_change(call)]

    def forget_downloads(self) -> None:
        """Make the next invocation a cold start."""
        self._services.clear()
        shutil.rmtree(self.cache, ignore_errors=True)

    def age(self, name: str) -> None:
        """Date the last change of a function long ago."""
        moto_function(name).last_modified = "2026-01-01T00:00:00.000+0000"

    def answer(self, request: Request) -> Answer | None:
        """Answer as AWS would; None cuts the connection."""
        call = operation_of(request)
        self.requests.append(request)
        self.calls.append(f"{call} DryRun" if b'"DryRun": true' in request.body else call)
        if self.before:
            return self.before(call, request, self.forward)
        fault = self._take(self._faults, call)
        return fault(request, self.forward) if fault else self.forward(request)

    def forward(self, request: Request) -> Answer:
        """Answer as AWS would."""
        name = operation_of(request)
        if not name.startswith("lambda:"):
            return super().forward(request) if name.startswith("s3:") else self.pass_on(request)
        step = getattr(self, f"_{name.partition(':')[2]}", None)
        return step(request) if step else self.pass_on(request)

    # What Lambda does and moto does not

    def _GetFunction(self, request: Request) -> Answer:  # noqa: N802 - as Lambda names it
        answer = self.pass_on(request)
        if answer.status != 200:
            return answer
        told = json.loads(answer.body)
        if "ImageUri" in told["Code"]:
            told["Code"]["ResolvedImageUri"] = told["Code"]["ImageUri"]
        told["Configuration"]["RevisionId"] = _digest(told["Configuration"])
        if self._busy:
            self._busy -= 1
            told["Configuration"] |= {
                "LastUpdateStatus": "InProgress",
                "LastUpdateStatusReason": "It is being made.",
            }
        function = self.function(request, request.query.get("Qualifier", "$LATEST"))
        told["Configuration"] |= {"LoggingConfig": function.logging} if hasattr(function, "logging") else {}
        if function.reserved_concurrency is not None:
            told["Concurrency"] = {"ReservedConcurrentExecutions": function.reserved_concurrency}
        told["Configuration"] |= self.states
        return with_body(answer, told)

    def _CreateFunction(self, request: Request) -> Answer:  # noqa: N802
        return self._changed(self.pass_on(request))

    def _UpdateFunctionCode(self, request: Request) -> Answer:  # noqa: N802
        wanted = json.loads(request.body)
        function = self.function(request)
        if function is None or wanted.get("DryRun"):
            return self.pass_on(request)
        function.code = dict(function.code)  # which moto's versions would share
        function.architectures = wanted.get("Architectures", function.architectures)
        return self._unless_busy(request, function)

    def _UpdateFunctionConfiguration(self, request: Request) -> Answer:  # noqa: N802
        function, wanted = self.function(request), json.loads(request.body)
        if function is not None and "EphemeralStorage" in wanted:
            function.ephemeral_storage = wanted["EphemeralStorage"]["Size"]
        if function is not None and "ImageConfig" in wanted:
            function.image_config = type(function.image_config)(wanted["ImageConfig"])
        if function is not None and "LoggingConfig" in wanted:
            function.logging = wanted["LoggingConfig"]
        return self._unless_busy(request, function)

    def _PublishVersion(self, request: Request) -> Answer:  # noqa: N802
        return self._unless_busy(request)

    def _GetAlias(self, request: Request) -> Answer:  # noqa: N802
        answer = self.pass_on(request)
        if answer.status >= 300:
            return answer
        told = json.loads(answer.body)
        return with_body(answer, {**told, "RevisionId": _digest(told)})

    def _CreateAlias(self, request: Request) -> Answer:  # noqa: N802
        answer = self.pass_on(request)
        exists = answer.status == 409  # which moto gives another name
        return refused(409, "ResourceConflictException", "Alias already exists") if exists else answer

    def _UpdateAlias(self, request: Request) -> Answer:  # noqa: N802
        bare = {name: value for name, value in request.headers.items() if name != "content-length"}
        there = json.loads(self._GetAlias(replace(request, method="GET", headers=bare, body=b"")).body)
        if json.loads(request.body).get("RevisionId", there["RevisionId"]) != there["RevisionId"]:
            return refused(412, "PreconditionFailedException", "The RevisionId provided does not match")
        return self.pass_on(request)

    def _CreateFunctionUrlConfig(self, request: Request) -> Answer:  # noqa: N802
        function = self.function(request)
        if function is not None and function.url_config:
            return refused(409, "ResourceConflictException", "FunctionUrlConfig exists for this Lambda function")
        return self.pass_on(request)

    def _AddPermission(self, request: Request) -> Answer:  # noqa: N802
        function, wanted = self.function(request), json.loads(request.body)["StatementId"]
        if function is not None and wanted in [held["Sid"] for held in function.policy.statements]:
            return refused(409, "ResourceConflictException", f"The statement id ({wanted}) provided already exists.")
        return self.pass_on(request)

    def _Invoke(self, request: Request) -> Answer:  # noqa: N802
        function = self.function(request, request.query.get("Qualifier", "$LATEST"))
        if function is None:
            return refused(404, "ResourceNotFoundException", "Function not found")
        service, log = self._service(function)
        log.clear()
        headers = {"content-type": "application/json", "x-amz-executed-version": str(function.version)}
        try:
            document = service.answer(json.loads(request.body))
        except Exception as error:  # as Lambda does
            document = {"errorMessage": str(error), "errorType": type(error).__name__}
            headers["x-amz-function-error"] = "Unhandled"
        tail = "".join(f"{line}\n" for line in log)
        headers["x-amz-log-result"] = base64.b64encode(tail.encode()).decode()
        return Answer(200, headers, json.dumps(document).encode())

    def function(self, request: Request, version: str = "$LATEST") -> Any:
        """Return moto's function for a request, or None."""
        name = unquote(urlsplit(request.target).path.split("/")[3])
        return moto_function(name, version)

    def _service(self, function: Any) -> tuple[Service, list[str]]:
        environment = dict(function.environment_vars)
        if self.image_model and not environment["MLINFER_MODEL_URI"].startswith("s3://"):
            environment["MLINFER_MODEL_URI"] = str(self.image_model)
        key = json.dumps([environment, function.memory_size])
        if key not in self._services:
            log: list[str] = []
            settings = Settings.from_environment(environment).replace(cache=self.cache, threads=1)
            self._services[key] = Service(settings, log.append), log
        return self._services[key]

    def _unless_busy(self, request: Request, changed: Any = None) -> Answer:
        if self._busy:
            message = "The operation cannot be performed at this time. An update is in progress for resource: it"
            return refused(409, "ResourceConflictException", message)
        if changed is not None:
            changed.last_modified = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000+0000")
        return self._changed(self.pass_on(request))

    def _changed(self, answer: Answer) -> Answer:
        if answer.status < 300:
            self._busy = self.busy_for
        return answer


def with_body(answer: Answer, document: dict[str, Any]) -> Answer:
    """Return the answer with another document."""
    headers = {name: value for name, value in answer.headers.items() if name != "content-length"}
    return Answer(answer.status, headers, json.dumps(document).encode())


def _digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:32]
