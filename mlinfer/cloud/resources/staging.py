"""The staging prefix: images too large for a request are uploaded there, and expire after a day."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...clients.aws_errors import explained, none_if_absent
from ...names import Names
from ..plan import Change, Document, compare

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


DAYS = 1  # the shortest that S3 allows

_PERMISSIONS = "s3:GetLifecycleConfiguration and s3:PutLifecycleConfiguration on the bucket"


def read_expiry(s3: S3Client, bucket: str) -> list[dict[str, Any]]:
    """Return the bucket's lifecycle rules; [] if the bucket does not exist. Raises RemoteError."""
    with explained(f"bucket {bucket}", _PERMISSIONS):
        return read_rules(s3, bucket)[0]


def plan_expiry(rules: list[dict[str, Any]], names: Names) -> Change:
    """Return the change that lets objects under the staging prefix expire. rules: the bucket's lifecycle rules."""
    rule = expiry_rule(names)
    there = next((held for held in rules if held["ID"] == rule["ID"]), None)
    return compare("staging", there, rule, detail=f"objects under {names.staging_prefix} expire after 1 day")


def apply_expiry(s3: S3Client, bucket: str, names: Names) -> Change:
    """Let objects under the staging prefix expire, and keep the bucket's other rules. Raises RemoteError."""
    with explained(f"bucket {bucket}", _PERMISSIONS):
        rules, more = read_rules(s3, bucket)
        change = plan_expiry(rules, names)
        if change.outcome != "unchanged":
            rule = expiry_rule(names)
            write_rules(s3, bucket, rules=[*(held for held in rules if held["ID"] != rule["ID"]), rule], more=more)
    return change


def remove_expiry(s3: S3Client, bucket: str, names: Names) -> None:
    """Delete our lifecycle rule, and keep the others. Raises ClientError."""
    rules, more = read_rules(s3, bucket)
    kept = [held for held in rules if held["ID"] != expiry_rule(names)["ID"]]
    if kept:
        write_rules(s3, bucket, rules=kept, more=more)
    elif rules:
        s3.delete_bucket_lifecycle(Bucket=bucket)


def expiry_rule(names: Names) -> Document:
    """Return the lifecycle rule, which also deletes older versions of the objects."""
    rule = {"ID": f"mlinfer-staging-{names.project}", "Status": "Enabled", "Filter": {"Prefix": names.staging_prefix}}
    return rule | {"Expiration": {"Days": DAYS}, "NoncurrentVersionExpiration": {"NoncurrentDays": DAYS}}


def projects_with_expiry(rules: list[dict[str, Any]]) -> set[str]:
    """Return the projects that use the bucket, found by their lifecycle rules."""
    begin = expiry_rule(Names(""))["ID"]
    return {rule["ID"].removeprefix(begin) for rule in rules if rule["ID"].startswith(begin)}


def read_rules(s3: S3Client, bucket: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the bucket's lifecycle rules, and the other settings that must be written with them. Raises ClientError."""
    found: Mapping[str, Any] = none_if_absent(lambda: s3.get_bucket_lifecycle_configuration(Bucket=bucket)) or {}
    more = {name: found[name] for name in ("TransitionDefaultMinimumObjectSize",) if name in found}
    return found.get("Rules", []), more


def write_rules(s3: S3Client, bucket: str, *, rules: list[dict[str, Any]], more: dict[str, Any]) -> None:
    """Replace all lifecycle rules; S3 cannot change a single one. Raises ClientError."""
    modern: list[Any] = [_modern(rule) for rule in rules]
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": modern}, **more)


def _modern(rule: dict[str, Any]) -> dict[str, Any]:
    """Return the rule in the new format, because S3 does not accept old and new rules together."""
    if "Prefix" not in rule:
        return rule
    return {name: value for name, value in rule.items() if name != "Prefix"} | {"Filter": {"Prefix": rule["Prefix"]}}
