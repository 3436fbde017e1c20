"""Sending an image by ECR's API, to an ECR that is as strict as AWS."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import IO, Any

import boto3
import pytest
from botocore.config import Config

from mlinfer.container_image.archive import Blob, Package
from mlinfer.container_image.ecr_upload import UploadTarget, upload_image
from mlinfer.errors import MlinferError, RemoteError

from ..servers.ecr import LOST_ANSWER, StrictEcr, refused
from ..servers.engine import DOCKER, digest_of
from ..servers.http import Request, serve

PART = 1000


class Upload:
    """An empty repository, and an image of six layers to send there."""

    def __init__(self, client: Any, ecr: StrictEcr) -> None:
        self.ecr = ecr
        self.layers = [random.Random(number).randbytes(PART * 3 + number) for number in range(6)]
        self.opened: list[str] = []
        self.shown: dict[str, list[int]] = {}
        self._client = client

    @property
    def package(self) -> Package:
        """Return the image."""
        blobs = [Blob(digest_of(layer), len(layer), self._opener(layer)) for layer in self.layers]
        described = [{"digest": blob.digest, "size": blob.size} for blob in blobs]
        manifest = {"config": described[-1], "layers": described[:-1]}
        return Package("mlinfer/cats:1", DOCKER, json.dumps(manifest).encode(), blobs)

    def _opener(self, layer: bytes) -> Any:
        def open_() -> AbstractContextManager[IO[bytes]]:
            self.opened.append(digest_of(layer))
            return closing(io.BytesIO(layer))

        return open_

    def send(self) -> str:
        """Send the image and return its digest."""
        return upload_image(UploadTarget(self._client, "mlinfer/cats", "1"), self.package, self._show)

    def _show(self, layer: str, sent: int, total: int) -> None:
        assert sent <= total
        self.shown.setdefault(layer, []).append(sent)

    def has_all(self) -> bool:
        """Tell whether every layer arrived whole."""
        return list(self.ecr.layers.values()) != [] and all(self.ecr.has(digest_of(layer)) for layer in self.layers)


@contextmanager
def connected(ecr: StrictEcr) -> Iterator[Any]:
    """Yield a client of this ECR that repeats a request once."""

    def answer(request: Request) -> Any:
        return ecr.answer(request, lambda _: None)  # type: ignore[arg-type,return-value]

    with serve(answer, keep_alive=True) as port:
        settings = {"endpoint_url": f"http://127.0.0.1:{port}", "region_name": "eu-central-1"}
        keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
        config = Config(retries={"total_max_attempts": 2, "mode": "standard"})
        with closing(boto3.client("ecr", config=config, **settings, **keys)) as client:
            yield client


@pytest.fixture
def upload() -> Iterator[Upload]:
    """Return an image to send to an empty repository."""
    ecr = StrictEcr(lambda *_: None, part_size=PART, smallest_part=PART)
    with connected(ecr) as client:
        yield Upload(client, ecr)


def test_layers_come_in_parallel_and_parts_in_order(upload: Upload) -> None:
    """At most three layers are sent at once, the parts of each in order, and the manifest last."""
    digest = upload.send()
    assert upload.has_all()
    assert digest == upload.ecr.tags["1"]
    assert upload.ecr.most_at_once <= 3
    for name in {name for name, _, _ in upload.ecr.parts}:
        parts = [(first, last) for other, first, last in upload.ecr.parts if other == name]
        assert [first for first, _ in parts] == [0, *(last + 1 for _, last in parts[:-1])]
    assert upload.ecr.operations[0] == "BatchCheckLayerAvailability"
    assert upload.ecr.operations[-1] == "PutImage"
    assert upload.ecr.operations.count("BatchCheckLayerAvailability") == 1
    assert all(sent[-1] >= PART * 3 for sent in upload.shown.values())
    assert len(upload.shown) == 6


def test_layers_that_are_there_are_not_opened(upload: Upload) -> None:
    """A push that was cut short sends only the layers that are missing."""
    there = [digest_of(layer) for layer in upload.layers[:4]]
    upload.ecr.known.update(there)
    upload.send()
    assert sorted(upload.opened) == sorted(digest_of(layer) for layer in upload.layers[4:])


@pytest.mark.parametrize("operation", ["UploadLayerPart", "CompleteLayerUpload", "PutImage", "InitiateLayerUpload"])
def test_a_lost_answer(upload: Upload, operation: str) -> None:
    """If an answer is lost, botocore asks again, ECR refuses the repetition, and the push continues."""
    upload.ecr.faults[operation] = [LOST_ANSWER]
    upload.send()
    assert upload.has_all()
    assert upload.ecr.tags.keys() == {"1"}


def test_half_a_part_arrived(upload: Upload) -> None:
    """If ECR has only the start of a part, the rest of it is sent."""
    upload.layers = upload.layers[:1]
    upload.ecr.smallest_part = 1
    original = upload.ecr._UploadLayerPart

    def cut(asked: dict[str, Any]) -> Any:
        import base64

        if asked["partFirstByte"] == PART and asked["partLastByte"] == 2 * PART - 1:
            half = base64.b64encode(base64.b64decode(asked["layerPartBlob"])[:400]).decode()
            original(asked | {"layerPartBlob": half, "partLastByte": PART + 399})
            return refused("InvalidLayerPartException", lastValidByteReceived=PART + 399)
        return original(asked)

    upload.ecr._UploadLayerPart = cut  # type: ignore[method-assign]
    upload.send()
    assert upload.has_all()


def test_an_upload_that_ecr_forgot(upload: Upload) -> None:
    """If ECR no longer knows an upload, the layer is sent again from its start."""
    upload.ecr.faults["CompleteLayerUpload"] = [refused("UploadNotFoundException")]
    upload.send()
    assert upload.has_all()
    assert len(upload.opened) == 7


def test_a_layer_that_another_run_has_sent(upload: Upload) -> None:
    """A layer that arrived by another run in the meantime is no error."""
    original = upload.ecr._CompleteLayerUpload

    def faster(asked: dict[str, Any]) -> Any:
        upload.ecr.known.update(asked["layerDigests"])
        return original(asked)

    upload.ecr._CompleteLayerUpload = faster  # type: ignore[method-assign]
    assert upload.send() == upload.ecr.tags["1"]


def test_content_other_than_the_digest(upload: Upload) -> None:
    """A layer whose content does not match its digest fails the push, and no manifest is sent."""
    package = upload.package
    wrong = Blob(package.blobs[0].digest, 4, lambda: closing(io.BytesIO(b"else")))
    with pytest.raises(MlinferError):
        upload_image(
            UploadTarget(upload._client, "mlinfer/cats", "1"), Package("t", DOCKER, package.manifest, [wrong]), print
        )
    assert "PutImage" not in upload.ecr.operations


def test_a_tag_that_is_taken(upload: Upload) -> None:
    """A tag that another image got in the meantime is an error with a hint."""
    upload.ecr.tags["1"] = "sha256:other"
    with pytest.raises(RemoteError) as caught:
        upload.send()
    assert caught.value.code == "tag_taken"


def test_access_denied_names_the_permissions(upload: Upload) -> None:
    """Without the permission to send a layer, the error names what is needed."""
    upload.ecr.faults["InitiateLayerUpload"] = [refused("AccessDeniedException")] * 9
    with pytest.raises(RemoteError) as caught:
        upload.send()
    assert caught.value.code == "access_denied"
    assert "ecr:InitiateLayerUpload" in caught.value.hint
    assert "PutImage" not in upload.ecr.operations
