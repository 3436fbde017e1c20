"""Check credentials, endpoints, quotas and the bucket in AWS. permissions.py checks the permissions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from ..clients.aws import is_aws
from ..clients.aws_errors import error_code, explained
from ..config import Config
from ..errors import MlinferError
from .findings import OF_CREDENTIALS, Finding

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_sts import STSClient


NEW_ACCOUNT_MB = 3008  # the memory limit of functions in some new accounts
ALWAYS_UNRESERVED = 100  # https://docs.aws.amazon.com/lambda/latest/dg/configuration-concurrency.html


def check_identity(sts: STSClient) -> Iterator[Finding]:
    """Report the identity, account and Region of the credentials. Raises MlinferError."""
    with explained("identity of the credentials"):
        identity = sts.get_caller_identity()
    where = f"account {identity['Account']}, Region {sts.meta.region_name}"
    yield Finding("credentials", "ok", f"{identity['Arn']}, {where}")


def check_endpoints(clients: list[Any]) -> Iterator[Finding]:
    """Report services with an endpoint other than AWS. Only the host is shown, because a URL can hold a password."""
    moved: dict[str, list[str]] = {}
    for client in clients:
        if not is_aws(client):
            host = urlsplit(client.meta.endpoint_url).hostname or ""
            moved.setdefault(host, []).append(client.meta.service_model.service_name)
    for host, services in moved.items():
        remedy = "Unset AWS_ENDPOINT_URL or the profile's endpoint_url if this is not intended."
        yield Finding("endpoints", "warning", f"{', '.join(services)} at {host} instead of AWS", remedy)
    if not moved:
        yield Finding("endpoints", "ok", "AWS")


def check_quotas(functions: LambdaClient, config: Config) -> Iterator[Finding]:
    """Compare the account's Lambda quotas with the configuration; a warning if they cannot be read."""
    try:
        with explained("account settings of Lambda", "lambda:GetAccountSettings"):
            limits = functions.get_account_settings()["AccountLimit"]
    except MlinferError as error:
        if error.code in OF_CREDENTIALS:
            raise
        yield Finding("quotas", "warning", f"not checked: {error}", error.hint)
        return
    total, free = int(limits["ConcurrentExecutions"]), int(limits["UnreservedConcurrentExecutions"])
    said = f"concurrency {total:,} ({free:,} unreserved)"
    kept = min(ALWAYS_UNRESERVED, total)
    remedy = "Request an increase in the Service Quotas console, or lower concurrency in mlinfer.toml."
    if config.concurrency and config.concurrency > free - kept:
        wanted = f"too low to reserve {config.concurrency:,} and keep {kept} unreserved"
        yield Finding("quotas", "warning", f"{said} is {wanted}", remedy)
    else:
        yield Finding("quotas", "ok", said)
    if config.memory > NEW_ACCOUNT_MB:
        said = f"memory {config.memory:,} MB may exceed the limit of a new account ({NEW_ACCOUNT_MB:,} MB)"
        remedy = "Ask AWS Support to raise the limit if `mlinfer deploy` fails because of it."
        yield Finding("quotas", "warning", said, remedy)


def check_bucket(make_client: Callable[[str], Any], config: Config) -> Iterator[Finding]:
    """Check that the bucket for models exists in the function's Region. Raises MlinferError."""
    if not config.bucket:
        needed = config.model_source == "s3"
        remedy = 'Set bucket in mlinfer.toml, or model_source = "image".' if needed else ""
        found = "no bucket is set for the model" if needed else 'not needed: model_source is "image"'
        yield Finding("bucket", "missing" if needed else "ok", found, remedy)
        return
    s3, name = make_client("s3"), f"s3://{config.bucket}"
    try:
        with explained(name, "s3:ListBucket on the bucket"):
            try:
                answer = s3.head_bucket(Bucket=config.bucket)
            except ClientError as error:
                if error_code(error) == "404":
                    remedy = f"Create it with `mlinfer upload --bucket {config.bucket} --create-bucket`."
                    yield Finding("bucket", "missing", f"{name} does not exist", remedy)
                    return
                raise
    except MlinferError as error:
        yield Finding("bucket", "missing", str(error), error.hint)
        return
    region = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region", s3.meta.region_name)
    if region != s3.meta.region_name:
        remedy = f"Use --region {region}, or choose a bucket in {s3.meta.region_name}."
        yield Finding("bucket", "missing", f"{name} is in {region}, but the Region is {s3.meta.region_name}", remedy)
    else:
        yield Finding("bucket", "ok", f"{name}, {region}")
