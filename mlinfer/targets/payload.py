"""Make the request for a picture, and what to do with one over Lambda's 6 MB: reduce it, or hand it over by S3."""

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


REDUCED_SIDE = 1024  # of a reduced picture's shorter side, px: four times what ResNet-18 resizes it to

_JPEG_QUALITY = 95
_FOR_EVERY_PICTURE = {"expired_credentials", "invalid_credentials", "clock_skewed"}

# Takes a picture's name and bytes and top_k; yields a request that Lambda accepts, and removes afterwards what it needed.
MakePayload = Callable[[str, bytes, int], AbstractContextManager[bytes]]


def reduce_large(tell: Callable[[str], None], max_pixels: int) -> MakePayload:
    """Return what makes requests, and reduces pictures over Lambda's 6 MB. tell: takes a sentence about each of these."""

    @contextmanager
    def make_payload(name: str, data: bytes, top_k: int) -> Iterator[bytes]:
        body = make_request(data, top_k)
        if body is None:
            data, (width, height) = reduce(data, max_pixels, MAX_REQUEST_BYTES // 4 * 3 - 1024)
            tell(f"{name} is over Lambda's 6 MB for a request: sent reduced to {width} x {height} pixels.")
            body = json.dumps(make_event(data, top_k)).encode()
        yield body

    return make_payload


def stage_large(
    s3: S3Client, bucket: str, names: Names, *, tell: Callable[[str], None], kms_key: str = ""
) -> MakePayload:
    """Return what makes requests, and hands pictures over Lambda's 6 MB to the function by S3, unchanged.

    Each request has an object of its own, which is removed afterwards with its version. If the command is killed before
    that, the bucket's rule removes it. tell: takes a sentence about each such picture.
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
            with explained(subject, "s3:PutObject and s3:DeleteObject on it"):
                made = s3.put_object(**where, Body=data, **encryption(kms_key))
        except RemoteError as error:
            if error.code in _FOR_EVERY_PICTURE:
                raise
            raise InvocationError(error.code, str(error), error.hint) from error
        version: dict[str, Any] = {"VersionId": made["VersionId"]} if "VersionId" in made else {}
        tell(f"{name} is over Lambda's 6 MB for a request: handed over by s3://{bucket}/{names.staging_prefix}.")
        try:
            yield json.dumps({"s3": subject, "top_k": top_k}).encode()
        finally:
            try:
                with explained(subject, "s3:DeleteObject and s3:DeleteObjectVersion on it"):
                    s3.delete_object(**where, **version)
            except MlinferError as error:  # no reason to lose the answer
                tell(f"Warning: the copy of {name} was not removed; it expires after a day. {error}. {error.hint}")

    return make_payload


def make_request(data: bytes, top_k: int) -> bytes | None:
    """Return the JSON of the event; None if it is over Lambda's 6 MB, which a large picture shows without being encoded."""
    if len(data) // 3 * 4 > MAX_REQUEST_BYTES:
        return None
    body = json.dumps(make_event(data, top_k)).encode()
    return body if len(body) <= MAX_REQUEST_BYTES else None


def reduce(data: bytes, max_pixels: int, limit: int) -> tuple[bytes, tuple[int, int]]:
    """Return a smaller file of the picture and its width and height: at most `limit` bytes, losslessly coded if it fits.

    Raises ImageError if it is none, or cannot be made small enough.
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
    raise ImageError("image_too_large", "the picture is too long to be reduced to Lambda's 6 MB", "Send a part of it.")
