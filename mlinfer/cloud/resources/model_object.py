"""Upload a model file to S3 under its hash: s3://BUCKET/PREFIX/NAME/SHA256.onnx.

A key never holds two different files, so an existing model is not uploaded again and a deployed one cannot change. The
upload sends the hashes of the file or its parts, and S3 rejects data that does not match.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from botocore.exceptions import BotoCoreError, ClientError
from s3transfer.manager import TransferConfig, TransferManager
from s3transfer.subscribers import BaseSubscriber

from ...clients.aws import encryption
from ...clients.aws_errors import error_code, explained, is_denied, none_if_absent, refusal
from ...errors import RemoteError, UsageError
from ...model.modelfile import ModelFile, require_metadata
from ..plan import Change
from .bucket import READ_AND_WRITE, bucket_status

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


PART_BYTES = 8 * 2**20
MULTIPART_FROM = (
    32 * 2**20
)  # smaller files are sent in one request, for which S3 stores the SHA-256 of the whole object

_CHUNK_BYTES = 2**20
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html; the last one is for S3-compatible services
_NOT_NEW = {"PreconditionFailed", "ConditionalRequestConflict", "NotImplemented"}


@dataclass(frozen=True)
class Upload:
    """A model file in S3. sha256: of the whole file, in hex."""

    uri: str
    sha256: str
    bytes: int
    outcome: Literal["uploaded", "unchanged"]


@dataclass(frozen=True)
class ModelObject:
    """A model file and its place in S3. kms_key: ARN of the KMS key to encrypt it, "" for the bucket's default."""

    file: ModelFile
    bucket: str
    key: str
    kms_key: str = ""

    @property
    def uri(self) -> str:
        """Return the S3 URI of the object, which may not exist yet."""
        return f"s3://{self.bucket}/{self.key}"


def object_key(file: ModelFile, prefix: str) -> str:
    """Return PREFIX/NAME/SHA256.onnx. Raises UsageError for a file without mlinfer metadata."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", require_metadata(file).name).strip("-.") or "model"
    return "/".join([*filter(None, prefix.split("/")), name, f"{file.sha256}.onnx"])


def is_uploaded(s3: S3Client, model: ModelObject) -> bool:
    """Return whether the model is already in S3. Raises RemoteError, MissingError."""
    with explained(model.uri, READ_AND_WRITE):
        _require_bucket(s3, model)
        return bool(_is_there(s3, model))


def plan_model(model: ModelObject, *, uploaded: bool) -> Change:
    """Return the change that uploads the model if needed."""
    return Change("unchanged" if uploaded else "created", model.uri)


def upload(s3: S3Client, model: ModelObject, progress: Callable[[int], None]) -> Upload:
    """Upload the file unless S3 already has it. In both cases S3 has confirmed its SHA-256.

    progress: called from several threads with the bytes sent, negative for bytes to send again. Raises RemoteError,
    MissingError, UsageError.
    """
    file = model.file
    with explained(model.uri, READ_AND_WRITE):
        _require_bucket(s3, model)
        there = _is_there(s3, model)
        if there:
            return Upload(model.uri, file.sha256, file.bytes, "unchanged")
        parts = _part_hashes(file) if file.bytes >= MULTIPART_FROM else []
        new_only = there is None  # so that two concurrent first uploads store one object version
        sent = _try_to_send(s3, model, parts, progress=progress, new_only=new_only)
        held = _holds(s3, model)
        if not held and not sent:
            _try_to_send(s3, model, parts, progress=progress, new_only=False)
            held = _holds(s3, model)
        if not held:
            message = f"S3 did not confirm the SHA-256 of {model.uri}"
            hint = "Run the command again. An S3-compatible service must support SHA-256 checksums."
            raise RemoteError("not_confirmed", message, hint)
        if parts:
            _abort_unfinished(s3, model)
    return Upload(model.uri, file.sha256, file.bytes, "uploaded")


def _require_bucket(s3: S3Client, model: ModelObject) -> None:
    if bucket_status(s3, model.bucket) == 404:
        raise refusal("NoSuchBucket", f"bucket {model.bucket}")


def is_object(s3: S3Client, uri: str) -> bool | None:
    """Return whether the object exists, None if access is denied. Raises ClientError."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    try:
        return none_if_absent(lambda: s3.head_object(Bucket=bucket, Key=key)) is not None
    except ClientError as error:
        if not is_denied(error):
            raise
        return None


def _is_there(s3: S3Client, model: ModelObject) -> bool | None:
    """Return whether S3 has this file; None if there is no object or access is denied."""
    try:
        return _holds(s3, model)
    except ClientError as error:
        if error_code(error) in ("400", "403"):  # an expired token; no s3:ListBucket, and perhaps no such object
            return None
        raise


def _holds(s3: S3Client, model: ModelObject) -> bool | None:
    """Return whether S3's checksum of the object or its parts matches the file; None if there is no object."""
    try:
        head = s3.head_object(Bucket=model.bucket, Key=model.key, ChecksumMode="ENABLED")
    except ClientError as error:
        if error_code(error) == "404":
            return None
        raise
    confirmed = str(head.get("ChecksumSHA256", "")).partition("-")[0]  # what follows is the number of parts
    if not confirmed or head["ContentLength"] != model.file.bytes:
        return False
    return confirmed == _base64(model.file.sha256) or confirmed == _hash_of_hashes(_part_hashes(model.file))


def _hash_of_hashes(parts: list[str]) -> str:
    """Return S3's SHA-256 of a multipart object: the hash of the concatenated hashes of its parts."""
    return _base64(hashlib.sha256(b"".join(map(base64.b64decode, parts))).hexdigest())


def _part_hashes(file: ModelFile) -> list[str]:
    """Return the SHA-256 of each part, in base64, and check that the file has not changed. Raises UsageError."""
    whole, parts = hashlib.sha256(), list[Any]()
    try:
        with file.path.open("rb") as content:
            while chunk := content.read(_CHUNK_BYTES):
                if content.tell() - len(chunk) == len(parts) * PART_BYTES:
                    parts.append(hashlib.sha256())
                whole.update(chunk)
                parts[-1].update(chunk)
    except OSError as error:
        raise UsageError("model_unreadable", f"cannot read model file {file.path}", reason=error.strerror) from error
    if whole.hexdigest() != file.sha256:
        hint = "Run the command again when no program writes to the file."
        raise UsageError("model_changed", f"model file {file.path} changed while it was being read", hint)
    return [_base64(part.hexdigest()) for part in parts]


def _base64(hexadecimal: str) -> str:
    return base64.b64encode(bytes.fromhex(hexadecimal)).decode("ascii")


class _Watch(BaseSubscriber):  # type: ignore[misc]
    """Gives s3transfer the size that was hashed, and forwards its progress."""

    def __init__(self, size: int, progress: Callable[[int], None]) -> None:
        self._size = size
        self._progress = progress

    def on_queued(self, future: Any, **_: Any) -> None:
        future.meta.provide_transfer_size(self._size)

    def on_progress(self, bytes_transferred: int, **_: Any) -> None:
        self._progress(bytes_transferred)


def _try_to_send(
    s3: S3Client, model: ModelObject, parts: list[str], *, progress: Callable[[int], None], new_only: bool
) -> bool:
    """Send the file. new_only: return False if S3 already has an object at the key, or cannot tell."""
    try:
        _send(s3, model, parts, progress=progress, new_only=new_only)
    except ClientError as error:
        if new_only and error_code(error) in _NOT_NEW:
            return False
        # The response to the last request was lost and its retry finds no upload, or a concurrent run of this command
        # finished first, see _abort_unfinished. The caller checks the object that exists now.
        if error_code(error) != "NoSuchUpload":
            raise
    return True


def _send(
    s3: S3Client, model: ModelObject, parts: list[str], *, progress: Callable[[int], None], new_only: bool
) -> None:
    """Send the file, in parts if there are any. After a failure or Ctrl-C, S3 keeps no part of it.

    s3transfer retries a failed request or part, and aborts the multipart upload on failure.
    """
    checksum = {"ChecksumAlgorithm": "SHA256"} | ({} if parts else {"ChecksumSHA256": _base64(model.file.sha256)})
    extra = {**checksum, **encryption(model.kms_key)}
    config = TransferConfig(multipart_threshold=MULTIPART_FROM, multipart_chunksize=PART_BYTES)
    changes: dict[str, Callable[..., None]] = {"UploadPart": partial(_add_part_checksum, parts)}
    if new_only:
        changes |= dict.fromkeys(("PutObject", "CompleteMultipartUpload"), _add_condition)
    for operation, change in changes.items():
        s3.meta.events.register(f"before-parameter-build.s3.{operation}", change)
    try:
        with TransferManager(s3, config) as manager:
            watch = _Watch(model.file.bytes, progress)
            manager.upload(
                str(model.file.path), model.bucket, model.key, extra_args=extra, subscribers=[watch]
            ).result()
    except BotoCoreError:  # some of which are OSErrors
        raise
    except OSError as error:
        raise UsageError(
            "model_unreadable", f"cannot read model file {model.file.path}", reason=error.strerror
        ) from error
    finally:
        for operation, change in changes.items():
            s3.meta.events.unregister(f"before-parameter-build.s3.{operation}", change)


def _add_condition(params: dict[str, Any], **_: Any) -> None:
    """Let S3 store the object only if the key is free. s3transfer does not support this argument."""
    params["IfNoneMatch"] = "*"


def _add_part_checksum(parts: list[str], params: dict[str, Any], **_: Any) -> None:
    """Let S3 compare a part with the hash computed before. s3transfer would hash the data that it reads itself."""
    params["ChecksumSHA256"] = parts[params["PartNumber"] - 1]


def _abort_unfinished(s3: S3Client, model: ModelObject) -> None:
    """Delete the parts of earlier, killed uploads of this object, which only cost money."""
    try:
        for attempt in s3.list_multipart_uploads(Bucket=model.bucket, Prefix=model.key).get("Uploads", []):
            if attempt["Key"] == model.key:
                s3.abort_multipart_upload(Bucket=model.bucket, Key=model.key, UploadId=attempt["UploadId"])
    except ClientError:
        pass  # the upload succeeded, and these permissions are optional
