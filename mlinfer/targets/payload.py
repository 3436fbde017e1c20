"""Create the request for an image. One over Lambda's limit of 6 MB is resized or sent through S3."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from lambda_src.errors import RequestError
from lambda_src.images.decode import decode
from lambda_src.images.geometry import read_geometry

from ..clients.aws import encryption
from ..clients.aws_errors import explained
from ..clients.invocation import MAX_REQUEST_BYTES
from ..errors import ImageError, InvocationError, MlinferError, RemoteError
from ..names import Names
from . import make_event

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


REDUCED_SIDE = 1024  # pixels of a resized image's shorter side: four times what ResNet-18 needs

_JPEG_QUALITY = 95
_FOR_EVERY_PICTURE = {"expired_credentials", "invalid_credentials", "clock_skewed"}

# Takes an image's name, its bytes and top_k; yields a request that Lambda accepts, and cleans up afterwards.
MakePayload = Callable[[str, bytes, int], AbstractContextManager[bytes]]


def reduce_large(tell: Callable[[str], None], max_pixels: int) -> MakePayload:
    """Return a MakePayload that resizes images over Lambda's limit of 6 MB. tell: takes a note about each of them."""

    @contextmanager
    def make_payload(name: str, data: bytes, top_k: int) -> Iterator[bytes]:
        body = make_request(data, top_k)
        if body is None:
            data, (width, height) = reduce(data, max_pixels, MAX_REQUEST_BYTES // 4 * 3 - 1024)
            tell(f"Resized {name} to {width} x {height} pixels (Lambda's request limit is 6 MB).")
            body = json.dumps(make_event(data, top_k)).encode()
        yield body

    return make_payload


def stage_large(
    s3: S3Client, bucket: str, names: Names, *, tell: Callable[[str], None], kms_key: str = ""
) -> MakePayload:
    """Return a MakePayload that sends images over Lambda's limit of 6 MB through S3, unchanged.

    Each request gets its own object, which is deleted afterwards with its version. If the command is killed first, the
    bucket's lifecycle rule deletes it. tell: takes a note about each such image.
    """

    @contextmanager
    def make_payload(name: str, data: bytes, top_k: int) -> Iterator[bytes]:
        body = make_request(data, top_k)
        if body is not None:
            yield body
            return
        where: dict[str, Any] = {"Bucket": bucket, "Key": f"{names.staging_prefix}{uuid4().hex}"}
        subject = f"s3://{bucket}/{where['Key']}"
        try:
            with explained(subject, "s3:PutObject and s3:DeleteObject on this object"):
                made = s3.put_object(**where, Body=data, **encryption(kms_key))
        except RemoteError as error:
            if error.code in _FOR_EVERY_PICTURE:
                raise
            raise InvocationError(error.code, str(error), error.hint) from error
        version: dict[str, Any] = {"VersionId": made["VersionId"]} if "VersionId" in made else {}
        tell(f"Sent {name} through s3://{bucket}/{names.staging_prefix} (Lambda's request limit is 6 MB).")
        try:
            yield json.dumps({"s3": subject, "top_k": top_k}).encode()
        finally:
            try:
                with explained(subject, "s3:DeleteObject and s3:DeleteObjectVersion on this object"):
                    s3.delete_object(**where, **version)
            except MlinferError as error:  # the prediction is still valid
                tell(f"Warning: cannot delete the copy of {name} (it expires after one day): {error}. {error.hint}")

    return make_payload


def make_request(data: bytes, top_k: int) -> bytes | None:
    """Return the event as JSON, or None if it is over Lambda's limit. A large image is rejected before encoding."""
    if len(data) // 3 * 4 > MAX_REQUEST_BYTES:
        return None
    body = json.dumps(make_event(data, top_k)).encode()
    return body if len(body) <= MAX_REQUEST_BYTES else None


def reduce(data: bytes, max_pixels: int, limit: int) -> tuple[bytes, tuple[int, int]]:
    """Return a resized image file of at most `limit` bytes, lossless if it fits, with its width and height.

    Raises ImageError if the file is not an image or cannot be made small enough.
    """
    try:
        image = decode(data, max_pixels, REDUCED_SIDE)
    except RequestError as error:
        raise ImageError(error.code, str(error)) from error
    size, box = read_geometry(image)
    scale = min(1.0, REDUCED_SIDE / min(size))
    width, height = (max(1, round(side * scale)) for side in size)
    image = image.resize((width, height), box=box, reducing_gap=3.0)
    for kind, options in (("PNG", {}), ("JPEG", {"quality": _JPEG_QUALITY, "subsampling": 0})):
        file = io.BytesIO()
        image.save(file, kind, **options)
        if file.tell() <= limit:
            return file.getvalue(), image.size
    message = "the image is too long and narrow to be resized to Lambda's limit of 6 MB"
    raise ImageError("image_too_large", message, "Crop the image.")
