"""Serve the emulator's URL from this process with the same handler, but without Docker and Lambda's limits."""

from __future__ import annotations

import json
import sys
import traceback
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from lambda_src.service import Service

from ..clients.invocation import MAX_REQUEST_BYTES
from ..errors import MissingError
from .address import HOST, INVOCATIONS, PROJECT_HEADER
from .ports import find_port_holder

_TIMEOUT_S = 30  # for a client that connects and sends nothing


class Server(HTTPServer):
    """Handles one invocation at a time and responds to everything else with 404, as the emulator does."""

    request_queue_size = 128  # waiting clients

    def __init__(self, service: Service, port: int, project: str) -> None:
        """Listen on 127.0.0.1. Raises MissingError."""
        if taken := find_port_holder(HOST, port):
            hint = f"Stop that program, or choose another port with `--port {port + 1}`."
            raise MissingError("port_taken", f"port {port} is in use by {taken}", hint)
        super().__init__((HOST, port), _Request)
        self.service = service
        self.project = project

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that disconnects or times out."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Request(BaseHTTPRequestHandler):
    server: Server
    timeout = _TIMEOUT_S

    def do_GET(self) -> None:
        self._send(404, b"404 page not found\n")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if self.path != INVOCATIONS:
            self._send(404, b"404 page not found\n")
        elif not length.isdecimal():
            self._send(411, b"Content-Length is missing\n")
        elif int(length) > MAX_REQUEST_BYTES:
            self.close_connection = True
            message = f"the request exceeds Lambda's limit of {MAX_REQUEST_BYTES:,} bytes"
            self._send(413, json.dumps({"message": message}).encode())
        else:
            self._send(200, json.dumps(self._answer(self.rfile.read(int(length)))).encode())

    def _answer(self, body: bytes) -> dict[str, Any]:
        """Return the handler's response, or Lambda's JSON document for an exception."""
        try:
            return self.server.service.answer(json.loads(body or b"{}"))
        except Exception as error:
            lines = traceback.format_tb(error.__traceback__)
            return {"errorMessage": str(error), "errorType": type(error).__name__, "requestId": "", "stackTrace": lines}

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if status in (200, 413) else "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.send_header(PROJECT_HEADER, self.server.project)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the standard library's name
        """Write nothing, because the handler logs each request."""
