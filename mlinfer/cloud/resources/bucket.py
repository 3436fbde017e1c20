"""The bucket of models and staged images: private, encrypted, versioned and tagged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from ...clients.aws_errors import error_code, explained, is_denied, none_if_absent, refusal
from ...clients.ownership import Owner, as_mapping, owner_of
from ...errors import RemoteError
from ...names import TAG, Names
from ..plan import Change, Document, compare

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import (
        LifecycleRuleTypeDef,
        PublicAccessBlockConfigurationTypeDef,
        ServerSideEncryptionByDefaultTypeDef,
        ServerSideEncryptionRuleTypeDef,
        TagTypeDef,
    )


ABANDONED_PARTS_DAYS = 1  # after which our buckets delete the parts of unfinished uploads

READ_AND_WRITE = (
    "s3:PutObject, s3:GetObject and s3:ListBucket on the bucket, and kms:GenerateDataKey and kms:Decrypt on its KMS key "
    "if it has one"
)
_CREATE = "s3:CreateBucket, s3:TagResource, s3:PutBucket* and s3:Put*Configuration on the bucket"
_CLOSE = "s3:GetBucketPublicAccessBlock and s3:PutBucketPublicAccessBlock on the bucket"


@dataclass(frozen=True)
class Bucket:
    """A bucket that exists. block: its public access block. left: why mlinfer does not change it, "" if it may."""

    block: Document
    left: str = ""


def is_bucket(s3: S3Client, bucket: str) -> bool:
    """Return whether the bucket exists, in any account. Raises RemoteError, MissingError."""
    with explained(f"bucket {bucket}", READ_AND_WRITE):
        return bucket_status(s3, bucket) != 404


def require_bucket(s3: S3Client, bucket: str, project: str, *, create: bool) -> bool:
    """Return whether the bucket exists.

    Raises RemoteError if it is missing and `create` is not set, or if another account owns it; MissingError.
    """
    with explained(f"bucket {bucket}", READ_AND_WRITE):
        status = bucket_status(s3, bucket)
        if status == 404 and not create:
            raise refusal("NoSuchBucket", f"bucket {bucket}")
        if status == 403 and create and not _is_unfinished(s3, bucket, [{"Key": TAG, "Value": project}]):
            raise _taken(bucket)
    return status != 404


def read_bucket(s3: S3Client, names: Names, bucket: str) -> Bucket:
    """Read a bucket that must exist. Raises RemoteError."""
    with explained(f"bucket {bucket}", _CLOSE):
        if owner_of_bucket(s3, names, bucket).state != "ours":
            return Bucket({}, f"bucket {bucket} is not managed by project {names.project}")
        try:
            held: Mapping[str, Any] = none_if_absent(lambda: s3.get_public_access_block(Bucket=bucket)) or {}
        except ClientError as error:
            if not is_denied(error):
                raise
            return Bucket({}, f"bucket {bucket}: these credentials cannot read its public access settings")
    return Bucket(held.get("PublicAccessBlockConfiguration", {}))


def plan_bucket(there: Bucket | None, bucket: str) -> Change:
    """Return the change that creates the bucket, or blocks public access if the project manages it."""
    if there is None:
        return Change("created", f"s3://{bucket}")
    if there.left:
        return Change("skipped", there.left)
    return compare("bucket", there.block, dict(_block()), detail=f"s3://{bucket}")


def apply_bucket(s3: S3Client, names: Names, bucket: str) -> Change:
    """Block public access to the project's bucket again if it was allowed. Raises RemoteError."""
    change = plan_bucket(read_bucket(s3, names, bucket), bucket)
    if change.outcome == "changed":
        with explained(f"bucket {bucket}", _CLOSE):
            s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=_block())
    return change


def _block() -> PublicAccessBlockConfigurationTypeDef:
    return {
        "BlockPublicAcls": True,
        "IgnorePublicAcls": True,
        "BlockPublicPolicy": True,
        "RestrictPublicBuckets": True,
    }


def ensure_bucket(s3: S3Client, bucket: str, *, project: str, owner: Callable[[], str], kms_key: str = "") -> bool:
    """Create the bucket, or complete one whose creation was interrupted. Return whether anything was changed.

    A complete bucket is not changed. owner: returns our AWS account id. kms_key: ARN of the default encryption key, "" for
    S3's own. Raises RemoteError, MissingError.
    """
    tags: list[TagTypeDef] = [{"Key": TAG, "Value": project}]
    with explained(f"bucket {bucket}", _CREATE):
        status = bucket_status(s3, bucket)
        if (status == 404 and _create_bucket(s3, bucket, tags)) or (
            status != 403 and is_untouched(s3, bucket, owner())
        ):
            s3.put_bucket_tagging(
                Bucket=bucket, Tagging={"TagSet": tags}
            )  # S3-compatible services may ignore the tags of CreateBucket
        elif not _is_unfinished(s3, bucket, tags):
            if status == 403:  # another account's: our own credentials have just worked
                raise _taken(bucket)
            return False
        s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=_block())
        s3.put_bucket_encryption(
            Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [_default_encryption(kms_key)]}
        )
        rule: LifecycleRuleTypeDef = {
            "ID": "mlinfer-abandoned-parts",
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": ABANDONED_PARTS_DAYS},
        }
        s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [rule]})
        s3.put_bucket_versioning(
            Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
        )  # last: see _is_unfinished
    return True


def owner_of_bucket(s3: S3Client, names: Names, bucket: str) -> Owner:
    """Return who manages the bucket, which must exist. Raises ClientError."""
    return owner_of(
        "bucket",
        f"s3://{bucket}",
        names,
        permission="s3:GetBucketTagging",
        read_tags=lambda: as_mapping(none_if_absent(lambda: s3.get_bucket_tagging(Bucket=bucket)["TagSet"]) or []),
    )


def is_untouched(s3: S3Client, bucket: str, owner: str) -> bool:
    """Return whether the bucket is empty and has no tags, versioning or lifecycle rules, as after CreateBucket.

    If the service ignores the tags of CreateBucket, a command that is killed early leaves such a bucket. owner: id of the
    AWS account that must own it. Raises ClientError.
    """
    which: dict[str, Any] = {"Bucket": bucket, "ExpectedBucketOwner": owner}
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


def _default_encryption(kms_key: str) -> ServerSideEncryptionRuleTypeDef:
    """Return the default encryption rule. With a KMS key, one data key serves many objects, which saves requests."""
    if not kms_key:
        return {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
    default: ServerSideEncryptionByDefaultTypeDef = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": kms_key}
    return {"ApplyServerSideEncryptionByDefault": default, "BucketKeyEnabled": True}


def _create_bucket(s3: S3Client, bucket: str, tags: list[TagTypeDef]) -> bool:
    """Create the bucket. Return whether this request created it, not an earlier or concurrent one."""
    region = s3.meta.region_name
    place = (
        {} if region == "us-east-1" else {"LocationConstraint": region}
    )  # S3 rejects this Region as a LocationConstraint
    configuration: Any = {**place, "Tags": tags}
    try:
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration=configuration)
    except ClientError as error:  # created by a request whose response was lost
        if error_code(error) != "BucketAlreadyOwnedByYou":
            raise
        return False
    return True


def _is_unfinished(s3: S3Client, bucket: str, tags: list[TagTypeDef]) -> bool:
    """Return whether the bucket has our tag but not the last of our settings."""
    try:
        ours = tags[0] in s3.get_bucket_tagging(Bucket=bucket)["TagSet"]
        return ours and "Status" not in s3.get_bucket_versioning(Bucket=bucket)
    except ClientError as error:
        if error_code(error) in ("NoSuchTagSet", "AccessDenied"):
            return False
        raise


def bucket_status(s3: S3Client, bucket: str) -> int:
    """Return the HTTP status of HeadBucket. Raises RemoteError if the bucket is in another Region."""
    try:
        answer: Mapping[str, Any] = s3.head_bucket(Bucket=bucket)
    except ClientError as error:  # a HEAD response has no body; a later request explains credential errors better
        answer = error.response
    region = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region", s3.meta.region_name)
    if region != s3.meta.region_name:  # boto3 would follow, but the function could not find the bucket
        message = f"bucket {bucket} is in Region {region}, but the configured Region is {s3.meta.region_name}"
        hint = f"Use --region {region}, or choose another bucket with --bucket."
        raise RemoteError("wrong_region", message, hint)
    return int(answer["ResponseMetadata"]["HTTPStatusCode"])


def _taken(bucket: str) -> RemoteError:
    return refusal("BucketAlreadyExists", f"bucket {bucket}")
