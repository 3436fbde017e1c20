"""Check what commands need in AWS: credentials, endpoints, quotas and the bucket. See permissions.py for the permissions."""

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


NEW_ACCOUNT_MB = 3008  # what a new account's functions may be limited to
ALWAYS_UNRESERVED = 100  # https://docs.aws.amazon.com/lambda/latest/dg/configuration-concurrency.html


def check_identity(sts: STSClient) -> Iterator[Finding]:
    """Say who asks, and where. Raises MlinferError."""
    with explained("the identity of these credentials"):
        identity = sts.get_caller_identity()
    where = f"account {identity['Account']}, Region {sts.meta.region_name}"
    yield Finding("credentials", "ok", f"{identity['Arn']}, {where}")


def check_endpoints(clients: list[Any]) -> Iterator[Finding]:
    """Name the services that boto3 is told to look for elsewhere than at AWS, by their host alone."""
    moved: dict[str, list[str]] = {}
    for client in clients:
        if not is_aws(client):
            host = urlsplit(client.meta.endpoint_url).hostname or ""
            moved.setdefault(host, []).append(client.meta.service_model.service_name)
    for host, services in moved.items():
        remedy = "Is that meant? It comes from AWS_ENDPOINT_URL... or the profile's endpoint_url."
        yield Finding("endpoints", "warning", f"{', '.join(services)} at {host}, not at AWS", remedy)
    if not moved:
        yield Finding("endpoints", "ok", "AWS's own")


def check_quotas(functions: LambdaClient, config: Config) -> Iterator[Finding]:
    """Compare what the account may have with the configuration. What it may not ask is not known."""
    try:
        with explained("the account's quotas", "lambda:GetAccountSettings"):
            limits = functions.get_account_settings()["AccountLimit"]
    except MlinferError as error:
        if error.code in OF_CREDENTIALS:
            raise
        yield Finding("quotas", "warning", f"not known: {error}", error.hint)
        return
    total, free = int(limits["ConcurrentExecutions"]), int(limits["UnreservedConcurrentExecutions"])
    said = f"concurrency {total:,}, of which {free:,} are not reserved"
    kept = min(ALWAYS_UNRESERVED, total)
    remedy = "Ask for more in AWS's Service Quotas console, or lower concurrency in mlinfer.toml."
    if config.concurrency and config.concurrency > free - kept:
        wanted = f"; {config.concurrency:,} are to be reserved, and {kept} must stay free"
        yield Finding("quotas", "warning", said + wanted, remedy)
    else:
        yield Finding("quotas", "ok", said)
    if config.memory > NEW_ACCOUNT_MB:
        said = f"a new account may be limited to {NEW_ACCOUNT_MB:,} MB; AWS tells only when the function is made"
        yield Finding("quotas", "warning", f"memory {config.memory:,} MB: {said}", "Ask AWS's support to lift it.")


def check_bucket(make_client: Callable[[str], Any], config: Config) -> Iterator[Finding]:
    """Look whether the bucket of the models is there, and in the function's Region. Raises MlinferError."""
    if not config.bucket:
        needed = config.model_source == "s3"
        remedy = 'Set bucket in mlinfer.toml, or model_source = "image".' if needed else ""
        yield Finding("bucket", "missing" if needed else "ok", f'none; model_source is "{config.model_source}"', remedy)
        return
    s3, name = make_client("s3"), f"s3://{config.bucket}"
    try:
        with explained(name, "s3:ListBucket on the bucket"):
            try:
                answer = s3.head_bucket(Bucket=config.bucket)
            except ClientError as error:
                if error_code(error) == "404":
                    remedy = f"Make it: mlinfer upload --bucket {config.bucket} --create-bucket"
                    yield Finding("bucket", "missing", f"there is no {name}", remedy)
                    return
                raise
    except MlinferError as error:
        yield Finding("bucket", "missing", str(error), error.hint)
        return
    region = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region", s3.meta.region_name)
    if region != s3.meta.region_name:
        remedy = f"Work in {region} (--region, AWS_DEFAULT_REGION), or use a bucket of {s3.meta.region_name}."
        yield Finding("bucket", "missing", f"{name} is in {region}, the function in {s3.meta.region_name}", remedy)
    else:
        yield Finding("bucket", "ok", f"{name}, {region}")
