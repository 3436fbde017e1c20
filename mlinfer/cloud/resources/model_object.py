"""Put a model file into S3 under the hash of its content: s3://BUCKET/PREFIX/NAME/SHA256.onnx.

One key never holds two contents, so nothing is sent twice and what a deployment refers to cannot change. The hashes of
the file, or of its parts, are taken first and sent along: S3 compares them with what arrives and refuses anything else,
and an object appears whole or not at all.
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
MULTIPART_FROM = 32 * 2**20  # below, one request: S3 then keeps the SHA-256 of the whole object, not one of its parts'

_CHUNK_BYTES = 2**20
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html; the last one: services like S3
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
    """A model file and where it belongs in S3. kms_key: ARN of the KMS key that S3 encrypts it with, "" = the bucket's default."""

    file: ModelFile
    bucket: str
    key: str
    kms_key: str = ""

    @property
    def uri(self) -> str:
        """Return where the object is, or is to be."""
        return f"s3://{self.bucket}/{self.key}"


def object_key(file: ModelFile, prefix: str) -> str:
    """Return PREFIX/NAME/SHA256.onnx. Raises UsageError for a file that cannot be served, having no mlinfer metadata."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", require_metadata(file).name).strip("-.") or "model"
    return "/".join([*filter(None, prefix.split("/")), name, f"{file.sha256}.onnx"])


def is_uploaded(s3: S3Client, model: ModelObject) -> bool:
    """Tell whether `upload` would find the file there; it is asked and not changed. Raises RemoteError, MissingError."""
    with explained(model.uri, READ_AND_WRITE):
        _require_bucket(s3, model)
        return bool(_is_there(s3, model))


def plan_model(model: ModelObject, *, uploaded: bool) -> Change:
    """Say what it takes until the model is there."""
    return Change("unchanged" if uploaded else "created", model.uri)


def upload(s3: S3Client, model: ModelObject, progress: Callable[[int], None]) -> Upload:
    """Bring the file to its key unless it is there; either way S3 has confirmed its SHA-256.

    progress: is called from several threads with numbers of bytes, negative ones for what has to be sent again. Raises
    RemoteError, MissingError, UsageError.
    """
    file = model.file
    with explained(model.uri, READ_AND_WRITE):
        _require_bucket(s3, model)
        there = _is_there(s3, model)
        if there:
            return Upload(model.uri, file.sha256, file.bytes, "unchanged")
        parts = _part_hashes(file) if file.bytes >= MULTIPART_FROM else []
        new_only = there is None  # two first uploads at once store one version of the object
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
    """Tell whether there is such an object; None where these credentials may not know. Raises ClientError."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    try:
        return none_if_absent(lambda: s3.head_object(Bucket=bucket, Key=key)) is not None
    except ClientError as error:
        if not is_denied(error):
            raise
        return None


def _is_there(s3: S3Client, model: ModelObject) -> bool | None:
    """Tell whether the object is there, None where there is none or S3 does not say."""
    try:
        return _holds(s3, model)
    except ClientError as error:
        if error_code(error) in ("400", "403"):  # an expired token; no s3:ListBucket, and perhaps no such object
            return None
        raise


def _holds(s3: S3Client, model: ModelObject) -> bool | None:
    """Tell whether S3's checksum of the object, or of the parts it came in, is the file's; None without an object."""
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
    """Return the SHA-256 that S3 keeps of an object that came in parts: that of their own, one after another."""
    return _base64(hashlib.sha256(b"".join(map(base64.b64decode, parts))).hexdigest())


def _part_hashes(file: ModelFile) -> list[str]:
    """Return the SHA-256 of each part, in base64, while checking that it is still the same file. Raises UsageError."""
    whole, parts = hashlib.sha256(), list[Any]()
    try:
        with file.path.open("rb") as content:
            while chunk := content.read(_CHUNK_BYTES):
                if content.tell() - len(chunk) == len(parts) * PART_BYTES:
                    parts.append(hashlib.sha256())
                whole.update(chunk)
                parts[-1].update(chunk)
    except OSError as error:
        raise UsageError("model_unreadable", f"cannot read model file {file.path}: {error.strerror}") from error
    if whole.hexdigest() != file.sha256:
        hint = "Run the command again when no program writes to the file."
        raise UsageError("model_changed", f"model file {file.path} changed while it was being read", hint)
    return [_base64(part.hexdigest()) for part in parts]


def _base64(hexadecimal: str) -> str:
    return base64.b64encode(bytes.fromhex(hexadecimal)).decode("ascii")


class _Watch(BaseSubscriber):  # type: ignore[misc]
    """Tells s3transfer the size that was hashed, and passes its progress on."""

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
    """Send the file. new_only: return False where S3 already has an object at the key, or cannot tell."""
    try:
        _send(s3, model, parts, progress=progress, new_only=new_only)
    except ClientError as error:
        if new_only and error_code(error) in _NOT_NEW:
            return False
        # The answer to the last request was lost, and its repetition finds no upload; or a concurrent run of this
        # command came first, see _abort_unfinished. What counts is what is there now.
        if error_code(error) != "NoSuchUpload":
            raise
    return True


def _send(
    s3: S3Client, model: ModelObject, parts: list[str], *, progress: Callable[[int], None], new_only: bool
) -> None:
    """Send the file from the disk, in parts if there are any; on any failure, or Ctrl-C, S3 keeps nothing of it.

    s3transfer repeats a request that broke, and a part alone where there are parts; it aborts a multipart upload.
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
        raise UsageError("model_unreadable", f"cannot read model file {model.file.path}: {error.strerror}") from error
    finally:
        for operation, change in changes.items():
            s3.meta.events.unregister(f"before-parameter-build.s3.{operation}", change)


def _add_condition(params: dict[str, Any], **_: Any) -> None:
    """Let S3 store the object only where the key has none; s3transfer does not pass this argument on."""
    params["IfNoneMatch"] = "*"


def _add_part_checksum(parts: list[str], params: dict[str, Any], **_: Any) -> None:
    """Let S3 compare a part with the hash taken beforehand; s3transfer alone would hash what it happens to read."""
    params["ChecksumSHA256"] = parts[params["PartNumber"] - 1]


def _abort_unfinished(s3: S3Client, model: ModelObject) -> None:
    """Drop the parts of earlier attempts that were killed: now that the object is there they can only cost money."""
    try:
        for attempt in s3.list_multipart_uploads(Bucket=model.bucket, Prefix=model.key).get("Uploads", []):
            if attempt["Key"] == model.key:
                s3.abort_multipart_upload(Bucket=model.bucket, Key=model.key, UploadId=attempt["UploadId"])
    except ClientError:
        pass  # the upload itself succeeded, and these are permissions that it does not need
