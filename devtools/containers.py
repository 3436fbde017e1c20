"""Run a handler's image as Lambda does: read-only, without privileges, as Lambda's user, with only /tmp writable."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from .ready import wait_until

AS_LAMBDA = {
    "read_only": True,
    "tmpfs": {"/tmp": "size=512m,mode=1777"},
    "user": "993:990",
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "pids_limit": 1024,
}
ANSWER_S = 60


@dataclass(frozen=True)
class Function:
    """A handler behind the emulator at a URL. It takes one request at a time: a second one stops the emulator."""

    url: str

    def get(self, path: str) -> int:
        """Return the status of a GET."""
        return self._request("GET", path)[0]

    def invoke(self, event: object) -> Any:
        """Return the handler's answer to an event; an exception comes as Lambda's error document with status 200."""
        return json.loads(self.post(json.dumps(event).encode())[1])

    def post(self, body: bytes) -> tuple[int, bytes]:
        """Return status and body of the answer to any bytes."""
        return self._request("POST", "/2015-03-31/functions/function/invocations", body)

    def _request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=ANSWER_S)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


@contextmanager
def running(engine: Any, image: str, **options: Any) -> Iterator[Function]:
    """Run an image's handler on a free loopback port; with AS_LAMBDA among the options, under Lambda's restrictions."""
    container = engine.containers.run(image, detach=True, ports={"8080/tcp": ("127.0.0.1", None)}, **options)
    try:
        container.reload()
        port = container.ports["8080/tcp"][0]["HostPort"]
        function = Function(f"http://127.0.0.1:{port}")
        # An open port proves nothing: Docker's proxy accepts before the emulator does.
        wait_until(lambda: function.get("/") == 404, f"the handler of {image}")
        yield function
    finally:
        container.remove(force=True, v=True)
