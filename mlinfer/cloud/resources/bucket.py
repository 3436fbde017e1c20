"""The bucket of the models and staged pictures: created private, encrypted, versioned and tagged, and kept closed."""

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


ABANDONED_PARTS_DAYS = 1  # after which a bucket of ours drops the parts of an upload that never ended

READ_AND_WRITE = (
    "s3:PutObject, s3:GetObject and s3:ListBucket on the bucket, and kms:GenerateDataKey and kms:Decrypt on its KMS key "
    "if it has one"
)
_CREATE = "s3:CreateBucket, s3:TagResource, s3:PutBucket* and s3:Put*Configuration on the bucket"
_CLOSE = "s3:GetBucketPublicAccessBlock and s3:PutBucketPublicAccessBlock on the bucket"


@dataclass(frozen=True)
class Bucket:
    """A bucket that is there. block: what blocks public access. left: why it is left as it is, "" if it is not."""

    block: Document
    left: str = ""


def is_bucket(s3: S3Client, bucket: str) -> bool:
    """Tell whether there is such a bucket, whoever may use it. Raises RemoteError, MissingError."""
    with explained(f"bucket {bucket}", READ_AND_WRITE):
        return bucket_status(s3, bucket) != 404


def require_bucket(s3: S3Client, bucket: str, project: str, *, create: bool) -> bool:
    """Refuse a bucket that is missing, or with `create` one that is not ours to create. Return whether it is there.

    Raises RemoteError, MissingError.
    """
    with explained(f"bucket {bucket}", READ_AND_WRITE):
        status = bucket_status(s3, bucket)
        if status == 404 and not create:
            raise refusal("NoSuchBucket", f"bucket {bucket}")
        if status == 403 and create and not _is_unfinished(s3, bucket, [{"Key": TAG, "Value": project}]):
            raise _taken(bucket)
    return status != 404


def read_bucket(s3: S3Client, names: Names, bucket: str) -> Bucket:
    """Return what is told of a bucket that must be there. Raises RemoteError."""
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
    """Say what it takes until the bucket is there, and closed to the public if it is the project's."""
    if there is None:
        return Change("created", f"s3://{bucket}")
    if there.left:
        return Change("skipped", there.left)
    return compare("bucket", there.block, dict(_block()), detail=f"s3://{bucket}")


def apply_bucket(s3: S3Client, names: Names, bucket: str) -> Change:
    """Block public access to a bucket of the project again, if somebody has allowed it. Raises RemoteError."""
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
    """Create the bucket, private, encrypted, versioned and tagged, or finish one that was cut short.

    owner: returns the id of our AWS account, where it is needed. kms_key: ARN of the key of its default encryption, "" =
    S3's own. Return whether anything was done: a bucket that is there otherwise is left as it is. Raises RemoteError,
    MissingError.
    """
    tags: list[TagTypeDef] = [{"Key": TAG, "Value": project}]
    with explained(f"bucket {bucket}", _CREATE):
        status = bucket_status(s3, bucket)
        if (status == 404 and _create_bucket(s3, bucket, tags)) or (
            status != 403 and is_untouched(s3, bucket, owner())
        ):
            s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": tags})  # services like S3 may pass over the former
        elif not _is_unfinished(s3, bucket, tags):
            if status == 403:  # of whoever it is: our own credentials have just been found good
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
    """Return who manages the bucket, which must be there. Raises ClientError."""
    return owner_of(
        "bucket",
        f"s3://{bucket}",
        names,
        permission="s3:GetBucketTagging",
        read_tags=lambda: as_mapping(none_if_absent(lambda: s3.get_bucket_tagging(Bucket=bucket)["TagSet"]) or []),
    )


def is_untouched(s3: S3Client, bucket: str, owner: str) -> bool:
    """Tell whether the bucket is as CreateBucket leaves it: empty, and without tags, versioning and lifecycle rules.

    Where the service passes over the tags of CreateBucket, such a bucket is what a command leaves that was killed before
    it could tag it. owner: the id of the AWS account that it must belong to. Raises ClientError.
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
    """Return the bucket's rule; with a key of its own, one data key serves many objects, which costs fewer requests."""
    if not kms_key:
        return {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
    default: ServerSideEncryptionByDefaultTypeDef = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": kms_key}
    return {"ApplyServerSideEncryptionByDefault": default, "BucketKeyEnabled": True}


def _create_bucket(s3: S3Client, bucket: str, tags: list[TagTypeDef]) -> bool:
    """Make the bucket; return whether it was this request that made it, and not an earlier or a concurrent one."""
    region = s3.meta.region_name
    place = {} if region == "us-east-1" else {"LocationConstraint": region}  # S3 does not take that one's name
    configuration: Any = {**place, "Tags": tags}
    try:
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration=configuration)
    except ClientError as error:  # created by a request whose response was lost
        if error_code(error) != "BucketAlreadyOwnedByYou":
            raise
        return False
    return True


def _is_unfinished(s3: S3Client, bucket: str, tags: list[TagTypeDef]) -> bool:
    """Tell whether the bucket carries our tag, and not yet the last of our settings."""
    try:
        ours = tags[0] in s3.get_bucket_tagging(Bucket=bucket)["TagSet"]
        return ours and "Status" not in s3.get_bucket_versioning(Bucket=bucket)
    except ClientError as error:
        if error_code(error) in ("NoSuchTagSet", "AccessDenied"):
            return False
        raise


def bucket_status(s3: S3Client, bucket: str) -> int:
    """Return the HTTP status that asking for the bucket gives. Raises RemoteError when it is in another Region."""
    try:
        answer: Mapping[str, Any] = s3.head_bucket(Bucket=bucket)
    except ClientError as error:  # what is wrong with us, and not the bucket, a later request with a body says better
        answer = error.response
    region = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region", s3.meta.region_name)
    if region != s3.meta.region_name:  # boto3 would go there, but the function will not find it
        message = f"bucket {bucket} is in Region {region}, but the configured Region is {s3.meta.region_name}"
        hint = f"Use --region {region}, or choose another bucket with --bucket."
        raise RemoteError("wrong_region", message, hint)
    return int(answer["ResponseMetadata"]["HTTPStatusCode"])


def _taken(bucket: str) -> RemoteError:
    return refusal("BucketAlreadyExists", f"bucket {bucket}")
