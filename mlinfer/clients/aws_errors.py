"""Turn what boto3 and botocore raise into errors with their remedy.

No text that could hold a secret is repeated: where botocore quotes an endpoint's URL or another program's output, its
message is dropped.
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
        "SlowDown Throttling ThrottlingException ThrottledException TooManyRequestsException RequestLimitExceeded "
        "RequestThrottledException 503",
        "AWS refuses so many requests, also after several tries",
        "Try again in a minute.",
    ),
    _Refusal(
        "connection_failed",
        "RequestTimeout",
        "the upload timed out",
        "Check the network, and that nothing shortens the file meanwhile.",
    ),
    _Refusal(
        "service_failed",
        "InternalError InternalFailure ServiceUnavailable ServiceUnavailableException ServiceException ServiceFailure "
        "ServiceFailureException ServerException 500 502 504",
        "AWS failed with an internal error",
        "Try again in a minute. AWS lists known problems at https://health.aws.amazon.com.",
    ),
    _Refusal(  # ECR's, STS's and IAM's words for the same
        "invalid_credentials",
        "InvalidSignatureException IncompleteSignature IncompleteSignatureException MissingAuthenticationToken "
        "MissingAuthenticationTokenException InvalidAccessKeyIdException",
        "AWS does not accept these credentials",
        "See which are in force, and from where: aws configure list. Is the clock of this machine right?",
    ),
    _Refusal(
        "not_found",
        "ResourceNotFoundException NoSuchEntity RepositoryNotFoundException",
        "it is not there, or no longer",
        "See what is, with `mlinfer status`, and that the Region is the right one; `mlinfer deploy` makes what is missing.",
    ),
    _Refusal(
        "conflict",
        "ResourceConflictException ConcurrentModification OperationAbortedException OperationAborted DeleteConflict "
        "PreconditionFailedException EntityAlreadyExists ResourceAlreadyExistsException ResourceInUseException "
        "RepositoryAlreadyExistsException EntityTemporarilyUnmodifiable",
        "something else is changing it, or has changed it meanwhile",
        "Let the other command end, and run this one again: it goes on where this one stopped.",
    ),
    _Refusal(
        "quota_reached",
        "LimitExceeded LimitExceededException CodeStorageExceededException PolicyLengthExceededException "
        "AliasLimitExceededException ServiceQuotaExceededException",
        "a quota of this AWS account is used up",
        "Remove what is no longer needed, or ask for more: https://console.aws.amazon.com/servicequotas.",
    ),
    _Refusal(
        "invalid_value",
        "InvalidParameterValueException InvalidParameterException ValidationException ValidationError "
        "MalformedPolicyDocument InvalidInput KeyTooLongError",
        "AWS does not accept a value",
        "Correct it in mlinfer.toml or by a flag; `mlinfer inspect --config` shows where each value comes from.",
    ),
    _Refusal(
        "key_not_usable",
        "KMSAccessDeniedException KMSDisabledException KMSInvalidStateException KMSNotFoundException",
        "the encryption key of the function's environment cannot be used",
        "Enable the key, or let the function's role use it, in the console of KMS.",
    ),
    _Refusal(  # S3's words for the same
        "key_not_usable",
        "KMS.DisabledException KMS.InvalidKeyUsageException KMS.KMSInvalidStateException KMS.NotFoundException "
        "KMS.UnrecognizedClientException",
        "S3 cannot use the KMS key of the bucket or object",
        "Check kms_key in mlinfer.toml. The key must be enabled, and in the Region of the bucket.",
    ),
    _Refusal(
        "access_denied",
        "AccessDenied AccessDeniedException AllAccessDisabled UnauthorizedOperation UnauthorizedAccess 403",
        "these credentials may not do this",
        "Ask who gave them to you for what `mlinfer doctor --policy` prints.",
    ),
)
_BY_ANSWER = {answer: refusal for refusal in _REFUSALS for answer in refusal.answers.split()}

_TOLD_BY_AWS = {"not_found", "conflict", "quota_reached", "invalid_value", "key_not_usable"}  # it says what and why

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
    """Turn what boto3 raises inside, while it is set up, into a MlinferError. Raises MissingError, UsageError."""
    try:
        yield
    except boto.BotoCoreError as error:
        raise explain_botocore_error(error, "AWS") from None
    except ValueError as error:  # botocore lets these pass as they come: an endpoint's URL, a number in the environment
        settings = "a value of AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_S3, AWS_MAX_ATTEMPTS or ~/.aws/config is malformed"
        hint = "An endpoint is written like this: http://127.0.0.1:9000"
        raise UsageError("invalid_aws_setting", f"boto3 cannot be set up: {settings}", hint) from error


@contextmanager
def explained(subject: str, permissions: str = "") -> Iterator[None]:
    """Turn what an AWS call inside raises into a MlinferError about `subject`.

    permissions: the IAM actions that the calls inside need, for the hint. Raises RemoteError, MissingError, UsageError.
    """
    try:
        yield
    except boto.ClientError as error:
        raise explain_client_error(error, subject, permissions) from error
    except boto.BotoCoreError as error:
        raise explain_botocore_error(error, subject) from None
    except ResponseParserError:  # which is none of botocore's own errors, and quotes the whole answer
        message, hint = f"{subject}: what answered is not AWS", "Check AWS_ENDPOINT_URL, and the proxy if there is one."
        raise RemoteError("aws_failed", message, hint) from None


def refusal(answer: str, subject: str) -> RemoteError:
    """Return the error that tells one of the service's codes, which must be a known one."""
    told = _BY_ANSWER[answer]
    return RemoteError(told.code, f"{subject}: {told.reason}", told.hint)


def error_code(error: boto.ClientError) -> str:
    """Return the service's code for what went wrong; of a HEAD request, which has no body, the HTTP status."""
    return str(error.response.get("Error", {}).get("Code", ""))


def none_if_absent(call: Callable[[], T]) -> T | None:
    """Return the call's answer, or None where the service says that there is no such thing. Raises ClientError."""
    try:
        return call()
    except boto.ClientError as error:
        if error_code(error) in _ABSENT:
            return None
        raise


def is_denied(error: boto.ClientError) -> bool:
    """Tell whether the credentials lack the permission for a call."""
    told = _BY_ANSWER.get(error_code(error))
    return told is not None and told.code == "access_denied"


def explain_client_error(error: boto.ClientError, subject: str, permissions: str) -> RemoteError:
    """Explain what the service answered."""
    answer, said = error_code(error), str(error.response.get("Error", {}).get("Message", "")).rstrip(".")
    if answer not in _BY_ANSWER:
        message = f"{subject}: AWS refused {error.operation_name}: {answer}: {said}"
        return RemoteError("aws_refused", message, "AWS's documentation of that operation explains the code.")
    told = refusal(answer, subject)
    if told.code == "access_denied":
        detail = f": {said}" if said not in ("", "Access Denied", "Forbidden") else ""
        if action := re.search(r"\bkms:\w+", said):  # AWS's own reason names the key
            hint = (
                f"Get the permission {action[0]} on the key. With kms_key set, `mlinfer doctor --policy` includes it."
            )
            return RemoteError(told.code, f"{told} ({error.operation_name}{detail})", hint)
        owned = "; and the bucket must be yours" if "s3:" in permissions else ""
        hint = f"They need {permissions}{owned}." if permissions else told.hint
        return RemoteError(told.code, f"{told} ({error.operation_name}{detail})", hint)
    if told.code in _TOLD_BY_AWS and said:
        return RemoteError(told.code, f"{told} ({error.operation_name}: {said})", told.hint)
    return told


def explain_botocore_error(error: boto.BotoCoreError, subject: str) -> MlinferError:
    """Explain why the service could not be asked, or its answer not be had."""
    if isinstance(error, boto.NoRegionError):
        return no_region()
    if isinstance(error, EXPIRED_LOGIN):
        message = f"{subject}: the AWS login has expired, or there was none"
        return RemoteError("expired_credentials", message, "Log in again: aws sso login")
    if isinstance(error, _NO_CREDENTIALS):
        provider = getattr(error, "kwargs", {}).get("provider")
        message = "there are no AWS credentials" if provider is None else f"{provider} gives no complete credentials"
        hint = "Set them up with aws configure or aws sso login, or name a profile with --profile."
        return MissingError("no_credentials", f"{subject}: {message}", hint)
    if isinstance(error, boto.ParamValidationError):
        reason = " ".join(str(error.kwargs.get("report", "")).split())
        hint = "Correct it in mlinfer.toml or by a flag; `mlinfer inspect --config` shows where each value comes from."
        return UsageError("invalid_value", f"{subject}: boto3 does not accept a value: {reason}", hint)
    if isinstance(error, _WRONG_SETTING):
        return _wrong_setting(error)
    if told := _wrong_proxy_or_bundle(error):
        return told
    if isinstance(error, _NO_CONNECTION):
        reason, hint = _connection_reason(error)
        return RemoteError("connection_failed", f"{subject}: {reason}", hint)
    return RemoteError("aws_failed", f"{subject}: boto3 gave up: {error}", "Try again in a minute.")


def _wrong_proxy_or_bundle(error: boto.BotoCoreError) -> UsageError | None:
    """Return the error for a setting of the environment that botocore meets only when it connects; None for another."""
    cause = error.kwargs.get("error")
    if isinstance(error, boto.SSLError) and re.search(r"\[Errno |NO_CERTIFICATE_OR_CRL_FOUND|PEM", str(cause)):
        bundle = get_session().get_config_variable("ca_bundle") or "the file of ca_bundle"
        message = f"{bundle} does not hold the certificates to trust: it is missing, unreadable or not PEM"
        return UsageError("invalid_aws_setting", message, "Correct AWS_CA_BUNDLE, or ca_bundle in ~/.aws/config.")
    proxy = re.match(r"https?://([a-z0-9]+)://", str(error.kwargs.get("proxy_url", "")))  # botocore puts its own before
    if proxy or (type(error) is boto.HTTPClientError and isinstance(cause, ValueError)):
        message = f"the proxy is one for {proxy[1]}" if proxy else "the address of the proxy is malformed"
        return UsageError(
            "invalid_aws_setting", message, "Write HTTPS_PROXY and HTTP_PROXY like this: http://HOST:PORT"
        )
    return None


def _connection_reason(error: boto.BotoCoreError) -> tuple[str, str]:
    """Return what broke and what to check, naming the host alone: an endpoint's URL can hold a password."""
    try:
        host = urlsplit(str(getattr(error, "kwargs", {}).get("endpoint_url", ""))).hostname
    except ValueError:
        host = None
    where = f" to {host}" if host else ""
    network = "Check the network, and AWS_ENDPOINT_URL if it is set."
    if isinstance(error, boto.ProxyConnectionError):
        return "the proxy cannot be reached", "Check HTTPS_PROXY and HTTP_PROXY."
    if isinstance(error, boto.SSLError) and "WRONG_VERSION_NUMBER" in str(error.kwargs.get("error")):
        hint = "If that service has no encryption, write http:// in AWS_ENDPOINT_URL."
        return f"what answers the encrypted connection{where} does not encrypt", hint
    if isinstance(error, boto.SSLError):
        reason = f"the encrypted connection{where} failed: its certificate is not accepted here"
        return reason, "Name the certificates that your network needs in AWS_CA_BUNDLE: a PEM file."
    if isinstance(error, boto.EndpointConnectionError | boto.ConnectTimeoutError):
        return f"no connection{where}", network
    return f"the connection{where} broke, also when it was tried again", network


def no_region() -> MissingError:
    """Return the error of a command that needs a Region."""
    return MissingError(
        "no_region", "no AWS Region is set", "Name one with --region or AWS_DEFAULT_REGION, or: aws configure"
    )


def _wrong_setting(error: Exception) -> UsageError:
    if isinstance(error, boto.EndpointProviderError):  # quotes the URL
        return UsageError("invalid_aws_setting", "the AWS endpoint is not a URL such as http://127.0.0.1:9000")
    hint = "See the profiles with: aws configure list-profiles" if isinstance(error, boto.ProfileNotFound) else ""
    return UsageError("invalid_aws_setting", str(error).rstrip("."), hint)
