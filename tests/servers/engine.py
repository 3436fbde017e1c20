"""A Docker Engine and a registry on loopback, for tests that need exact answers.

`http.serve` serves either on a free loopback port. The Engine's API: https://docs.docker.com/reference/api/engine/; the
registry's: https://distribution.github.io/distribution/spec/api/.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from .http import Answer, Request

DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
OCI_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"


def digest_of(content: bytes) -> str:
    """Return the digest of some bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass
class LoopbackRegistry:
    """A registry with one repository. `content`: by digest; `tags`: of manifests; `requests`: received so far."""

    password: str
    content: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    faults: list[Answer | None] = field(default_factory=list)  # the next answers, before the regular ones
    host: str = ""

    def put(self, value: object, media_type: str = "", tag: str = "") -> str:
        """Store a document and return its digest."""
        body = json.dumps(value).encode()
        self.content[digest_of(body)] = media_type, body
        if tag:
            self.tags[tag] = digest_of(body)
        return digest_of(body)

    def put_image(
        self, config: dict[str, Any], *, tag: str = "", media_type: str = DOCKER, layers: tuple[str, ...] = (GZIP,)
    ) -> str:
        """Store an image with layers of 100 bytes and return its manifest's digest."""
        described = {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": self.put(config)}
        packed = [{"mediaType": kind, "size": 100, "digest": digest_of(kind.encode())} for kind in layers]
        manifest = {"schemaVersion": 2, "mediaType": media_type, "config": described, "layers": packed}
        return self.put(manifest, media_type, tag)

    def answer(self, request: Request) -> Answer | None:
        """Answer as a registry would."""
        self.requests.append(request)
        if self.faults:
            return self.faults.pop(0)
        expected = base64.b64encode(f"AWS:{self.password}".encode()).decode()
        if request.headers.get("authorization") != f"Basic {expected}":
            return refusal(401, "UNAUTHORIZED", "authentication required")
        reference = urlsplit(request.target).path.rpartition("/")[2]
        digest = self.tags.get(reference, reference)
        if digest not in self.content:
            return refusal(404, "MANIFEST_UNKNOWN", "manifest unknown")
        media_type, body = self.content[digest]
        return Answer(200, {"content-type": media_type or "application/octet-stream"}, body)


def refusal(status: int, code: str, message: str) -> Answer:
    """Return a registry's error document."""
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    return Answer(status, {"content-type": "application/json"}, body)


@dataclass
class LoopbackEngine:
    """A Docker Engine with one image, under any name. `push`: the report of a push, item by item."""

    push: Callable[[str, str], list[dict[str, Any]]]
    id: str = "sha256:" + "5" * 64
    architecture: str = "amd64"
    layer_bytes: int = 1000
    archive: bytes = b""  # what `docker save` writes
    facts: dict[str, Any] = field(default_factory=dict)  # of /info
    pushes: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)  # repository, tag, credentials
    requests: list[str] = field(default_factory=list)
    answers: dict[str, Answer | None] = field(default_factory=dict)  # by a part of "METHOD /path", before any other

    def answer(self, request: Request) -> Answer | None:
        """Answer as the Engine would."""
        path = re.sub(r"^/v[\d.]+", "", unquote(urlsplit(request.target).path))
        self.requests.append(f"{request.method} {path}")
        for part, answer in self.answers.items():
            if part in self.requests[-1]:
                return answer
        if path == "/_ping":
            return Answer(200, {}, b"OK")
        if path == "/version":
            version = {"Version": "29.1.0", "ApiVersion": "1.44", "MinAPIVersion": "1.24", "Os": "linux"}
            return _json(version | {"Arch": "amd64"})
        if path == "/info":
            return _json(self.facts)
        if path.endswith("/push"):
            credentials = json.loads(base64.urlsafe_b64decode(request.headers["x-registry-auth"]))
            self.pushes.append((path.removeprefix("/images/").removesuffix("/push"), request.query["tag"], credentials))
            items = self.push(request.query["tag"], credentials["password"])
            return Answer(200, {"transfer-encoding": "chunked"}, "\r\n".join(map(json.dumps, items)).encode())
        if path.endswith("/tag"):
            return Answer(201)
        if path.endswith("/get"):
            return Answer(200, {"content-type": "application/x-tar"}, self.archive)
        if path.endswith("/history"):
            return _json([{"CreatedBy": "COPY /task/", "Size": self.layer_bytes, "Id": "x", "Created": 0, "Tags": []}])
        if request.method == "DELETE":
            return _json([])
        return _json(
            {"Id": self.id, "Architecture": self.architecture, "Os": "linux", "Size": 1, "RepoTags": [], "Config": {}}
        )


def _json(value: object) -> Answer:
    return Answer(200, {"content-type": "application/json"}, json.dumps(value).encode())
