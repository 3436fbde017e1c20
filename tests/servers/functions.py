"""A Lambda API on loopback that invokes the real handler in this process, and gives scripted answers.

It supports the calls of `predict --target aws`: Invoke, GetFunctionConfiguration, GetFunctionUrlConfig and GetPolicy.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from lambda_src.service import Service

from .http import Answer, Request, serve

LOST = None  # the connection is cut once the request has come


def answered(document: object, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    """Return a JSON answer."""
    return Answer(status, {"content-type": "application/json", **(headers or {})}, json.dumps(document).encode())


def error(status: int, code: str, message: str) -> Answer:
    """Return a refusal of Lambda's API."""
    return answered({"Message": message}, status, {"x-amzn-ErrorType": code})


def failed(kind: str, message: str, log: str = "") -> Answer:
    """Return Lambda's answer for a failed function."""
    headers = {"X-Amz-Function-Error": "Unhandled", "X-Amz-Log-Result": base64.b64encode(log.encode()).decode()}
    return answered({"errorType": kind, "errorMessage": message}, headers=headers)


class LoopbackLambda:
    """One function with an alias. `script`: answers for the next invocations, before the handler is called."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.script: list[Answer | None] = []
        self.requests: list[Request] = []
        self.most_at_once = 0
        self.expires_after = 10**9  # answers, after which the caller's credentials have expired
        self.url = ""
        self._running = 0
        self._lock = threading.Lock()

    def answer(self, request: Request) -> Answer | None:
        """Answer a request of the API, or of the function's URL."""
        path = urlsplit(request.target).path
        with self._lock:
            self.requests.append(request)
            if not path.endswith("/function-url-call") and not path.endswith("/invocations"):
                return self._describe(path)
            if self.script:
                return self.script.pop(0)
            if not self.expires_after:
                return error(403, "ExpiredTokenException", "The security token included in the request is expired")
            self.expires_after -= 1
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)
        try:
            return self._invoke(path, request)
        finally:
            with self._lock:
                self._running -= 1

    def invocations(self) -> list[Request]:
        """Return the invocations' requests."""
        return [request for request in self.requests if "/invocations" in request.target]

    def _describe(self, path: str) -> Answer:
        if path.endswith("/configuration"):
            return answered({"FunctionName": "mlinfer-work", "Timeout": 3, "State": "Active"})
        if path.endswith("/url") and self.url:
            return answered({"FunctionUrl": self.url, "AuthType": "AWS_IAM"})
        return error(404, "ResourceNotFoundException", "there is none")

    def _invoke(self, path: str, request: Request) -> Answer:
        if path.endswith("/function-url-call"):
            context = {"http": {"method": "POST"}}
            headers = {"content-type": request.headers.get("content-type", "")}
            event = {"requestContext": context, "headers": headers, "body": request.body.decode()}
            answer = self.service.answer(event)
            return Answer(answer["statusCode"], answer["headers"], answer["body"].encode())
        log = base64.b64encode(b"START\nthe handler's own line\nEND\n").decode()
        tail = {"X-Amz-Log-Result": log} if request.headers.get("x-amz-log-type") == "Tail" else {}
        return answered(self.service.answer(json.loads(request.body)), headers=tail)


@contextmanager
def serving(service: Service, kind: type[LoopbackLambda] = LoopbackLambda) -> Iterator[tuple[LoopbackLambda, str]]:
    """Serve the API on a free port; yield it and its address."""
    api = kind(service)
    with serve(api.answer, keep_alive=True) as port:
        yield api, f"http://127.0.0.1:{port}"
