"""The one place that makes AWS clients, and that turns what they raise into errors with their remedy.

Credentials, profile, Region and endpoint follow boto3's own rules; nothing of them is kept, and no text that could hold
a secret is repeated: where botocore quotes an endpoint's URL or another program's output, its message is dropped.
"""

from __future__ import annotations

import json
import re
import shlex
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import boto3
from botocore import exceptions as boto
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.httpsession import URLLib3Session
from botocore.parsers import ResponseParserError
from botocore.regions import EndpointResolver
from botocore.session import Session as CoreSession
from botocore.session import get_session
from botocore.utils import get_environ_proxies

from ..errors import MissingError, MlinferError, RemoteError, UsageError
from ..names import Account

T = TypeVar("T")
Client = Any  # boto3 makes its clients' classes at run time
# Asks for a code that is not shown, and returns it; "" where nobody can be asked.
Ask = Callable[[str], str]
# Sends a body to a function's URL by POST and returns status and body of the answer. Raises BotoCoreError.
UrlCaller = Callable[[bytes], tuple[int, bytes]]

MAX_CONNECTIONS = 64  # of one client: how many pictures `predict --jobs` may ask about at once
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
        "MalformedPolicyDocument InvalidInput",
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


class Session:
    """The credentials, Region and endpoints of one command. Several threads may ask for clients at once.

    Credentials are found when the first client is made, once: a program is run, a role taken, an MFA code asked for.
    """

    def __init__(self, *, region: str | None, profile: str | None, ask: Ask, needs_region: bool = False) -> None:
        """Look for them as boto3 does; None leaves the choice to it. Raises MlinferError."""
        self._lock = threading.Lock()
        self._found: Credentials | MlinferError | None = None
        self._has_looked = False
        self._ask = ask
        self._has_asked = False
        with _set_up():
            self._core = CoreSession()
            self._session = boto3.Session(region_name=region, profile_name=profile, botocore_session=self._core)
            # boto3 has no other way in: its own asks on stdin where there is no terminal, and once more after an hour.
            self._core.get_component("credential_provider").get_provider("assume-role")._prompter = self._mfa_code
        if needs_region:
            self.require_region()

    def is_set_up(self) -> bool:
        """Tell whether a Region or credentials are found here. Raises MlinferError."""
        return bool(self._session.region_name) or self._credentials() is not None

    @property
    def asks(self) -> bool:
        """Tell whether the profile needs an MFA code."""
        with _set_up():
            return "mfa_serial" in self._core.get_scoped_config()

    def require_region(self) -> None:
        """Raise MissingError where no Region is set."""
        if not self._session.region_name:
            raise _no_region()

    def require_credentials(self) -> Credentials:
        """Return the credentials; whether AWS accepts them is not asked. Raises MlinferError where there are none."""
        found = self._credentials()
        if found is None:
            raise _not_asked(boto.NoCredentialsError(), "AWS")
        return found

    def _credentials(self) -> Credentials | None:
        with self._lock:
            if not self._has_looked:
                try:
                    with _set_up(), self._login_explained():
                        found: Credentials | None = self._session.get_credentials()
                        if found:
                            found.get_frozen_credentials()  # here a role is taken, and a login read
                        self._found = found
                except MlinferError as error:
                    self._found = error
                self._has_looked = True
        if isinstance(self._found, MlinferError):
            raise self._found
        return self._found

    def _mfa_code(self, question: str) -> str:
        """Ask for the code of the profile's device, once in a command. Raises MissingError, RemoteError."""
        if self._has_asked:
            message = "the credentials that the MFA code gave have expired"
            raise RemoteError("expired_credentials", message, "Run the command again, with a new code.")
        self._has_asked = True
        code = self._ask(question)
        if not code:
            message = f"profile {self._session.profile_name} needs an MFA code, and no terminal is there to type it in"
            command = f'eval "$(aws configure export-credentials{self._profile_words()} --format env)"'
            raise MissingError("mfa_needed", message, f"In a terminal, then run this without --profile: {command}")
        return code

    @contextmanager
    def _login_explained(self) -> Iterator[None]:
        """Turn what goes wrong while credentials are found into errors with the command to run. Raises MlinferError."""
        profile, words = self._session.profile_name, self._profile_words()
        show = f"See where the credentials come from: aws configure list{words}"
        if "credential_process" in self._core.get_scoped_config():
            show = f"See which program that is, and run it: aws configure get credential_process{words}"
        try:
            yield
        except boto.ClientError as error:
            raise _refused(error, f"the credentials of profile {profile}", "") from error
        except boto.MissingDependencyException:
            message = f"profile {profile} was made by `aws login`, for which the library awscrt is missing"
            raise MissingError("missing_library", message, 'Install it: pip install "botocore[crt]"') from None
        except _EXPIRED_LOGIN as error:
            login = "aws login" if isinstance(error, boto.LoginError) else "aws sso login"
            message = f"profile {profile}: the AWS login has expired, or there was none"
            raise RemoteError("expired_credentials", message, f"Log in again: {login}{words}") from None
        except boto.CredentialRetrievalError as error:
            if error.kwargs.get("provider") != "custom-process":
                raise
            raise MissingError("no_credentials", str(_not_asked(error, f"profile {profile}")), show) from None
        except json.JSONDecodeError:
            message = f"profile {profile}: its credential_process wrote no JSON"
            raise MissingError("no_credentials", message, show) from None
        except OSError as error:
            message = f"profile {profile}: {error.filename} cannot be started or read: {error.strerror}"
            raise MissingError("no_credentials", message, show) from error

    def _profile_words(self) -> str:
        """Return the flag that names the profile in a command of the AWS CLI, "" for the default one."""
        name = self._session.profile_name
        return "" if name == "default" else f" --profile {shlex.quote(name)}"

    def client(self, service: str, *, read_timeout: float | None = None) -> Client:
        """Make a client. Raises MlinferError.

        read_timeout: s, for one whose requests are never repeated: that would invoke a function twice.
        """
        once: dict[str, Any] = {"retries": {"total_max_attempts": 1}, "max_pool_connections": MAX_CONNECTIONS}
        more = {**once, "read_timeout": read_timeout} if read_timeout else {}
        connect_timeout = min(CONNECT_TIMEOUT_S, read_timeout or CONNECT_TIMEOUT_S)
        self._credentials()
        with _set_up(), self._lock:
            return self._session.client(service, config=Config(connect_timeout=connect_timeout, **more))

    def url_caller(self, url: str, read_timeout: float) -> UrlCaller:
        """Return what calls a function's URL with the credentials found here, or unsigned where there are none."""
        credentials = self._credentials()
        with _set_up():
            certificates = self._core.get_config_variable("ca_bundle")
        http = URLLib3Session(
            verify=certificates or True,
            proxies=get_environ_proxies(url),
            timeout=(CONNECT_TIMEOUT_S, read_timeout),
            max_pool_connections=MAX_CONNECTIONS,
        )

        def call(body: bytes) -> tuple[int, bytes]:
            request = AWSRequest("POST", url, {"Content-Type": "application/json"}, body)
            if credentials:
                SigV4Auth(credentials, "lambda", self._session.region_name).add_auth(request)
            answer = http.send(request.prepare())
            return int(answer.status_code), bytes(answer.content)

        return call


def make_client(service: str, *, region: str | None, profile: str | None, ask: Ask) -> Client:
    """Make the only client of a command, which needs a Region. Raises MlinferError."""
    return Session(region=region, profile=profile, ask=ask, needs_region=True).client(service)


@contextmanager
def _set_up() -> Iterator[None]:
    try:
        yield
    except boto.BotoCoreError as error:
        raise _not_asked(error, "AWS") from None
    except ValueError as error:  # botocore lets these pass as they come: an endpoint's URL, a number in the environment
        settings = "a value of AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_S3, AWS_MAX_ATTEMPTS or ~/.aws/config is malformed"
        hint = "An endpoint is written like this: http://127.0.0.1:9000"
        raise UsageError("invalid_aws_setting", f"boto3 cannot be set up: {settings}", hint) from error


def find_account(sts: Client) -> Account:
    """Return whose credentials these are, and the Region in force. Raises MlinferError."""
    with explained("the AWS account"):
        arn = str(sts.get_caller_identity()["Arn"])
    _, partition, _, _, number, _ = arn.split(":", 5)
    return Account(number, sts.meta.region_name, partition)


def make_emulator_client(url: str, read_timeout: float) -> Client:
    """Make a Lambda client for the emulator at `url`: no account's, and without retries, which would run the function again."""
    config = Config(read_timeout=read_timeout, connect_timeout=CONNECT_TIMEOUT_S, retries={"total_max_attempts": 1})
    session = boto3.Session(aws_access_key_id="local", aws_secret_access_key="local", region_name="us-east-1")  # noqa: S106
    return session.client("lambda", endpoint_url=url, config=config)


def partition_of(region: str) -> str:
    """Return the partition that a Region is in: aws-cn, aws-us-gov, aws-eusc, ...; aws for an unknown Region."""
    try:
        return str(_endpoints().get_partition_for_region(region))
    except boto.UnknownRegionError:
        return "aws"


def is_aws(client: Client) -> bool:
    """Tell whether a client asks AWS itself, by how the names of its Region's hosts end."""
    resolver, host = _endpoints(), urlsplit(client.meta.endpoint_url).hostname or ""
    suffixes = [resolver.get_partition_dns_suffix(client.meta.partition, variant) for variant in ([], ["dualstack"])]
    return any(host.endswith(f".{suffix}") for suffix in suffixes)


def s3_endpoint(region: str) -> str:
    """Return S3's address in a Region whose host names do not end as the handler's S3 client assumes; else ""."""
    host = str((_endpoints().construct_endpoint("s3", region) or {}).get("hostname", ""))
    return "" if not host or host.endswith(".amazonaws.com") else f"https://{host}"


@cache
def _endpoints() -> EndpointResolver:
    """Return botocore's table of Regions, partitions and host names."""
    return EndpointResolver(get_session().get_data("endpoints"))


def container_environment(*, region: str | None, profile: str | None, ask: Ask) -> dict[str, str]:
    """Return what boto3 finds here as the environment of a local container, as Lambda sets it. Raises MlinferError."""
    found_here = Session(region=region, profile=profile, ask=ask)
    frozen, session = found_here.require_credentials().get_frozen_credentials(), found_here._session
    with _set_up():
        s3 = session.client("s3", region_name=session.region_name or "us-east-1")
        endpoint = s3.meta.endpoint_url if not is_aws(s3) else s3_endpoint(s3.meta.region_name)
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
    found["AWS_ENDPOINT_URL_S3"] = endpoint
    return {name: value for name, value in found.items() if value}


def encryption(kms_key: str) -> dict[str, str]:
    """Return the parameters of a request that stores an object; with kms_key "" the bucket's default applies."""
    return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key} if kms_key else {}


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


def _refused(error: boto.ClientError, subject: str, permissions: str) -> RemoteError:
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
    return RemoteError("aws_failed", f"{subject}: boto3 gave up: {error}", "Try again in a minute.")


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
    return f"the connection{where} broke, also when it was tried again"


def _no_region() -> MissingError:
    return MissingError(
        "no_region", "no AWS Region is set", "Name one with --region or AWS_DEFAULT_REGION, or: aws configure"
    )


def _wrong_setting(error: Exception) -> UsageError:
    if isinstance(error, boto.EndpointProviderError):  # quotes the URL
        return UsageError("invalid_aws_setting", "the AWS endpoint is not a URL such as http://127.0.0.1:9000")
    hint = "See the profiles with: aws configure list-profiles" if isinstance(error, boto.ProfileNotFound) else ""
    return UsageError("invalid_aws_setting", str(error).rstrip("."), hint)
