"""Sign requests with AWS Signature Version 4.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from .credentials import Credentials

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def encode(text: str, safe: bytes = b"/") -> str:
    """Percent-encode the UTF-8 bytes of a key or a query value, as S3 does. Raises ValueError for a lone surrogate.

    Nothing is normalized: `//`, `.` and `..` are parts of a key.
    """
    return "".join(chr(byte) if byte in _UNRESERVED or byte in safe else f"%{byte:02X}" for byte in text.encode())


def sign(
    method: str,
    path: str,
    headers: Mapping[str, str],
    *,
    payload_sha256: str,
    credentials: Credentials,
    region: str,
    query: str = "",
    service: str = "s3",
) -> str:
    """Return the value of the Authorization header.

    path: encoded, without query. query: encoded, `name=value` in the order of the names. headers: all those to sign, with
    names in lower case; `x-amz-date` (`20130524T000000Z`) is required. payload_sha256: of the body, in hex.
    """
    names = sorted(headers)
    lines = "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in names)
    request = "\n".join([method, path, query, lines, ";".join(names), payload_sha256])
    time = headers["x-amz-date"]
    scope = f"{time[:8]}/{region}/{service}/aws4_request"
    key = f"AWS4{credentials.secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = "\n".join(["AWS4-HMAC-SHA256", time, scope, hashlib.sha256(request.encode()).hexdigest()])
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    return (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, "
        f"SignedHeaders={';'.join(names)}, Signature={signature}"
    )
