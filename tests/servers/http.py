"""S3 on loopback: moto keeps the objects, and a proxy before it does what S3 does and moto does not.

The proxy compares each SHA-256 that is sent along with what arrived, as S3 does; it remembers the requests; and it fails
where a test tells it to. Error documents: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Request:
    """One request. Header names are in lower case; query holds the last value of each parameter."""

    method: str
    target: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = field(repr=False)

    @property
    def operation(self) -> str:
        """Name the operation, as boto3 does; of S3 those that uploads use."""
        if target := self.headers.get("x-amz-target"):  # of ECR and the other services that speak JSON
            return target.rpartition(".")[2]
        if self.body.startswith(b"Action="):  # of STS and IAM
            return parse_qs(self.body.decode())["Action"][0]
        of_object = "/" in urlsplit(self.target).path.strip("/")
        if self.method == "PUT" and of_object:
            return "UploadPart" if "partNumber" in self.query else "PutObject"
        if self.method == "POST":
            return "CreateMultipartUpload" if "uploads" in self.query else "CompleteMultipartUpload"
        if self.method == "HEAD":
            return "HeadObject" if of_object else "HeadBucket"
        if self.method == "PUT":
            return "PutBucket" + "".join(self.query) if self.query else "CreateBucket"
        return " ".join([self.method, *self.query])


@dataclass(frozen=True)
class Answer:
    """One answer; a content-length among the headers is that of the object, in the answer to a HEAD."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


Forward = Callable[[Request], Answer]
Fault = Callable[[Request, Forward], Answer | None]  # None cuts the connection


def error(status: int, code: str, message: str = "", **more: str) -> Answer:
    """Return S3's error document."""
    elements = {"Code": code, "Message": message, **more, "RequestId": "TX234S0F24A06C7", "HostId": "host"}
    xml = "".join(f"<{name}>{text}</{name}>" for name, text in elements.items())
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{xml}</Error>'.encode()
    return Answer(status, {"content-type": "application/xml"}, body)


def sha256(body: bytes) -> str:
    """Return the SHA-256 as S3 writes it."""
    return base64.b64encode(hashlib.sha256(body).digest()).decode()


class LoopbackS3:
    """The proxy. `requests` are those that came; `fail` and `cut` break what comes next."""

    def __init__(self, url: str, moto: str) -> None:
        self.url = url
        self.requests: list[Request] = []
        self._moto = urlsplit(moto).netloc
        self._faults: dict[str, tuple[Fault, int]] = {}
        self._cuts: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()

    @property
    def operations(self) -> list[str]:
        """Name what was asked, in order."""
        return [request.operation for request in self.requests]

    def fail(self, operation: str, fault: Fault, times: int = 10**9) -> None:
        """Let the next requests for an operation go through `fault`."""
        self._faults[operation] = (fault, times)

    def cut(self, operation: str, after: int, times: int = 10**9) -> None:
        """Break the connection of the next requests for an operation after some bytes of the body."""
        self._cuts[operation] = (after, times)

    def read_limit(self, request: Request) -> int | None:
        """Return after how many bytes of the body to break the connection."""
        after: int | None = self._take(self._cuts, request.operation)
        return after

    def answer(self, request: Request) -> Answer | None:
        """Answer as S3 would; None cuts the connection."""
        self.requests.append(request)
        fault = self._take(self._faults, request.operation)
        return fault(request, self.forward) if fault else self.forward(request)

    def forward(self, request: Request) -> Answer:
        """Pass a request on to moto, when the SHA-256 that came with it is right."""
        claimed = request.headers.get("x-amz-checksum-sha256")
        if request.operation in ("PutObject", "UploadPart") and claimed != sha256(request.body):
            return error(400, "BadDigest", "The SHA256 you specified did not match the calculated checksum.")
        return self.pass_on(request)

    def pass_on(self, request: Request) -> Answer:
        """Let moto answer."""
        connection = http.client.HTTPConnection(self._moto)
        try:
            connection.request(request.method, request.target, request.body, request.headers)
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, headers, response.read())
        finally:
            connection.close()

    def _take(self, faults: dict[str, tuple[Any, int]], operation: str) -> Any:
        with self._lock:
            fault, times = faults.get(operation, (None, 0))
            if times:
                faults[operation] = (fault, times - 1)
            return fault if times else None


@contextmanager
def loopback_s3(moto: str) -> Iterator[LoopbackS3]:
    """Run the S3 proxy before a moto server, on a free port."""
    with served(LoopbackS3, moto) as proxy:
        yield proxy


Proxy = TypeVar("Proxy", bound=LoopbackS3)


@contextmanager
def served(kind: type[Proxy], moto: str) -> Iterator[Proxy]:
    """Run a proxy before a moto server, on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer's head and body in one packet: the second would wait 40 ms for the first's receipt

        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline(65537)
            wanted = bool(self.raw_requestline) and self.parse_request()
            self.close_connection = True  # unless an answer is sent
            if not wanted:
                return
            headers = {name.lower(): value for name, value in self.headers.items()}
            query = {k: v[-1] for k, v in parse_qs(urlsplit(self.path).query, keep_blank_values=True).items()}
            request = Request(self.command, self.path, query, headers, b"")
            length = int(headers.get("content-length", 0))
            limit = s3.read_limit(request)
            body = self.rfile.read(length if limit is None else min(limit, length))
            answer = s3.answer(Request(self.command, self.path, query, headers, body)) if limit is None else None
            if answer is not None:
                self._send(answer)

        def handle_expect_100(self) -> bool:
            super().handle_expect_100()
            self.wfile.flush()
            return True

        def _send(self, answer: Answer) -> None:
            self.send_response_only(answer.status)
            headers = {"content-length": str(len(answer.body)), **answer.headers}
            for name, value in headers.items():
                if name not in ("connection", "transfer-encoding"):
                    self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)
            self.wfile.flush()
            self.close_connection = False

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass  # a client that breaks off is what the tests are about

    server = Server(("127.0.0.1", 0), Handler)
    s3 = kind(f"http://127.0.0.1:{server.server_port}", moto)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield s3
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
