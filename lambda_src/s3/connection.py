"""Send HTTP/1.1 requests over connections that stay open.

It exists because `http.client` imports `email`, which takes longer than a request to S3.
"""

from __future__ import annotations

import atexit
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from ..proxies import find_proxy

if TYPE_CHECKING:
    from ssl import SSLContext

_CONNECT_TIMEOUT_S = 5.0
_READ_TIMEOUT_S = 15.0
_IDLE_S = 5.0  # S3 closes an idle connection after some seconds, and one that Lambda froze may be dead
_LINE_BYTES = 2**16
_HEADERS = 200
_ENDED = "the server closed the connection before the end of the response"
_DOCUMENT_BYTES = 2**20  # an error document or the answer of a credentials server


class ResponseError(OSError):
    """The response is not HTTP, or it ends early."""


class Url:
    """The parts of an http or https URL. host: without brackets. path: without a final slash, "" for the root."""

    __slots__ = ("host", "netloc", "path", "port", "scheme", "user")

    def __init__(self, text: str) -> None:
        """Split a URL. Raises ValueError."""
        self.scheme, found, rest = text.partition("://")
        authority, _, path = rest.partition("/")
        self.user, _, self.netloc = authority.rpartition("@")
        host, _, port = self.netloc.rpartition(":")
        if not host or self.netloc.endswith("]"):
            host, port = self.netloc, ""
        self.scheme = self.scheme.lower()
        self.host = host.strip("[]")
        self.path = f"/{path}".rstrip("/")
        if not found or self.scheme not in ("http", "https") or not self.host or not self.netloc.isprintable():
            raise ValueError(f"expected http://HOST or https://HOST, got {text!a}")
        if port and not (port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 2**16):
            raise ValueError(f"the port of {text!a} is not a number from 1 to 65535")
        self.port = int(port) if port else {"http": 80, "https": 443}[self.scheme]


_idle: dict[tuple[str, str, int, str], list[_Connection]] = {}


def request(
    method: str, url: Url, path: str, headers: Mapping[str, str], *, body: bytes = b"", proxied: bool = True
) -> Response:
    """Send a request on an open or a new connection, and read the head of the response. Raises OSError, ValueError.

    path: encoded, with the query. headers: with host. proxied: use the proxy that the environment names.
    """
    proxy = find_proxy(url.scheme, url.host, os.environ) if proxied else ""
    place = (url.scheme, url.host, url.port, proxy)
    target = f"http://{url.netloc}{path}" if proxy and url.scheme == "http" else path
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if body or method == "PUT":
        lines.append(f"content-length: {len(body)}")
    if proxy and url.scheme == "http":
        lines += _authorization(Url(proxy))
    message = "\r\n".join([*lines, "", ""]).encode() + body
    kept = _idle.setdefault(place, [])
    while connection := _take(kept):
        if 0 <= time.time() - connection.idle_since < _IDLE_S:
            with suppress(OSError):  # the server closed it in the meantime
                return _exchange(connection, message, kept)
        connection.close()
    return _exchange(_Connection(url, proxy), message, kept)


@atexit.register
def close_idle() -> None:
    """Close the connections that no request uses."""
    for kept in _idle.values():
        while connection := _take(kept):
            connection.close()


def _take(kept: list[_Connection]) -> _Connection | None:
    try:
        return kept.pop()  # another thread may have taken the last one since a check
    except IndexError:
        return None


class _Connection:
    """One connection: its socket, and a buffered reader of it."""

    def __init__(self, url: Url, proxy: str) -> None:
        self.socket = _open(url, proxy)
        self.socket.settimeout(_READ_TIMEOUT_S)
        self.reader = self.socket.makefile("rb", 2**16)
        self.idle_since = 0.0

    def close(self) -> None:
        self.reader.close()
        self.socket.close()


def _exchange(connection: _Connection, message: bytes, kept: list[_Connection]) -> Response:
    """Send a request and read the head of its response. Close the connection if this fails. Raises OSError."""
    try:
        with suppress(BrokenPipeError, ConnectionResetError):  # the server may have refused the rest of the body
            connection.socket.sendall(message)
        return Response(connection, kept)
    except BaseException:
        connection.close()
        raise


class Response:
    """The response to one request. Read its body to the end, or close it.

    headers: with names in lower case. length: of the body in bytes, None if the server did not announce it.
    """

    def __init__(self, connection: _Connection, kept: list[_Connection]) -> None:
        self._connection: _Connection | None = connection
        self._kept = kept
        self.status = 100
        while self.status < 200:  # 100 Continue
            version, self.status, self.headers = _read_head(connection)
        tokens = self.headers.get("connection", "").lower()
        self._reusable = "close" not in tokens and (version == b"HTTP/1.1" or "keep-alive" in tokens)
        self._chunked = self.headers.get("transfer-encoding", "").lower() == "chunked"
        length = self.headers.get("content-length", "")
        self.length = int(length[:19]) if length.isdecimal() and not self._chunked else None
        if self.status in (204, 304):
            self.length, self._chunked = 0, False
        self._left = 0 if self._chunked else self.length  # of the chunk or the body; None: until the connection ends
        if self._left == 0 and not self._chunked:
            self._finish()

    def read(self, size: int) -> bytes:
        """Return the next bytes of the body, at most `size`; none at its end. Raises OSError."""
        if self._connection is None:
            return b""
        reader = self._connection.reader
        if self._chunked and not self._left:
            self._left = _chunk_size(_line(self._connection))
            if not self._left:
                while _line(self._connection):  # trailers
                    pass
                self._finish()
                return b""
        data: bytes = reader.read(size if self._left is None else min(size, self._left))
        if self._left is None and not data:
            self._reusable = False
            self._finish()
        elif self._left is not None:
            if not data:
                raise ResponseError(_ENDED)
            self._left -= len(data)
            if not self._left and self._chunked:
                _line(self._connection)
            elif not self._left:
                self._finish()
        return data

    def read_all(self) -> bytes:
        """Return the rest of a small body. Raises OSError."""
        data = b""
        while more := self.read(_DOCUMENT_BYTES):
            data += more
            if len(data) > _DOCUMENT_BYTES:
                self.close()
                raise ResponseError("the response is too long")
        return data

    def close(self) -> None:
        """Close the connection if the body was not read to its end."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _finish(self) -> None:
        """Keep the connection for the next request."""
        if self._connection is not None and self._reusable:
            self._connection.idle_since = time.time()
            self._kept.append(self._connection)
            self._connection = None
        self.close()


def _read_head(connection: _Connection) -> tuple[bytes, int, dict[str, str]]:
    """Return version, status and headers of a response. Raises ResponseError."""
    first = _line(connection)
    version, _, rest = first.partition(b" ")
    if version not in (b"HTTP/1.1", b"HTTP/1.0") or not rest[:3].isdigit():
        raise ResponseError(f"the server does not speak HTTP: {first[:40]!a}")
    headers: dict[str, str] = {}
    while line := _line(connection):
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
        if len(headers) > _HEADERS:
            raise ResponseError("the response has too many headers")
    return version, int(rest[:3]), headers


def _line(connection: _Connection) -> bytes:
    """Return the next line without its end. Raises ResponseError."""
    line = connection.reader.readline(_LINE_BYTES)
    if not line.endswith(b"\n"):
        too_long = len(line) == _LINE_BYTES
        raise ResponseError("the response has a line that is too long" if too_long else _ENDED)
    return bytes(line.rstrip(b"\r\n"))


def _chunk_size(line: bytes) -> int:
    try:
        return int(line.partition(b";")[0], 16)
    except ValueError as error:
        raise ResponseError(f"the response has a wrong chunk: {line[:20]!a}") from error


# Opening


def _open(url: Url, proxy: str) -> socket.socket:
    """Connect, through a proxy if there is one, and with TLS for https. Raises OSError, ValueError."""
    if url.scheme == "http":
        return _connect(Url(proxy) if proxy else url)
    from ssl import SSLCertVerificationError

    from .trust import amazon_context, full_context

    if url.host.endswith(".amazonaws.com") and (context := amazon_context()):
        with suppress(SSLCertVerificationError):  # behind a proxy that inspects TLS
            return _secure(_tunnel(url, proxy), url, context)
    return _secure(_tunnel(url, proxy), url, full_context())


def _connect(url: Url) -> socket.socket:
    connection = socket.create_connection((url.host, url.port), _CONNECT_TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _tunnel(url: Url, proxy: str) -> socket.socket:
    """Connect to a host, through an HTTP proxy's CONNECT if there is a proxy. Raises OSError, ValueError."""
    if not proxy:
        return _connect(url)
    via = Url(proxy)
    if via.scheme != "http":
        raise ValueError(f"the proxy must have the form http://HOST:PORT, got {via.scheme}://{via.netloc}")
    connection = _connect(via)
    try:
        host = f"[{url.host}]" if ":" in url.host else url.host
        lines = [f"CONNECT {host}:{url.port} HTTP/1.1", f"host: {host}:{url.port}", *_authorization(via), "", ""]
        connection.sendall("\r\n".join(lines).encode())
        head = b""
        while b"\r\n\r\n" not in head and len(head) < _LINE_BYTES and (more := connection.recv(1)):
            head += more  # byte by byte: the bytes after the head belong to TLS
        if head.split(b" ", 2)[1:2] != [b"200"]:
            reason = head.partition(b"\r")[0][:60]
            raise ResponseError(f"the proxy {via.netloc} refused the connection: {reason!a}")
        return connection
    except BaseException:
        connection.close()
        raise


def _authorization(proxy: Url) -> list[str]:
    """Return the header with the name and password of a proxy's URL."""
    if not proxy.user:
        return []
    from binascii import b2a_base64
    from urllib.parse import unquote_to_bytes

    return [f"proxy-authorization: Basic {b2a_base64(unquote_to_bytes(proxy.user), newline=False).decode()}"]


def _secure(connection: socket.socket, url: Url, context: SSLContext) -> socket.socket:
    """Start TLS and check the certificate and its host name. Raises OSError."""
    try:
        return context.wrap_socket(connection, server_hostname=url.host)
    except BaseException:
        connection.close()
        raise
