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
from typing import Any, Literal

from botocore.exceptions import BotoCoreError, ClientError
from s3transfer.manager import TransferConfig, TransferManager
from s3transfer.subscribers import BaseSubscriber

from ...clients.aws import Client, encryption
from ...clients.aws_errors import error_code, explained, is_denied, none_if_absent, refusal
from ...clients.ownership import Owner, as_mapping, owner_of
from ...errors import RemoteError, UsageError
from ...model.modelfile import ModelFile, require_metadata
from ...names import TAG, Names
from ..plan import Change, compare

PART_BYTES = 8 * 2**20
MULTIPART_FROM = 32 * 2**20  # below, one request: S3 then keeps the SHA-256 of the whole object, not one of its parts'
ABANDONED_PARTS_DAYS = 1  # after which a bucket of ours drops the parts of an upload that never ended

_CHUNK_BYTES = 2**20
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html; the last one: services like S3
_NOT_NEW = {"PreconditionFailed", "ConditionalRequestConflict", "NotImplemented"}
_CLOSED = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
_READ_AND_WRITE = (
    "s3:PutObject, s3:GetObject and s3:ListBucket on the bucket, and kms:GenerateDataKey and kms:Decrypt on its KMS key "
    "if it has one"
)
_MAKE = "s3:CreateBucket, s3:TagResource and the s3:PutBucket... and s3:Put...Configuration actions of its settings"


@dataclass(frozen=True)
class Upload:
    """A model file in S3. sha256: of the whole file, in hex."""

    uri: str
    sha256: str
    bytes: int
    outcome: Literal["uploaded", "unchanged"]


def object_key(file: ModelFile, prefix: str) -> str:
    """Return PREFIX/NAME/SHA256.onnx. Raises UsageError for a file that cannot be served, having no mlinfer metadata."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", require_metadata(file).name).strip("-.") or "model"
    return "/".join([*filter(None, prefix.split("/")), name, f"{file.sha256}.onnx"])


def upload(
    s3: Client, file: ModelFile, bucket: str, key: str, progress: Callable[[int], None], kms_key: str = ""
) -> Upload:
    """Bring the file to `key` unless it is there; either way S3 has confirmed its SHA-256.

    kms_key: ARN of the KMS key that S3 encrypts it with, "" = the bucket's default. progress is called from several threads with numbers of bytes, negative ones for what has to be sent again.
    Raises RemoteError, MissingError, UsageError.
    """
    uri = f"s3://{bucket}/{key}"
    with explained(uri, _READ_AND_WRITE):
        if _bucket_status(s3, bucket) == 404:
            raise refusal("NoSuchBucket", f"s3://{bucket}")
        there = _is_there(s3, bucket, key, file)
        if there:
            return Upload(uri, file.sha256, file.bytes, "unchanged")
        parts = _part_hashes(file) if file.bytes >= MULTIPART_FROM else []
        new_only = there is None  # two first uploads at once store one version of the object
        sent = _try_to_send(s3, file, parts, bucket, key, progress, new_only=new_only, kms_key=kms_key)
        held = _holds(s3, bucket, key, file)
        if not held and not sent:
            _try_to_send(s3, file, parts, bucket, key, progress, new_only=False, kms_key=kms_key)
            held = _holds(s3, bucket, key, file)
        if not held:
            message = f"{uri}: S3 does not confirm the SHA-256 of what was sent"
            hint = "Try again; a service that only resembles S3 must keep SHA-256 checksums."
            raise RemoteError("not_confirmed", message, hint)
        if parts:
            _abort_unfinished(s3, bucket, key)
    return Upload(uri, file.sha256, file.bytes, "uploaded")


def is_uploaded(s3: Client, file: ModelFile, bucket: str, key: str) -> bool:
    """Tell whether `upload` would find the file there; it is asked and not changed. Raises RemoteError, MissingError."""
    with explained(f"s3://{bucket}/{key}", _READ_AND_WRITE):
        if _bucket_status(s3, bucket) == 404:
            raise refusal("NoSuchBucket", f"s3://{bucket}")
        return bool(_is_there(s3, bucket, key, file))


def is_bucket(s3: Client, bucket: str) -> bool:
    """Tell whether there is such a bucket, whoever may use it. Raises RemoteError, MissingError."""
    with explained(f"s3://{bucket}", _READ_AND_WRITE):
        return _bucket_status(s3, bucket) != 404


def require_bucket(s3: Client, bucket: str, project: str, *, create: bool) -> None:
    """Refuse a bucket that is missing, or with `create` one that is not ours to make. Raises RemoteError, MissingError."""
    with explained(f"s3://{bucket}", _READ_AND_WRITE):
        status = _bucket_status(s3, bucket)
        if status == 404 and not create:
            raise refusal("NoSuchBucket", f"s3://{bucket}")
        if status == 403 and create and not _is_unfinished(s3, bucket, [{"Key": TAG, "Value": project}]):
            raise _taken(bucket)


def owner_of_bucket(s3: Client, names: Names, bucket: str) -> Owner:
    """Return who manages the bucket, which must be there. Raises ClientError."""
    return owner_of(
        "bucket",
        f"s3://{bucket}",
        names,
        "s3:GetBucketTagging",
        lambda: as_mapping(none_if_absent(lambda: s3.get_bucket_tagging(Bucket=bucket)["TagSet"]) or []),
    )


def ensure_bucket(s3: Client, bucket: str, project: str, owner: Callable[[], str], kms_key: str = "") -> bool:
    """Make the bucket, private, encrypted, versioned and tagged, or finish one whose making was cut short.

    owner: returns the id of our AWS account, where it is needed. kms_key: ARN of the key of its default encryption, "" =
    S3's own. Return whether anything was done: a bucket that is there otherwise is left as it is. Raises RemoteError,
    MissingError.
    """
    tags = [{"Key": TAG, "Value": project}]
    with explained(f"s3://{bucket}", _MAKE):
        status = _bucket_status(s3, bucket)
        if (status == 404 and _create_bucket(s3, bucket, tags)) or (
            status != 403 and is_untouched(s3, bucket, owner())
        ):
            s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": tags})  # services like S3 may pass over the former
        elif not _is_unfinished(s3, bucket, tags):
            if status == 403:  # of whoever it is: our own credentials have just been found good
                raise _taken(bucket)
            return False
        s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=dict.fromkeys(_CLOSED, True))
        s3.put_bucket_encryption(
            Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [_default_encryption(kms_key)]}
        )
        rule = {"ID": "mlinfer-abandoned-parts", "Status": "Enabled", "Filter": {"Prefix": ""}}
        rule |= {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": ABANDONED_PARTS_DAYS}}
        s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [rule]})
        s3.put_bucket_versioning(
            Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
        )  # last: see _is_unfinished
    return True


def _taken(bucket: str) -> RemoteError:
    return refusal("BucketAlreadyExists", f"s3://{bucket}")


def close_bucket(s3: Client, names: Names, bucket: str, *, dry_run: bool = False) -> Change:
    """Block public access to a bucket of the project again, if somebody has allowed it. Raises RemoteError."""
    with explained(f"s3://{bucket}", "s3:GetBucketPublicAccessBlock and s3:PutBucketPublicAccessBlock on the bucket"):
        if owner_of_bucket(s3, names, bucket).state != "ours":
            return Change("skipped", f"s3://{bucket} is not managed by project {names.project}")
        wanted = dict.fromkeys(_CLOSED, True)
        try:
            held = none_if_absent(lambda: s3.get_public_access_block(Bucket=bucket)) or {}
        except ClientError as error:
            if not is_denied(error):
                raise
            return Change("skipped", f"s3://{bucket}: these credentials may not read its block of public access")
        change = compare("bucket", held.get("PublicAccessBlockConfiguration", {}), wanted, f"s3://{bucket}")
        if change.outcome != "unchanged" and not dry_run:
            s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=wanted)
    return change


def is_object(s3: Client, uri: str) -> bool | None:
    """Tell whether there is such an object; None where these credentials may not know. Raises ClientError."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    try:
        return none_if_absent(lambda: s3.head_object(Bucket=bucket, Key=key)) is not None
    except ClientError as error:
        if not is_denied(error):
            raise
        return None


def is_untouched(s3: Client, bucket: str, owner: str) -> bool:
    """Tell whether the bucket is as CreateBucket leaves it: empty, and without tags, versioning and lifecycle rules.

    Where the service passes over the tags of CreateBucket, such a bucket is what a command leaves that was killed before
    it could tag it. owner: the id of the AWS account that it must belong to. Raises ClientError.
    """
    which = {"Bucket": bucket, "ExpectedBucketOwner": owner}
    try:
        if none_if_absent(lambda: s3.get_bucket_tagging(**which)) or "Status" in s3.get_bucket_versioning(**which):
            return False
        if none_if_absent(lambda: s3.get_bucket_lifecycle_configuration(**which)):
            return False
        return not s3.list_objects_v2(**which, MaxKeys=1).get("Contents")
    except ClientError as error:
        if error_code(error) == "AccessDenied":
            return False
        raise


def _default_encryption(kms_key: str) -> dict[str, Any]:
    """Return the bucket's rule; with a key of its own, one data key serves many objects, which costs fewer requests."""
    if not kms_key:
        return {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
    default = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": kms_key}
    return {"ApplyServerSideEncryptionByDefault": default, "BucketKeyEnabled": True}


def _create_bucket(s3: Client, bucket: str, tags: list[dict[str, str]]) -> bool:
    """Make the bucket; return whether it was this request that made it, and not an earlier or a concurrent one."""
    region = s3.meta.region_name
    place = {} if region == "us-east-1" else {"LocationConstraint": region}  # S3 does not take that one's name
    try:
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={**place, "Tags": tags})
    except ClientError as error:  # made by a request whose answer was lost
        if error_code(error) != "BucketAlreadyOwnedByYou":
            raise
        return False
    return True


def _bucket_status(s3: Client, bucket: str) -> int:
    """Return the HTTP status that asking for the bucket gives. Raises RemoteError when it is in another Region."""
    try:
        answer = s3.head_bucket(Bucket=bucket)
    except ClientError as error:  # what is wrong with us, and not the bucket, a later request with a body says better
        answer = error.response
    region = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region", s3.meta.region_name)
    if region != s3.meta.region_name:  # boto3 would go there, but the function will not find it
        message = f"s3://{bucket}: the bucket is in Region {region}, and the Region in force is {s3.meta.region_name}"
        hint = f"Give --region {region}, or another bucket with --bucket."
        raise RemoteError("wrong_region", message, hint)
    return int(answer["ResponseMetadata"]["HTTPStatusCode"])


def _is_unfinished(s3: Client, bucket: str, tags: list[dict[str, str]]) -> bool:
    """Tell whether the bucket carries our tag, and not yet the last of our settings."""
    try:
        ours = tags[0] in s3.get_bucket_tagging(Bucket=bucket)["TagSet"]
        return ours and "Status" not in s3.get_bucket_versioning(Bucket=bucket)
    except ClientError as error:
        if error_code(error) in ("NoSuchTagSet", "AccessDenied"):
            return False
        raise


def _is_there(s3: Client, bucket: str, key: str, file: ModelFile) -> bool | None:
    """Tell whether the object is there, None where there is none or S3 does not say."""
    try:
        return _holds(s3, bucket, key, file)
    except ClientError as error:
        if error_code(error) in ("400", "403"):  # an expired token; no s3:ListBucket, and perhaps no such object
            return None
        raise


def _holds(s3: Client, bucket: str, key: str, file: ModelFile) -> bool | None:
    """Tell whether S3's checksum of the object, or of the parts it came in, is the file's; None without an object."""
    try:
        head = s3.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    except ClientError as error:
        if error_code(error) == "404":
            return None
        raise
    confirmed = str(head.get("ChecksumSHA256", "")).partition("-")[0]  # what follows is the number of parts
    if not confirmed or head["ContentLength"] != file.bytes:
        return False
    return confirmed == _base64(file.sha256) or confirmed == _hash_of_hashes(_part_hashes(file))


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
        raise UsageError("model_unreadable", f"{file.path} cannot be read: {error.strerror}") from error
    if whole.hexdigest() != file.sha256:
        hint = "Upload it when nothing writes to it any more."
        raise UsageError("model_changed", f"{file.path} changed while it was read", hint)
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
    s3: Client,
    file: ModelFile,
    parts: list[str],
    bucket: str,
    key: str,
    progress: Callable[[int], None],
    *,
    new_only: bool,
    kms_key: str,
) -> bool:
    """Send the file. new_only: return False where S3 already has an object at the key, or cannot tell."""
    try:
        _send(s3, file, parts, bucket, key, progress, new_only=new_only, kms_key=kms_key)
    except ClientError as error:
        if new_only and error_code(error) in _NOT_NEW:
            return False
        # The answer to the last request was lost, and its repetition finds no upload; or a concurrent run of this
        # command came first, see _abort_unfinished. What counts is what is there now.
        if error_code(error) != "NoSuchUpload":
            raise
    return True


def _send(
    s3: Client,
    file: ModelFile,
    parts: list[str],
    bucket: str,
    key: str,
    progress: Callable[[int], None],
    *,
    new_only: bool,
    kms_key: str,
) -> None:
    """Send the file from the disk, in parts if there are any; on any failure, or Ctrl-C, S3 keeps nothing of it.

    s3transfer repeats a request that broke, and a part alone where there are parts; it aborts a multipart upload.
    """
    checksum = {"ChecksumAlgorithm": "SHA256"} | ({} if parts else {"ChecksumSHA256": _base64(file.sha256)})
    extra = {**checksum, **encryption(kms_key)}
    config = TransferConfig(multipart_threshold=MULTIPART_FROM, multipart_chunksize=PART_BYTES)
    changes: dict[str, Callable[..., None]] = {"UploadPart": partial(_add_part_checksum, parts)}
    if new_only:
        changes |= dict.fromkeys(("PutObject", "CompleteMultipartUpload"), _add_condition)
    for operation, change in changes.items():
        s3.meta.events.register(f"before-parameter-build.s3.{operation}", change)
    try:
        with TransferManager(s3, config) as manager:
            watch = _Watch(file.bytes, progress)
            manager.upload(str(file.path), bucket, key, extra_args=extra, subscribers=[watch]).result()
    except BotoCoreError:  # some of which are OSErrors
        raise
    except OSError as error:
        raise UsageError("model_unreadable", f"{file.path} cannot be read: {error.strerror}") from error
    finally:
        for operation, change in changes.items():
            s3.meta.events.unregister(f"before-parameter-build.s3.{operation}", change)


def _add_condition(params: dict[str, Any], **_: Any) -> None:
    """Let S3 store the object only where the key has none; s3transfer does not pass this argument on."""
    params["IfNoneMatch"] = "*"


def _add_part_checksum(parts: list[str], params: dict[str, Any], **_: Any) -> None:
    """Let S3 compare a part with the hash taken beforehand; s3transfer alone would hash what it happens to read."""
    params["ChecksumSHA256"] = parts[params["PartNumber"] - 1]


def _abort_unfinished(s3: Client, bucket: str, key: str) -> None:
    """Drop the parts of earlier attempts that were killed: now that the object is there they can only cost money."""
    try:
        for attempt in s3.list_multipart_uploads(Bucket=bucket, Prefix=key).get("Uploads", []):
            if attempt["Key"] == key:
                s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=attempt["UploadId"])
    except ClientError:
        pass  # the upload itself succeeded, and these are permissions that it does not need
