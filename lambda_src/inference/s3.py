"""Read S3 objects with obstore, which adds a tenth of boto3's import and client time to a cold start."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from ..errors import FaultError
from ..proxies import spare_loopback

if TYPE_CHECKING:
    from obstore.store import S3Store


_UNREADABLE = "unsupported key (it starts or ends with /, or contains //, ., .. or a control character)"


class ObjectNotFoundError(Exception):
    """The bucket or the key does not exist."""


class UnreadableKeyError(ObjectNotFoundError):
    """S3 allows this key, but obstore cannot read it."""


class ObjectForbiddenError(Exception):
    """S3 denied access: the role may not read the object or use its key, or (without `s3:ListBucket`) it does not exist.

    The message is S3's reason, with the names of the role and the key.
    """


class StorageError(FaultError):
    """S3 cannot be reached, or it failed at each retry."""


def split_uri(uri: str) -> tuple[str, str]:
    """Return (bucket, key) of `s3://bucket/key`. Raises ValueError."""
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not bucket or not key:
        raise ValueError(f"expected s3://bucket/key, got {uri!a}")
    return bucket, key


def open_object(uri: str, chunk_bytes: int = 2**20) -> tuple[int, Iterator[bytes]]:
    """Start reading an object: return its size in bytes and its content in chunks of at least `chunk_bytes`.

    Raises ObjectNotFoundError, UnreadableKeyError, ObjectForbiddenError, StorageError, ValueError for a malformed URI.
    """
    import obstore
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

    bucket, key = split_uri(uri)
    if key.strip("/") != key:  # obstore would remove the / and read another object
        raise UnreadableKeyError(_UNREADABLE)
    try:
        result = obstore.get(_store(bucket), key)
    except FileNotFoundError as error:
        raise ObjectNotFoundError(str(error)) from error
    except ValueError as error:
        raise UnreadableKeyError(_UNREADABLE) from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise ObjectForbiddenError(_reason(str(error))) from error
    except BaseError as error:
        raise _failed(error) from None
    return result.meta["size"], _chunks(result, chunk_bytes)


def _chunks(result: Any, chunk_bytes: int) -> Iterator[bytes]:
    from obstore.exceptions import BaseError

    try:
        for chunk in result.stream(min_chunk_size=chunk_bytes):
            yield bytes(chunk)
    except BaseError as error:
        raise _failed(error) from None


def _reason(text: str) -> str:
    """Return the reason from S3's error document in obstore's message."""
    import re
    from html import unescape  # imported here because a cold start without an error does not need them

    found = re.search("<Message>(.*?)</Message>", text, re.DOTALL)
    return unescape(found[1]) if found else "no reason given"


def _failed(error: Exception) -> StorageError:
    """Return the error without the dozens of lines of debug output that obstore appends."""
    return StorageError(str(error).partition("\n\nDebug source")[0])


@cache
def _store(bucket: str) -> S3Store:
    """Create the client of one bucket from Lambda's environment: credentials with session token, Region, endpoint."""
    from obstore.store import S3Store

    env = os.environ
    spare_loopback(env)
    endpoint = env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL")
    options: dict[str, Any] = {
        "access_key_id": env.get("AWS_ACCESS_KEY_ID"),
        "secret_access_key": env.get("AWS_SECRET_ACCESS_KEY"),
        "session_token": env.get("AWS_SESSION_TOKEN"),
        "region": env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or "us-east-1",
        "endpoint": endpoint,
    }
    return S3Store(
        bucket,
        client_options={
            "allow_http": bool(endpoint and endpoint.startswith("http://")),
            "connect_timeout": timedelta(seconds=5),
            "read_timeout": timedelta(seconds=15),
            "timeout": timedelta(seconds=900),  # the whole body: Lambda's maximum timeout
        },
        retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=30)},
        **{k: v for k, v in options.items() if v},
    )
