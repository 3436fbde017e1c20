"""ECR's layer upload, as strict as AWS: moto accepts wrong digests and empty uploads, and ministack drops what it is sent.

Limits and errors: https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_UploadLayerPart.html and its neighbours.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from .engine import digest_of
from .http import Answer, Forward, Request

OPERATIONS = (
    "BatchCheckLayerAvailability",
    "InitiateLayerUpload",
    "UploadLayerPart",
    "CompleteLayerUpload",
    "PutImage",
)
LARGEST_PART = 20 * 2**20


@dataclass
class StrictEcr:
    """One repository. part_size: what it asks for; smallest_part: of all parts but a layer's last.

    put: takes tag, media type and content of an accepted manifest. layers: what was sent, by digest. parts: digest-less
    log of (upload, first byte, last byte). faults: answers of the next requests for an operation; LOST_ANSWER handles
    the request and cuts the connection.
    """

    put: Callable[[str, str, bytes], None]
    part_size: int = 10 * 2**20
    smallest_part: int = 5 * 2**20
    layers: dict[str, bytes] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    tags: dict[str, str] = field(default_factory=dict)
    parts: list[tuple[str, int, int]] = field(default_factory=list)
    operations: list[str] = field(default_factory=list)
    faults: dict[str, list[object]] = field(default_factory=dict)
    sent: int = 0
    most_at_once: int = 0
    _uploads: dict[str, list[bytes]] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def answer(self, request: Request, _: Forward) -> Answer | None:
        """Answer as ECR would; None cuts the connection."""
        operation, asked = request.operation, json.loads(request.body)
        with self._lock:
            self.operations.append(operation)
            self.sent += len(request.body)
            fault = self.faults.get(operation, [])
            planned = fault.pop(0) if fault else None
            if isinstance(planned, Answer):
                return planned
            answer: Answer = getattr(self, f"_{operation}")(asked)
            return None if planned is LOST_ANSWER else answer

    def has(self, digest: str) -> bool:
        """Tell whether a layer is there."""
        return digest in self.layers or digest in self.known

    def _BatchCheckLayerAvailability(self, asked: dict[str, Any]) -> Answer:  # noqa: N802 - as ECR names it
        found = [digest for digest in asked["layerDigests"] if self.has(digest)]
        missing = [digest for digest in asked["layerDigests"] if not self.has(digest)]
        layers = [{"layerDigest": digest, "layerAvailability": "AVAILABLE"} for digest in found]
        failures = [{"layerDigest": digest, "failureCode": "MissingLayerDigest"} for digest in missing]
        return answered({"layers": layers, "failures": failures})

    def _InitiateLayerUpload(self, _: dict[str, Any]) -> Answer:  # noqa: N802
        upload = str(uuid4())
        self._uploads[upload] = []
        self.most_at_once = max(self.most_at_once, len(self._uploads))
        return answered({"uploadId": upload, "partSize": self.part_size})

    def _UploadLayerPart(self, asked: dict[str, Any]) -> Answer:  # noqa: N802
        upload, first, last = asked["uploadId"], asked["partFirstByte"], asked["partLastByte"]
        if upload not in self._uploads:
            return refused("UploadNotFoundException")
        part, received = base64.b64decode(asked["layerPartBlob"]), sum(map(len, self._uploads[upload]))
        if first != received or last - first + 1 != len(part) or len(part) > LARGEST_PART:
            return refused("InvalidLayerPartException", lastValidByteReceived=received - 1)
        self._uploads[upload].append(part)
        self.parts.append((upload, first, last))
        return answered({"uploadId": upload, "lastByteReceived": last})

    def _CompleteLayerUpload(self, asked: dict[str, Any]) -> Answer:  # noqa: N802
        parts, (digest,) = self._uploads.pop(asked["uploadId"], None), asked["layerDigests"]
        if parts is None:
            return refused("UploadNotFoundException")
        if not parts:
            return refused("EmptyUploadException")
        if any(len(part) < self.smallest_part for part in parts[:-1]):
            return refused("LayerPartTooSmallException")
        if self.has(digest):
            return refused("LayerAlreadyExistsException")
        if digest_of(b"".join(parts)) != digest:
            return refused("InvalidLayerException")
        self.layers[digest] = b"".join(parts)
        return answered({"uploadId": asked["uploadId"], "layerDigest": digest})

    def _PutImage(self, asked: dict[str, Any]) -> Answer:  # noqa: N802
        text, tag = asked["imageManifest"], asked["imageTag"]
        manifest, digest = json.loads(text), digest_of(text.encode())
        if not all(self.has(blob["digest"]) for blob in [manifest["config"], *manifest["layers"]]):
            return refused("LayersNotFoundException")
        if tag in self.tags:
            same = self.tags[tag] == digest
            return refused("ImageAlreadyExistsException" if same else "ImageTagAlreadyExistsException")
        self.tags[tag] = digest
        self.put(tag, asked["imageManifestMediaType"], text.encode())
        return answered({"image": {"imageId": {"imageDigest": digest, "imageTag": tag}, "imageManifest": text}})


LOST_ANSWER = object()


def answered(document: dict[str, Any]) -> Answer:
    """Return an answer of ECR."""
    return Answer(200, {"content-type": "application/x-amz-json-1.1"}, json.dumps(document).encode())


def refused(code: str, **more: object) -> Answer:
    """Return a refusal of ECR."""
    body = json.dumps({"__type": code, "message": code, **more}).encode()
    return Answer(400, {"content-type": "application/x-amz-json-1.1"}, body)
