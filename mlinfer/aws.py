"""The one place that makes AWS clients, and that turns what they raise into errors with their remedy.

Credentials, profile, Region and endpoint follow boto3's own rules; nothing of them is kept, and no text that could hold
a secret is repeated: where botocore quotes an endpoint's URL or another program's output, its message is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import boto3
from botocore import exceptions as boto
from botocore.config import Config

from .errors import MissingError, MlinferError, RemoteError, UsageError

Client = Any  # boto3 makes its clients' classes at run time

CONNECT_TIMEOUT_S = 10  # botocore's 60 s, for each attempt, is how long a wrong address would look like a slow one


class _Refusal(NamedTuple):
    """How one kind of AWS error is told. answers: the services' codes for it; of a HEAD request, the HTTP status."""

    code: str
    answers: str
    reason: str
    hint: str


# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html and each service's common errors
_REFUSALS = (
    _Refusal(
        "expired_credentials",
        "ExpiredToken ExpiredTokenException TokenRefreshRequired RequestExpired",
        "the AWS credentials have expired",
        "Get new ones, for example: aws sso login",
    ),
    _Refusal(
        "invalid_credentials",
        "InvalidAccessKeyId InvalidClientTokenId InvalidToken SignatureDoesNotMatch UnrecognizedClientException AuthFailure",
        "AWS does not accept these credentials",
        "See which are in force, and from where: aws configure list",
    ),
    _Refusal(
        "clock_skewed",
        "RequestTimeTooSkewed",
        "the clock of this machine differs too much from that of AWS",
        "Set the clock, and try again.",
    ),
    _Refusal(
        "no_such_bucket",
        "NoSuchBucket",
        "there is no such bucket",
        "Correct the name, or make the bucket with: --create-bucket",
    ),
    _Refusal(
        "bucket_taken",
        "BucketAlreadyExists",
        "the bucket's name belongs to another AWS account",
        "Bucket names are unique in the world: choose another, longer one with --bucket.",
    ),
    _Refusal(
        "invalid_bucket",
        "InvalidBucketName",
        "S3 does not accept the bucket's name",
        "It has 3 to 63 lower-case letters, digits, dots and hyphens, and begins and ends with a letter or digit.",
    ),
    _Refusal(
        "wrong_region",
        "PermanentRedirect AuthorizationHeaderMalformed IllegalLocationConstraintException IncorrectEndpoint 301",
        "the bucket is in another Region",
        "Name the bucket's Region with --region or AWS_DEFAULT_REGION, or a bucket of your Region with --bucket.",
    ),
    _Refusal(
        "checksum_mismatch",
        "BadDigest InvalidDigest XAmzContentSHA256Mismatch XAmzContentChecksumMismatch",
        "what arrived is not the file whose SHA-256 was taken, so it was not stored",
        "Try again when nothing writes to the file; if it stays so, something on the way changes the data.",
    ),
    _Refusal(
        "throttled",
        "SlowDown Throttling ThrottlingException TooManyRequestsException RequestLimitExceeded 503",
        "AWS asks to slow down, and went on asking",
        "Try again in a minute.",
    ),
    _Refusal(
        "connection_failed",
        "RequestTimeout",
        "AWS waited in vain for the rest of what was being sent",
        "Check the network, and that nothing shortens the file meanwhile.",
    ),
    _Refusal(
        "service_failed",
        "InternalError ServiceUnavailable ServiceException 500 502 504",
        "AWS failed, and again when it was asked anew",
        "Try again in a minute; AWS tells of larger troubles at https://health.aws.amazon.com.",
    ),
    _Refusal(  # ECR's, STS's and IAM's words for the same
        "invalid_credentials",
        "InvalidSignatureException IncompleteSignature IncompleteSignatureException MissingAuthenticationToken "
        "MissingAuthenticationTokenException InvalidAccessKeyIdException",
        "AWS does not accept these credentials",
        "See which are in force, and from where: aws configure list. Is the clock of this machine right?",
    ),
    _Refusal(
        "access_denied",
        "AccessDenied AccessDeniedException AllAccessDisabled UnauthorizedOperation UnauthorizedAccess 403",
        "these credentials may not do this",
        "Ask who gave them to you.",
    ),
)
_BY_ANSWER = {answer: refusal for refusal in _REFUSALS for answer in refusal.answers.split()}

_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.NoAuthTokenError,
    boto.MetadataRetrievalError,
)
_EXPIRED_LOGIN = (boto.SSOError, boto.TokenRetrievalError, boto.LoginError)
_NO_CONNECTION = (boto.HTTPClientError, boto.ConnectionError, boto.ResponseStreamingError, boto.IncompleteReadError)
_WRONG_SETTING = (
    boto.ProfileNotFound,
    boto.ConfigParseError,
    boto.ConfigNotFound,
    boto.InvalidConfigError,
    boto.InvalidRegionError,
    boto.InvalidRetryConfigurationError,
    boto.InvalidProxiesConfigError,
    boto.EndpointProviderError,
    boto.UnknownEndpointError,
)


def make_client(
    service: str,
    *,
    region: str | None,
    profile: str | None,
    needs_region: bool = False,
    timeout_s: float | None = None,
) -> Client:
    """Make a client; None leaves the choice to boto3. timeout_s: of each answer, which is then asked for once only.

    Raises MlinferError.
    """
    config = Config(connect_timeout=CONNECT_TIMEOUT_S)
    if timeout_s:
        config = Config(connect_timeout=timeout_s, read_timeout=timeout_s, retries={"total_max_attempts": 1})
    try:
        session = boto3.Session(region_name=region, profile_name=profile)
        if needs_region and not session.region_name:
            raise _no_region()
        return session.client(service, config=config)
    except boto.BotoCoreError as error:
        raise _not_asked(error, "AWS") from None
    except ValueError as error:  # botocore lets these pass as they come: an endpoint's URL, a number in the environment
        settings = "a value of AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_S3, AWS_MAX_ATTEMPTS or ~/.aws/config is malformed"
        hint = "An endpoint is written like this: http://127.0.0.1:9000"
        raise UsageError("invalid_aws_setting", f"boto3 cannot be set up: {settings}", hint) from error


def make_emulator_client(url: str, read_timeout: float) -> Client:
    """Make a Lambda client for the emulator at `url`: no account's, and without retries, which would run the function again."""
    config = Config(read_timeout=read_timeout, connect_timeout=CONNECT_TIMEOUT_S, retries={"total_max_attempts": 1})
    session = boto3.Session(aws_access_key_id="local", aws_secret_access_key="local", region_name="us-east-1")  # noqa: S106
    return session.client("lambda", endpoint_url=url, config=config)


def container_environment(*, region: str | None, profile: str | None) -> dict[str, str]:
    """Return what boto3 finds here as the environment of a local container, as Lambda sets it. Raises MlinferError."""
    try:
        session = boto3.Session(region_name=region, profile_name=profile)
        credentials = session.get_credentials()
        if credentials is None:
            raise boto.NoCredentialsError
        endpoint = session.client("s3", region_name=session.region_name or "us-east-1").meta.endpoint_url
    except boto.BotoCoreError as error:
        raise _not_asked(error, "AWS") from None
    frozen = credentials.get_frozen_credentials()
    found = {
        "AWS_ACCESS_KEY_ID": frozen.access_key,
        "AWS_SECRET_ACCESS_KEY": frozen.secret_key,
        "AWS_SESSION_TOKEN": frozen.token,
        "AWS_REGION": session.region_name,
    }
    host = urlsplit(endpoint).hostname or ""
    if host in ("localhost", "127.0.0.1", "::1"):
        hint = "Let the service listen on an address that containers reach, and name that in AWS_ENDPOINT_URL."
        raise UsageError(
            "invalid_aws_setting", "the AWS endpoint is this machine's loopback, which is not the container's", hint
        )
    if not host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
        found["AWS_ENDPOINT_URL_S3"] = endpoint
    return {name: value for name, value in found.items() if value}


@contextmanager
def explained(subject: str, permissions: str = "") -> Iterator[None]:
    """Turn what an AWS call inside raises into a MlinferError about `subject`.

    permissions: the IAM actions that the calls inside need, for the hint. Raises RemoteError, MissingError, UsageError.
    """
    try:
        yield
    except boto.ClientError as error:
        raise _refused(error, subject, permissions) from error
    except boto.BotoCoreError as error:
        raise _not_asked(error, subject) from None


def refusal(answer: str, subject: str) -> RemoteError:
    """Return the error that tells one of the service's codes, which must be a known one."""
    told = _BY_ANSWER[answer]
    return RemoteError(told.code, f"{subject}: {told.reason}", told.hint)


def error_code(error: boto.ClientError) -> str:
    """Return the service's code for what went wrong; of a HEAD request, which has no body, the HTTP status."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _refused(error: boto.ClientError, subject: str, permissions: str) -> RemoteError:
    """Explain what the service answered."""
    answer, said = error_code(error), str(error.response.get("Error", {}).get("Message", "")).rstrip(".")
    if answer not in _BY_ANSWER:
        message = f"{subject}: AWS refused {error.operation_name}: {answer}: {said}"
        return RemoteError("aws_refused", message, "AWS's documentation of that operation explains the code.")
    told = refusal(answer, subject)
    if told.code == "access_denied":
        detail = f": {said}" if said not in ("", "Access Denied", "Forbidden") else ""
        owned = "; and the bucket must be yours" if "s3:" in permissions else ""
        hint = f"They need {permissions}{owned}." if permissions else told.hint
        return RemoteError(told.code, f"{told} ({error.operation_name}{detail})", hint)
    return told


def _not_asked(error: boto.BotoCoreError, subject: str) -> MlinferError:
    """Explain why the service could not be asked, or its answer not be had."""
    if isinstance(error, boto.NoRegionError):
        return _no_region()
    if isinstance(error, _EXPIRED_LOGIN):
        message = f"{subject}: the AWS login has expired, or there was none"
        return RemoteError("expired_credentials", message, "Log in again: aws sso login")
    if isinstance(error, _NO_CREDENTIALS):
        provider = getattr(error, "kwargs", {}).get("provider")
        message = "there are no AWS credentials" if provider is None else f"{provider} gives no complete credentials"
        hint = "Set them up with aws configure or aws sso login, or name a profile with --profile."
        return MissingError("no_credentials", f"{subject}: {message}", hint)
    if isinstance(error, _WRONG_SETTING):
        return _wrong_setting(error)
    if isinstance(error, _NO_CONNECTION):
        message = f"{subject}: {_connection_reason(error)}"
        return RemoteError("connection_failed", message, "Check the network, and AWS_ENDPOINT_URL if it is set.")
    return RemoteError("aws_failed", f"{subject}: boto3 gave up: {error}")


def _connection_reason(error: boto.BotoCoreError) -> str:
    """Say what broke, naming the host alone: an endpoint's URL can hold a password."""
    try:
        host = urlsplit(str(getattr(error, "kwargs", {}).get("endpoint_url", ""))).hostname
    except ValueError:
        host = None
    where = f" to {host}" if host else ""
    if isinstance(error, boto.ProxyConnectionError):
        return "the proxy cannot be reached"
    if isinstance(error, boto.SSLError):
        return f"the encrypted connection{where} failed: its certificate is not accepted here"
    if isinstance(error, boto.EndpointConnectionError | boto.ConnectTimeoutError):
        return f"no connection{where}"
    return f"the connection{where} broke, and again when it was tried anew"


def _no_region() -> MissingError:
    return MissingError(
        "no_region", "no AWS Region is set", "Name one with --region or AWS_DEFAULT_REGION, or: aws configure"
    )


def _wrong_setting(error: Exception) -> UsageError:
    if isinstance(error, boto.EndpointProviderError):  # quotes the URL
        return UsageError("invalid_aws_setting", "the AWS endpoint is not a URL such as http://127.0.0.1:9000")
    hint = "See the profiles with: aws configure list-profiles" if isinstance(error, boto.ProfileNotFound) else ""
    return UsageError("invalid_aws_setting", str(error).rstrip("."), hint)
