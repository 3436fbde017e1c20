"""Read and write S3 objects: whole, verified by size, retried, and continued where a connection broke."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ..errors import FaultError

if TYPE_CHECKING:
    from .connection import Response, Url

CHUNK_BYTES = 2**18
_ATTEMPTS = 4
_DELAY_S = 0.1  # before the second attempt; it doubles with each
_THROTTLED_DELAY_S = 0.5
_RETRIED = {429, 500, 502, 503, 504}
_MOVED = {301, 302, 307, 400}  # the statuses of S3 for a bucket in another Region
# The function's own credentials or clock are wrong: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_OUR_FAULT = {"ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "RequestTimeTooSkewed", "SignatureDoesNotMatch"}
_EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

_regions: dict[str, str] = {}  # of buckets in another Region than the function's


class ObjectNotFoundError(Exception):
    """The bucket or the key does not exist."""


class ObjectForbiddenError(Exception):
    """S3 denied access: the role may not use the object or its key, or (without `s3:ListBucket`) it does not exist.

    The message is S3's reason, with the names of the role and the key.
    """


class StorageError(FaultError):
    """S3 cannot be reached, it failed at each retry, or it rejects the function's request."""


def split_uri(uri: str) -> tuple[str, str]:
    """Return (bucket, key) of `s3://bucket/key`. Raises ValueError."""
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not bucket or not key:
        raise ValueError(f"expected s3://bucket/key, got {uri!a}")
    return bucket, key


class StoredObject:
    """An object that is being read. size: in bytes. Iterate once over its content, in chunks, then close it."""

    def __init__(self, bucket: str, key: str) -> None:
        """Start reading. Raises ObjectNotFoundError, ObjectForbiddenError, StorageError."""
        self._place = (bucket, key)
        self._response = _send("GET", bucket, key, {})
        if self._response.length is None:
            self.close()
            raise StorageError(f"S3 did not send the size of s3://{bucket}/{key}")
        self.size = self._response.length
        self._etag = self._response.headers.get("etag", "")

    def __enter__(self) -> StoredObject:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the connection if the object was not read to its end."""
        self._response.close()

    def __iter__(self) -> Iterator[bytes]:
        """Yield the content. Raises StorageError if it breaks off and cannot be continued."""
        received = failures = 0
        while received < self.size:
            try:
                chunk = self._response.read(CHUNK_BYTES)
            except OSError as error:
                self.close()
                failures += 1
                if failures == _ATTEMPTS or not self._etag:
                    raise self._broken(received, str(error)) from error
                time.sleep(_delay(failures, _DELAY_S))
                self._continue(received)
            else:
                failures = 0
                received += len(chunk)
                yield chunk

    def _continue(self, start: int) -> None:
        """Request the rest of the object, if it is still the same. Raises StorageError and the errors of S3."""
        self._response = _send("GET", *self._place, {"range": f"bytes={start}-", "if-match": self._etag})
        given = self._response.headers.get("content-range", "")
        if self._response.status != 206 or given != f"bytes {start}-{self.size - 1}/{self.size}":
            self.close()
            raise self._broken(start, "S3 did not continue where it ended")

    def _broken(self, received: int, reason: str) -> StorageError:
        uri = f"s3://{self._place[0]}/{self._place[1]}"
        return StorageError(f"the download of {uri!a} ended after {received:,} of {self.size:,} bytes: {reason}")


def open_object(uri: str) -> StoredObject:
    """Start reading an object.

    Raises ObjectNotFoundError, ObjectForbiddenError, StorageError, CredentialsError, ValueError for a malformed URI.
    """
    return StoredObject(*split_uri(uri))


def put_object(uri: str, content: bytes, content_type: str) -> None:
    """Write an object, or replace it. S3 compares the content with its SHA-256, which is signed. Raises as `open_object`."""
    bucket, key = split_uri(uri)
    _send("PUT", bucket, key, {"content-type": content_type}, content).close()


def _send(method: str, bucket: str, key: str, headers: Mapping[str, str], body: bytes = b"") -> Response:
    """Return a successful response; try again where this can help. Raises the errors of `open_object`."""
    for attempt in range(1, _ATTEMPTS + 1):
        delay = _DELAY_S
        try:
            response = _send_once(method, bucket, key, headers, body)
            if response.status < 300:
                return response
            code, message = _read_error(response)
        except OSError as error:
            url = _url(bucket)[0]
            failure: Exception = StorageError(f"cannot reach S3 at {url.scheme}://{url.netloc}: {error}")
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                break
        else:
            failure = _failure(response.status, code, message)
            if response.status not in _RETRIED and code != "RequestTimeout":
                break
            delay = _THROTTLED_DELAY_S if response.status in (429, 503) else _DELAY_S
        if attempt < _ATTEMPTS:
            time.sleep(_delay(attempt, delay))
    raise failure


def _send_once(method: str, bucket: str, key: str, headers: Mapping[str, str], body: bytes) -> Response:
    """Sign and send a request, and once more if the bucket is in another Region. Raises OSError and FaultError."""
    response = _send_signed(method, bucket, key, headers, body)
    region = response.headers.get("x-amz-bucket-region", "")
    if response.status in _MOVED and region and region != _region(bucket):
        response.close()
        _regions[bucket] = region
        response = _send_signed(method, bucket, key, headers, body)
    return response


def _send_signed(method: str, bucket: str, key: str, headers: Mapping[str, str], body: bytes) -> Response:
    from hashlib import sha256

    from .connection import request
    from .credentials import find_credentials
    from .signing import encode, sign  # all imported here: a model in the container image does not need them

    url, folder = _url(bucket)
    credentials = find_credentials()
    try:
        path = f"{folder}/{encode(key)}"
    except ValueError as error:
        raise ObjectNotFoundError("the key is not valid Unicode") from error
    digest = sha256(body).hexdigest() if body else _EMPTY_SHA256
    signed = {**headers, "host": url.netloc, "x-amz-content-sha256": digest}
    signed["x-amz-date"] = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    if credentials.token:
        signed["x-amz-security-token"] = credentials.token
    authorization = sign(method, path, signed, payload_sha256=digest, credentials=credentials, region=_region(bucket))
    try:
        return request(method, url, path, signed | {"authorization": authorization}, body=body)
    except ValueError as error:  # of the proxy's URL
        raise StorageError(f"invalid value in HTTPS_PROXY, HTTP_PROXY or ALL_PROXY: {error}") from error


def _region(bucket: str) -> str:
    env = os.environ
    return _regions.get(bucket) or env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or "us-east-1"


def _url(bucket: str) -> tuple[Url, str]:
    """Return the server and the path of a bucket. Raises StorageError.

    Outside amazonaws.com, `deploy` sets AWS_ENDPOINT_URL_S3 to the host that botocore names. Such endpoints, and buckets
    whose name does not fit S3's certificate, have the bucket in the path.
    """
    from .connection import Url
    from .signing import encode

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    try:
        if endpoint:
            url = Url(endpoint)
            return url, f"{url.path}/{encode(bucket)}"
        host = f"s3.{_region(bucket)}.amazonaws.com"
        if all(letter in "abcdefghijklmnopqrstuvwxyz0123456789-" for letter in bucket):
            return Url(f"https://{bucket}.{host}"), ""
        return Url(f"https://{host}"), f"/{encode(bucket)}"
    except ValueError as error:
        raise StorageError(f"invalid value in AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or AWS_REGION: {error}") from error


def _failure(status: int, code: str, message: str) -> Exception:
    if status == 404 or code == "KeyTooLongError":
        return ObjectNotFoundError(message)
    if status in (401, 403) and code not in _OUR_FAULT:
        return ObjectForbiddenError(message or "no reason given")
    return StorageError(f"S3 answered {status} {code}: {message}" if code else f"S3 answered {status}")


def _read_error(response: Response) -> tuple[str, str]:
    """Return code and message of S3's error document. Raises OSError."""
    import re
    from html import unescape  # imported here because a cold start without an error does not need them

    text = response.read_all().decode(errors="replace")
    found = [re.search(f"<{name}>(.*?)</{name}>", text, re.DOTALL) for name in ("Code", "Message")]
    code, message = (" ".join(unescape(match[1]).split()) if match else "" for match in found)
    return code, message


def _delay(attempt: int, first: float) -> float:
    """Return the seconds to wait after a failed attempt: doubled each time, and half of it random."""
    from random import random  # imported here because a cold start without an error does not need it

    return float(first * 2 ** (attempt - 1) * (0.5 + random() / 2))  # noqa: S311 - spreads retries, hides nothing
