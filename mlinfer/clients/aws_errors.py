"""Turn exceptions of boto3 and botocore into errors with a hint.

Messages never repeat text that could hold a secret: botocore's quotes of endpoint URLs and program output are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from botocore.session import get_session

from ..errors import MissingError, MlinferError, RemoteError, UsageError

T = TypeVar("T")


class _Refusal(NamedTuple):
    """The message for one kind of AWS error. answers: the services' codes for it, or the HTTP status of a HEAD request."""

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
        "Log in again, for example with `aws sso login`.",
    ),
    _Refusal(
        "invalid_credentials",
        "InvalidAccessKeyId InvalidClientTokenId InvalidToken SignatureDoesNotMatch UnrecognizedClientException AuthFailure",
        "AWS does not accept these credentials",
        "Check where they come from with `aws configure list`.",
    ),
    _Refusal(
        "clock_skewed",
        "RequestTimeTooSkewed",
        "the clock of this machine is wrong",
        "Set the clock and try again.",
    ),
    _Refusal(
        "no_such_bucket",
        "NoSuchBucket",
        "the bucket does not exist",
        "Check the name, or create the bucket with --create-bucket.",
    ),
    _Refusal(
        "bucket_taken",
        "BucketAlreadyExists",
        "another AWS account already uses this bucket name",
        "Choose another name with --bucket (bucket names are unique across all of AWS).",
    ),
    _Refusal(
        "invalid_bucket",
        "InvalidBucketName",
        "the bucket name is invalid",
        "Use 3 to 63 lower-case letters, digits, dots and hyphens. Start and end with a letter or digit.",
    ),
    _Refusal(
        "wrong_region",
        "PermanentRedirect AuthorizationHeaderMalformed IllegalLocationConstraintException IncorrectEndpoint 301",
        "the bucket is in another Region",
        "Set the bucket's Region with --region, or choose a bucket in your Region with --bucket.",
    ),
    _Refusal(
        "checksum_mismatch",
        "BadDigest InvalidDigest XAmzContentSHA256Mismatch XAmzContentChecksumMismatch",
        "the upload was rejected because its SHA-256 does not match the file",
        "Try again, and do not change the file during the upload.",
    ),
    _Refusal(
        "throttled",
        "SlowDown Throttling ThrottlingException ThrottledException TooManyRequestsException RequestLimitExceeded "
        "RequestThrottledException 503",
        "AWS throttled the requests, even after several retries",
        "Try again in a minute.",
    ),
    _Refusal(
        "connection_failed",
        "RequestTimeout",
        "the upload timed out",
        "Check the network and try again.",
    ),
    _Refusal(
        "service_failed",
        "InternalError InternalFailure ServiceUnavailable ServiceUnavailableException ServiceException ServiceFailure "
        "ServiceFailureException ServerException 500 502 504",
        "AWS returned an internal error",
        "Try again in a minute. For known problems see https://health.aws.amazon.com.",
    ),
    _Refusal(  # ECR's, STS's and IAM's codes for the same
        "invalid_credentials",
        "InvalidSignatureException IncompleteSignature IncompleteSignatureException MissingAuthenticationToken "
        "MissingAuthenticationTokenException InvalidAccessKeyIdException",
        "AWS does not accept these credentials",
        "Check where they come from with `aws configure list`, and check the clock of this machine.",
    ),
    _Refusal(
        "not_found",
        "ResourceNotFoundException NoSuchEntity RepositoryNotFoundException",
        "it does not exist",
        "Check the Region, or create what is missing with `mlinfer deploy`.",
    ),
    _Refusal(
        "conflict",
        "ResourceConflictException ConcurrentModification OperationAbortedException OperationAborted DeleteConflict "
        "PreconditionFailedException EntityAlreadyExists ResourceAlreadyExistsException ResourceInUseException "
        "RepositoryAlreadyExistsException EntityTemporarilyUnmodifiable",
        "another command is changing it or has just changed it",
        "Wait for the other command to finish, then run this one again to continue.",
    ),
    _Refusal(
        "quota_reached",
        "LimitExceeded LimitExceededException CodeStorageExceededException PolicyLengthExceededException "
        "AliasLimitExceededException ServiceQuotaExceededException",
        "a quota of this AWS account is reached",
        "Request an increase at https://console.aws.amazon.com/servicequotas, or delete what you no longer need.",
    ),
    _Refusal(
        "invalid_value",
        "InvalidParameterValueException InvalidParameterException ValidationException ValidationError "
        "MalformedPolicyDocument InvalidInput KeyTooLongError",
        "AWS rejected a value",
        "Find out where the value comes from with `mlinfer inspect --config`, and correct it there.",
    ),
    _Refusal(
        "key_not_usable",
        "KMSAccessDeniedException KMSDisabledException KMSInvalidStateException KMSNotFoundException",
        "Lambda cannot use the KMS key that encrypts the function's environment",
        "Enable the key in the KMS console, or allow the function's role to use it.",
    ),
    _Refusal(  # S3's codes for the same
        "key_not_usable",
        "KMS.DisabledException KMS.InvalidKeyUsageException KMS.KMSInvalidStateException KMS.NotFoundException "
        "KMS.UnrecognizedClientException",
        "S3 cannot use the KMS key of the bucket or object",
        "Check kms_key in mlinfer.toml: the key must be enabled and in the bucket's Region.",
    ),
    _Refusal(
        "access_denied",
        "AccessDenied AccessDeniedException AllAccessDisabled UnauthorizedOperation UnauthorizedAccess 403",
        "access denied",
        "Ask your AWS administrator for the permissions that `mlinfer doctor --policy` prints.",
    ),
)
_BY_ANSWER = {answer: refusal for refusal in _REFUSALS for answer in refusal.answers.split()}

_TOLD_BY_AWS = {
    "not_found",
    "conflict",
    "quota_reached",
    "invalid_value",
    "key_not_usable",
}  # AWS's message adds detail

_ABSENT = {"404", "NoSuchBucket", "NoSuchEntity", "NoSuchKey", "NoSuchLifecycleConfiguration", "NoSuchTagSet"}
_ABSENT |= {"NoSuchPublicAccessBlockConfiguration"}
_ABSENT |= {"RepositoryNotFoundException", "ResourceNotFoundException"}

_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.NoAuthTokenError,
    boto.MetadataRetrievalError,
)
EXPIRED_LOGIN = (boto.SSOError, boto.TokenRetrievalError, boto.LoginError)
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


@contextmanager
def explained_setup() -> Iterator[None]:
    """Turn exceptions of boto3's setup into MlinferErrors. Raises MissingError, UsageError."""
    try:
        yield
    except boto.BotoCoreError as error:
        raise explain_botocore_error(error, "AWS") from None
    except ValueError as error:  # botocore does not wrap these: a malformed endpoint URL or number
        settings = "AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_S3, AWS_MAX_ATTEMPTS or ~/.aws/config"
        hint = "Write an endpoint like this: http://127.0.0.1:9000"
        raise UsageError("invalid_aws_setting", f"invalid value in {settings}", hint) from error


@contextmanager
def explained(subject: str, permissions: str = "") -> Iterator[None]:
    """Turn exceptions of AWS calls into MlinferErrors about `subject`.

    permissions: the IAM actions that these calls need, for the hint. Raises RemoteError, MissingError, UsageError.
    """
    try:
        yield
    except boto.ClientError as error:
        raise explain_client_error(error, subject, permissions) from error
    except boto.BotoCoreError as error:
        raise explain_botocore_error(error, subject) from None
    except ResponseParserError:  # not a BotoCoreError; it quotes the whole response
        message, hint = f"{subject}: the response is not from AWS", "Check AWS_ENDPOINT_URL and your proxy."
        raise RemoteError("aws_failed", message, hint) from None


def refusal(answer: str, subject: str) -> RemoteError:
    """Return the error for one of the service codes in _REFUSALS."""
    told = _BY_ANSWER[answer]
    return RemoteError(told.code, f"{subject}: {told.reason}", told.hint)


def error_code(error: boto.ClientError) -> str:
    """Return the service's error code; for a HEAD request, which has no body, the HTTP status."""
    return str(error.response.get("Error", {}).get("Code", ""))


def none_if_absent(call: Callable[[], T]) -> T | None:
    """Return the result of the call, or None if the resource does not exist. Raises ClientError."""
    try:
        return call()
    except boto.ClientError as error:
        if error_code(error) in _ABSENT:
            return None
        raise


def is_denied(error: boto.ClientError) -> bool:
    """Return whether a call failed for lack of a permission."""
    told = _BY_ANSWER.get(error_code(error))
    return told is not None and told.code == "access_denied"


def explain_client_error(error: boto.ClientError, subject: str, permissions: str) -> RemoteError:
    """Return the error for a service's error response."""
    answer, said = error_code(error), str(error.response.get("Error", {}).get("Message", ""))
    said = " ".join(said.split()).rstrip(".")  # a proxy sends a page of HTML
    if answer not in _BY_ANSWER:
        hint = f"Look up {answer} in the AWS documentation of {error.operation_name}."
        reason = f"{answer}: {said}" if said else answer
        return RemoteError("aws_refused", f"{subject}: {error.operation_name} failed", hint, reason=reason)
    told = refusal(answer, subject)
    if told.code == "access_denied":
        what = f"{told} ({error.operation_name})"
        reason = "" if said in ("Access Denied", "Forbidden") else said
        if action := re.search(r"\bkms:\w+", said):  # AWS's own reason names the key
            hint = f"Ask your AWS administrator for {action[0]} on the key that kms_key in mlinfer.toml sets."
            return RemoteError(told.code, what, hint, reason=reason)
        owned = " Check that you own the bucket." if "s3:" in permissions else ""
        hint = f"Ask your AWS administrator for {permissions}.{owned}" if permissions else told.hint
        return RemoteError(told.code, what, hint, reason=reason)
    if told.code in _TOLD_BY_AWS and said:
        return RemoteError(told.code, f"{told} ({error.operation_name})", told.hint, reason=said)
    return told


def explain_botocore_error(error: boto.BotoCoreError, subject: str) -> MlinferError:
    """Return the error for an exception that botocore raises without a response of the service."""
    if isinstance(error, boto.NoRegionError):
        return no_region()
    if isinstance(error, EXPIRED_LOGIN):
        message = f"{subject}: not logged in to AWS, or the login has expired"
        return RemoteError("expired_credentials", message, "Log in with `aws sso login`.")
    if isinstance(error, _NO_CREDENTIALS):
        provider = getattr(error, "kwargs", {}).get("provider")
        message = "no AWS credentials found" if provider is None else f"incomplete AWS credentials from {provider}"
        hint = "Set them up with `aws configure` or `aws sso login`, or choose a profile with --profile."
        return MissingError("no_credentials", f"{subject}: {message}", hint)
    if isinstance(error, boto.ParamValidationError):
        reason = " ".join(str(error.kwargs.get("report", "")).split())
        hint = "Find out where the value comes from with `mlinfer inspect --config`, and correct it there."
        return UsageError("invalid_value", f"{subject}: boto3 rejected a value", hint, reason=reason)
    if isinstance(error, _WRONG_SETTING):
        return _wrong_setting(error)
    if told := _wrong_proxy_or_bundle(error):
        return told
    if isinstance(error, _NO_CONNECTION):
        reason, hint = _connection_reason(error)
        return RemoteError("connection_failed", f"{subject}: {reason}", hint)
    return RemoteError("aws_failed", f"{subject}: the request failed", "Try again in a minute.", reason=error)


def _wrong_proxy_or_bundle(error: boto.BotoCoreError) -> UsageError | None:
    """Return the error for a wrong proxy or CA bundle, which botocore notices only when it connects; else None."""
    cause = error.kwargs.get("error")
    if isinstance(error, boto.SSLError) and re.search(r"\[Errno |NO_CERTIFICATE_OR_CRL_FOUND|PEM", str(cause)):
        bundle = get_session().get_config_variable("ca_bundle") or "ca_bundle"
        message = f"cannot load certificates from {bundle}: the file is missing, unreadable or not PEM"
        return UsageError("invalid_aws_setting", message, "Correct AWS_CA_BUNDLE, or ca_bundle in ~/.aws/config.")
    proxy = re.match(r"https?://([a-z0-9]+)://", str(error.kwargs.get("proxy_url", "")))  # botocore prepends http://
    if proxy or (type(error) is boto.HTTPClientError and isinstance(cause, ValueError)):
        message = f"proxy type {proxy[1]} is not supported" if proxy else "the proxy address is invalid"
        return UsageError("invalid_aws_setting", message, "Set HTTPS_PROXY and HTTP_PROXY to http://HOST:PORT.")
    return None


def _connection_reason(error: boto.BotoCoreError) -> tuple[str, str]:
    """Return what failed and what to check. Only the host is named, because an endpoint URL can hold a password."""
    try:
        host = urlsplit(str(getattr(error, "kwargs", {}).get("endpoint_url", ""))).hostname
    except ValueError:
        host = None
    where = f" to {host}" if host else ""
    network = "Check the network, and AWS_ENDPOINT_URL if it is set."
    if isinstance(error, boto.ProxyConnectionError):
        return "cannot connect to the proxy", "Check HTTPS_PROXY and HTTP_PROXY."
    if isinstance(error, boto.SSLError) and "WRONG_VERSION_NUMBER" in str(error.kwargs.get("error")):
        hint = "Write http:// instead of https:// in AWS_ENDPOINT_URL if that service does not use TLS."
        return f"the TLS connection{where} failed: the server does not use TLS", hint
    if isinstance(error, boto.SSLError):
        reason = f"the TLS connection{where} failed: the certificate is not trusted"
        return reason, "Set AWS_CA_BUNDLE to a PEM file with the certificates of your network."
    if isinstance(error, boto.EndpointConnectionError | boto.ConnectTimeoutError):
        return f"cannot connect{where}", network
    return f"the connection{where} failed, even after a retry", network


def no_region() -> MissingError:
    """Return the error for a command that needs a Region when none is set."""
    hint = "Set one with --region, AWS_DEFAULT_REGION or `aws configure`."
    return MissingError("no_region", "no AWS Region is set", hint)


def _wrong_setting(error: Exception) -> UsageError:
    if isinstance(error, boto.EndpointProviderError):  # quotes the URL
        return UsageError("invalid_aws_setting", "the AWS endpoint is not a URL such as http://127.0.0.1:9000")
    hint = "List the profiles with `aws configure list-profiles`." if isinstance(error, boto.ProfileNotFound) else ""
    return UsageError("invalid_aws_setting", str(error).rstrip("."), hint)
