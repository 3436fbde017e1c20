"""An S3 on loopback that is as strict as the real one: it verifies each signature and each SHA-256.

It takes the request line as it came, and compares the key byte for byte. The checks are written from AWS's description,
not with the client's functions: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote_to_bytes

from .http import Answer, Request, error

ACCESS_KEY = "AKIASTRICT"
SECRET_KEY = "s3cr3t/Key+Of/The+Strict/Server"  # noqa: S105
TOKEN = "t0ken+/of=the=session//"  # noqa: S105
_SCHEME = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(\S+?)/(\d{8})/([\w-]+)/s3/aws4_request, SignedHeaders=(\S+), Signature=(\w{64})"
)


@dataclass
class StrictS3:
    """The objects by `/bucket/key`, and the requests so far. before: the next answers, None cuts the connection.

    cuts: after how many bytes of an object to cut the next downloads.
    """

    region: str = "eu-central-1"
    objects: dict[bytes, bytes] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    before: list[Answer | None] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    virtual_host: str = ""  # the part of the host name after the bucket, if the bucket is there

    def answer(self, request: Request) -> Answer | None:
        """Answer as S3 would."""
        self.requests.append(request)
        if self.before:
            return self.before.pop(0)
        if refusal := self._refusal(request):
            return error(403, refusal, f"no: {refusal}")
        place = unquote_to_bytes(request.target)
        if self.virtual_host:
            place = b"/" + request.headers["host"].removesuffix(self.virtual_host).encode() + place
        if request.method == "PUT":
            self.objects[place] = request.body
            return Answer(200, {"etag": _etag(request.body)})
        if place not in self.objects:
            return error(404, "NoSuchKey", "The specified key does not exist.")
        return self._object(request, self.objects[place])

    def _object(self, request: Request, content: bytes) -> Answer:
        headers = {"etag": _etag(content), "content-length": str(len(content))}
        status, part = 200, content
        if wanted := request.headers.get("range"):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if request.headers.get("if-match", _etag(content)) != _etag(content):
                return error(412, "PreconditionFailed", "At least one of the pre-conditions did not hold")
            status, part = 206, content[start:]
            headers |= {
                "content-range": f"bytes {start}-{len(content) - 1}/{len(content)}",
                "content-length": str(len(part)),
            }
        return Answer(status, headers, part[: self.cuts.pop(0)] if self.cuts else part)

    def _refusal(self, request: Request) -> str:
        """Return S3's code for a wrong signature, "" for a right one."""
        found = _SCHEME.fullmatch(request.headers.get("authorization", ""))
        if not found or request.headers.get("x-amz-security-token") != TOKEN:
            return "AccessDenied"
        access_key, date, region, names, signature = found.groups()
        digest = request.headers["x-amz-content-sha256"]
        if region != self.region or access_key != ACCESS_KEY:
            return "InvalidAccessKeyId"
        if hashlib.sha256(request.body).hexdigest() != digest:
            return "XAmzContentSHA256Mismatch"
        signed = names.split(";")
        must = {name for name in request.headers if name.startswith("x-amz-") or name == "host"}
        if not must <= set(signed):
            return "AccessDenied"
        path = quote(unquote_to_bytes(request.target), safe="/~")
        lines = [f"{name}:{request.headers[name]}" for name in signed]
        canonical = "\n".join([request.method, path, "", *lines, "", names, digest])
        key = b"AWS4" + SECRET_KEY.encode()
        for part in (date, region, "s3", "aws4_request"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        scope = f"{date}/{region}/s3/aws4_request"
        hashed = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{request.headers['x-amz-date']}\n{scope}\n{hashed}"
        right = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
        return "" if hmac.compare_digest(right, signature) else "SignatureDoesNotMatch"


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
