"""The HTTP server of the tests, and S3 on loopback: moto stores the objects, and a proxy before it behaves as S3 where moto does not.

The proxy compares each sent SHA-256 with the received content, as S3 does. It records the requests, and fails where a
test says so. Error documents: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Request:
    """One request. Header names are in lower case; query has the last value of each parameter.

    client: the port that it came from, the same for all requests of one connection.
    """

    method: str
    target: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = field(repr=False)
    client: int = 0

    @property
    def operation(self) -> str:
        """Return the operation's name in boto3; for S3, those that uploads use."""
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
    """One answer; in the answer to a HEAD, content-length is that of the object."""

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
    """The proxy. `requests`: received so far; `fail` and `cut` break the next ones."""

    def __init__(self, url: str, moto: str) -> None:
        self.url = url
        self.requests: list[Request] = []
        self._moto = urlsplit(moto).netloc
        self._faults: dict[str, tuple[Fault, int]] = {}
        self._cuts: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()

    @property
    def operations(self) -> list[str]:
        """Return the names of the requested operations, in order."""
        return [request.operation for request in self.requests]

    def fail(self, operation: str, fault: Fault, times: int = 10**9) -> None:
        """Send the next requests for an operation to `fault`."""
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
        """Pass a request on to moto if its SHA-256 is right."""
        claimed = request.headers.get("x-amz-checksum-sha256")
        if request.operation in ("PutObject", "UploadPart") and claimed != sha256(request.body):
            return error(400, "BadDigest", "The SHA256 you specified did not match the calculated checksum.")
        return self.pass_on(request)

    def pass_on(self, request: Request) -> Answer:
        """Return moto's answer."""
        connection = http.client.HTTPConnection(self._moto)
        try:
            connection.request(request.method, request.target, request.body, request.headers)
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            headers = {name: headers[name] for name in headers.keys() - {"connection", "transfer-encoding"}}
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
    proxy = kind("", moto)
    with serve(proxy.answer, proxy.read_limit, keep_alive=True) as port:
        proxy.url = f"http://127.0.0.1:{port}"
        yield proxy


@contextmanager
def serve(
    answer: Callable[[Request], Answer | None],
    read_limit: Callable[[Request], int | None] = lambda _: None,
    *,
    keep_alive: bool = False,
) -> Iterator[int]:
    """Answer HTTP requests on a free loopback port; None cuts the connection. Yield the port.

    read_limit: after how many bytes of a request's body to cut the connection, or None.
    """

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
            target = self.requestline.split()[1]  # self.path has one slash where the line starts with two
            request = Request(self.command, target, query, headers, b"", self.client_address[1])
            length = int(headers.get("content-length", 0))
            limit = read_limit(request)
            body = self.rfile.read(length if limit is None else min(limit, length))
            answered = answer(replace(request, body=body)) if limit is None else None
            if answered is not None:
                self._send(answered)

        def handle_expect_100(self) -> bool:
            super().handle_expect_100()
            self.wfile.flush()
            return True

        def _send(self, answered: Answer) -> None:
            self.send_response_only(answered.status)
            body, given = answered.body, {name.lower(): value for name, value in answered.headers.items()}
            chunked = "transfer-encoding" in given
            headers = {} if chunked else {"content-length": str(len(body))}
            headers |= {} if keep_alive else {"connection": "close"}
            for name, value in (headers | given).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body)
            self.wfile.flush()
            cut_off = (
                self.command != "HEAD" and not chunked and given.get("content-length", str(len(body))) != str(len(body))
            )
            self.close_connection = not keep_alive or cut_off

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass  # a client that breaks off is what the tests are about

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
