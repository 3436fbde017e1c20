"""Push a container image by ECR's own API, which needs no Docker Engine and no registry token.

ECR takes the parts of a layer strictly in order, so layers are sent in parallel and parts are not. A request whose answer is
lost is sent again by botocore, and ECR then refuses it: its refusal says how much of the layer it has.
https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_UploadLayerPart.html
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from ..clients.aws_errors import error_code, explained
from ..errors import RemoteError
from .archive import Blob, Package

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient

Show = Callable[[str, int, int], None]

PART_BYTES = 10 * 2**20  # ECR takes 5 to 20 MiB; each part is in memory four times while it is sent, as base64 in JSON
_LAYERS_AT_ONCE = 3
_DIGESTS_AT_ONCE = 100
_TRIES = 3
_PERMISSIONS = (
    "ecr:BatchCheckLayerAvailability, ecr:InitiateLayerUpload, ecr:UploadLayerPart, ecr:CompleteLayerUpload "
    "and ecr:PutImage on the repository"
)


@dataclass(frozen=True)
class UploadTarget:
    """Where an image goes. name: of the repository, without the registry's host."""

    ecr: ECRClient
    name: str
    tag: str


def upload_image(target: UploadTarget, package: Package, show: Show) -> str:
    """Send the layers that the repository lacks, then the manifest, and return its digest. Raises RemoteError.

    show: takes a layer's id, the bytes sent and the total.
    """
    with explained(f"ECR repository {target.name}", _PERMISSIONS):
        available = _available(target, [blob.digest for blob in package.blobs])
        missing = {blob.digest: blob for blob in package.blobs if blob.digest not in available}
        stop = threading.Event()
        with ThreadPoolExecutor(_LAYERS_AT_ONCE) as pool:
            sends = [pool.submit(_LayerUpload(target, blob, show, stop).run) for blob in missing.values()]
            try:
                for send in sends:
                    send.result()
            except BaseException:
                stop.set()
                pool.shutdown(cancel_futures=True)
                raise
        return _put_image(target, package)


def _available(target: UploadTarget, digests: Sequence[str]) -> set[str]:
    """Return the digests that the repository has."""
    found: set[str] = set()
    for start in range(0, len(digests), _DIGESTS_AT_ONCE):
        some = list(dict.fromkeys(digests[start : start + _DIGESTS_AT_ONCE]))
        answer = target.ecr.batch_check_layer_availability(repositoryName=target.name, layerDigests=some)
        there = [layer for layer in answer.get("layers", []) if layer.get("layerAvailability") == "AVAILABLE"]
        found |= {layer["layerDigest"] for layer in there}
    return found


def _put_image(target: UploadTarget, package: Package) -> str:
    try:
        answer = target.ecr.put_image(
            repositoryName=target.name,
            imageManifest=package.manifest.decode(),
            imageManifestMediaType=package.media_type,
            imageTag=target.tag,
        )
        return str(answer["image"]["imageId"]["imageDigest"])
    except ClientError as error:
        if error_code(error) == "ImageAlreadyExistsException":  # by a request whose answer was lost, or another run
            return ""
        if error_code(error) == "ImageTagAlreadyExistsException":
            message = f"{target.name}:{target.tag}: another push used the tag in the meantime"
            raise RemoteError("tag_taken", message, "Push again.") from error
        raise


class _BehindError(Exception):
    """ECR has less of the layer than the stream has left behind."""


class _LayerUpload:
    """The upload of one layer. stop: set when another layer has failed."""

    def __init__(self, target: UploadTarget, blob: Blob, show: Show, stop: threading.Event) -> None:
        self._target, self._blob, self._stop = target, blob, stop
        self._ecr, self._name = target.ecr, target.name
        self._show = show

    def run(self) -> None:
        """Send the layer; start over if ECR has lost the upload. Raises ClientError, BotoCoreError, RemoteError."""
        for tries_left in reversed(range(_TRIES)):
            try:
                self._send()
                return
            except (_BehindError, ClientError, BotoCoreError) as error:
                if self._is_there():  # the answer to the last request was lost, or another run was faster
                    self._report(self._blob.size)
                    return
                if not tries_left or not _is_worth_a_try(error):
                    if isinstance(error, _BehindError):
                        message = f"{self._name}: ECR aborted the upload of a layer"
                        raise RemoteError("push_failed", message, "Push again.") from error
                    raise

    def _send(self) -> None:
        begun = self._ecr.initiate_layer_upload(repositoryName=self._name)
        upload, size = begun["uploadId"], min(int(begun.get("partSize") or PART_BYTES), PART_BYTES)
        first = 0
        with self._blob.open() as stream:
            while part := stream.read(size):
                if self._stop.is_set():
                    return
                self._send_part(upload, part, first)
                first += len(part)
                self._report(first)
        self._ecr.complete_layer_upload(repositoryName=self._name, uploadId=upload, layerDigests=[self._blob.digest])

    def _send_part(self, upload: str, part: bytes, first: int) -> None:
        """Send one part. If ECR already has some of it, send the rest."""
        start, last = first, first + len(part) - 1
        while start <= last:
            try:
                self._ecr.upload_layer_part(
                    repositoryName=self._name,
                    uploadId=upload,
                    partFirstByte=start,
                    partLastByte=last,
                    layerPartBlob=part[start - first :],
                )
                return
            except ClientError as error:
                if error_code(error) != "InvalidLayerPartException":
                    raise
                response: Mapping[str, Any] = error.response
                following = int(response.get("lastValidByteReceived", -1)) + 1
                if not start < following <= last + 1:
                    raise _BehindError from error
                start = following

    def _report(self, sent: int) -> None:
        self._show(self._blob.digest.removeprefix("sha256:")[:12], sent, self._blob.size)

    def _is_there(self) -> bool:
        return not self._stop.is_set() and bool(_available(self._target, [self._blob.digest]))


def _is_worth_a_try(error: Exception) -> bool:
    """Tell whether the upload of a layer can succeed from its start."""
    lost = ("UploadNotFoundException", "InvalidLayerPartException", "LayerAlreadyExistsException")
    return not isinstance(error, ClientError) or error_code(error) in lost
