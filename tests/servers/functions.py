"""A Lambda API on loopback that invokes the real handler package in this process, and answers what a test scripts.

It knows Invoke, GetFunctionConfiguration, GetFunctionUrlConfig and GetPolicy: what `predict --target aws` calls.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from lambda_src.service import Service

Answer = tuple[int, dict[str, str], bytes]
LOST = (0, dict[str, str](), b"")  # the connection is cut once the request has come


def error(status: int, code: str, message: str) -> Answer:
    """Return how Lambda's API refuses."""
    return status, {"x-amzn-ErrorType": code}, json.dumps({"Message": message}).encode()


def failed(kind: str, message: str, log: str = "") -> Answer:
    """Return how Lambda tells of a function that failed."""
    headers = {"X-Amz-Function-Error": "Unhandled", "X-Amz-Log-Result": base64.b64encode(log.encode()).decode()}
    return 200, headers, json.dumps({"errorType": kind, "errorMessage": message}).encode()


class LoopbackLambda:
    """One function with an alias. `script` holds what the next invocations are answered with, before the handler is asked."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.script: list[Answer] = []
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.most_at_once = 0
        self.expires_after = 10**9  # answers, after which the caller's credentials have expired
        self.url = ""
        self._running = 0
        self._lock = threading.Lock()

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """Answer a request of the API, or of the function's URL."""
        parts = urlsplit(path)
        with self._lock:
            self.requests.append((f"{method} {path}", headers, body))
            if not parts.path.endswith("/function-url-call") and not parts.path.endswith("/invocations"):
                return self._describe(parts.path)
            if self.script:
                return self.script.pop(0)
            if not self.expires_after:
                return error(403, "ExpiredTokenException", "The security token included in the request is expired")
            self.expires_after -= 1
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)
        try:
            return self._invoke(parts.path, headers, body)
        finally:
            with self._lock:
                self._running -= 1

    def invocations(self) -> list[tuple[dict[str, list[str]], dict[str, str], bytes]]:
        """Return the query, headers and event of each invocation."""
        return [
            (parse_qs(urlsplit(line).query), headers, body)
            for line, headers, body in self.requests
            if "/invocations" in line
        ]

    def _describe(self, path: str) -> Answer:
        if path.endswith("/configuration"):
            return 200, {}, json.dumps({"FunctionName": "mlinfer-work", "Timeout": 3, "State": "Active"}).encode()
        if path.endswith("/url") and self.url:
            return 200, {}, json.dumps({"FunctionUrl": self.url, "AuthType": "AWS_IAM"}).encode()
        return error(404, "ResourceNotFoundException", "there is none")

    def _invoke(self, path: str, headers: dict[str, str], body: bytes) -> Answer:
        if path.endswith("/function-url-call"):
            context = {"http": {"method": "POST"}}
            kind = headers.get("Content-Type", "")
            event = {"requestContext": context, "headers": {"content-type": kind}, "body": body.decode()}
            answer = self.service.answer(event)
            return answer["statusCode"], answer["headers"], answer["body"].encode()
        log = base64.b64encode(b"START\nthe handler's own line\nEND\n").decode()
        tail = {"X-Amz-Log-Result": log} if headers.get("X-Amz-Log-Type") == "Tail" else {}
        return 200, tail, json.dumps(self.service.answer(json.loads(body))).encode()


@contextmanager
def serving(service: Service, kind: type[LoopbackLambda] = LoopbackLambda) -> Iterator[tuple[LoopbackLambda, str]]:
    """Serve the API on a free port; yield it and its address."""
    api = kind(service)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, headers, content = api.answer(
                self.command, self.path, dict(self.headers), self.rfile.read(int(self.headers.get("Content-Length", 0)))
            )
            if (status, headers, content) == LOST:
                self.close_connection = True
                return
            self.send_response(status)
            length = str(len(content))
            for name, value in {"Content-Type": "application/json", "Content-Length": length, **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
            self.close_connection |= "Content-Length" in headers  # of an answer that is cut off

        do_POST = do_PUT = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield api, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
