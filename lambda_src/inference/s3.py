"""Read objects from S3 with obstore: import and client take a tenth of boto3's time, which a cold start pays for."""

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


_UNREADABLE = "its key has an empty part (a / at an end, or //), a part . or .., or a control character"


class ObjectNotFoundError(Exception):
    """There is no such bucket or key."""


class UnreadableKeyError(ObjectNotFoundError):
    """S3 allows such a key and obstore does not."""


class ObjectForbiddenError(Exception):
    """S3 refused: the role may not read the object or use its key, or (without `s3:ListBucket`) it does not exist.

    The message is S3's own reason, which names the role and the key.
    """


class StorageError(FaultError):
    """S3 cannot be reached, or failed at each repetition."""


def split_uri(uri: str) -> tuple[str, str]:
    """Return (bucket, key) of `s3://bucket/key`. Raises ValueError."""
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not bucket or not key:
        raise ValueError(f"not of the form s3://bucket/key: {uri!a}")
    return bucket, key


def open_object(uri: str, chunk_bytes: int = 2**20) -> tuple[int, Iterator[bytes]]:
    """Start reading an object: return its size in bytes and its content in chunks of at least `chunk_bytes`.

    Raises ObjectNotFoundError, UnreadableKeyError, ObjectForbiddenError, StorageError, ValueError for a malformed URI.
    """
    import obstore
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

    bucket, key = split_uri(uri)
    if key.strip("/") != key:  # obstore would take the / away, and read another object
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
    """Return the reason from S3's error document, which obstore quotes."""
    import re
    from html import unescape  # a cold start without an error does not pay for these

    found = re.search("<Message>(.*?)</Message>", text, re.DOTALL)
    return unescape(found[1]) if found else "no reason given"


def _failed(error: Exception) -> StorageError:
    """Leave out what obstore appends for its own developers: dozens of lines of Rust's structures."""
    return StorageError(str(error).partition("\n\nDebug source")[0])


@cache
def _store(bucket: str) -> S3Store:
    """Make the client of one bucket from Lambda's environment: credentials with session token, Region, endpoint."""
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
            "timeout": timedelta(seconds=900),  # of the whole body; Lambda's own longest timeout
        },
        retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=30)},
        **{k: v for k, v in options.items() if v},
    )
