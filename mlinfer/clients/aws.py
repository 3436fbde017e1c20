"""Create the AWS clients of a command. No other module creates any.

Credentials, profile, Region and endpoint follow boto3's rules. mlinfer stores none of them.
"""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, overload
from urllib.parse import urlsplit

import boto3
from botocore import exceptions as boto
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.httpsession import URLLib3Session
from botocore.regions import EndpointResolver
from botocore.session import Session as CoreSession
from botocore.session import get_session
from botocore.utils import get_environ_proxies

from ..errors import MissingError, MlinferError, RemoteError, UsageError
from ..names import Account
from .aws_errors import (
    EXPIRED_LOGIN,
    explain_botocore_error,
    explain_client_error,
    explained,
    explained_setup,
    no_region,
)

if TYPE_CHECKING:
    from botocore.client import BaseClient
    from mypy_boto3_ecr import ECRClient
    from mypy_boto3_iam import IAMClient
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sts import STSClient

# Asks for a code without echoing it and returns it; "" if there is no terminal.
Ask = Callable[[str], str]
# Sends a body to a function URL by POST and returns the status and body of the response. Raises BotoCoreError.
UrlCaller = Callable[[bytes], tuple[int, bytes]]

MAX_CONNECTIONS = 64  # per client: the most images that `predict --jobs` sends at once
CONNECT_TIMEOUT_S = 10  # with botocore's 60 s per attempt, a wrong address looks like a slow one


class Session:
    """The credentials, Region and endpoints of one command. It is thread-safe.

    Credentials are resolved once, when the first client is created. This can run a program, assume a role or ask for an
    MFA code.
    """

    def __init__(self, *, region: str | None, profile: str | None, ask: Ask, needs_region: bool = False) -> None:
        """Set up boto3; with None it chooses Region and profile itself. Raises MlinferError."""
        self._lock = threading.Lock()
        self._found: Credentials | MlinferError | None = None
        self._has_looked = False
        self._ask = ask
        self._has_asked = False
        with explained_setup():
            self._core = CoreSession()
            self._session = boto3.Session(region_name=region, profile_name=profile, botocore_session=self._core)
            # boto3 has no public option for this; its own prompt reads stdin without a terminal and repeats after an hour.
            self._core.get_component("credential_provider").get_provider("assume-role")._prompter = self._mfa_code
        if needs_region:
            self.require_region()

    def is_set_up(self) -> bool:
        """Return whether a Region or credentials are configured. Raises MlinferError."""
        return bool(self._session.region_name) or self._credentials() is not None

    @property
    def asks(self) -> bool:
        """Return whether the profile needs an MFA code."""
        with explained_setup():
            return "mfa_serial" in self._core.get_scoped_config()

    def require_region(self) -> None:
        """Raise MissingError if no Region is set."""
        if not self._session.region_name:
            raise no_region()

    def require_credentials(self) -> Credentials:
        """Return the credentials without checking them with AWS. Raises MlinferError if there are none."""
        found = self._credentials()
        if found is None:
            raise explain_botocore_error(boto.NoCredentialsError(), "AWS")
        return found

    def _credentials(self) -> Credentials | None:
        with self._lock:
            if not self._has_looked:
                try:
                    with explained_setup(), self._login_explained():
                        found: Credentials | None = self._session.get_credentials()
                        if found:
                            found.get_frozen_credentials()  # assumes the role and reads the login
                        self._found = found
                except MlinferError as error:
                    self._found = error
                self._has_looked = True
        if isinstance(self._found, MlinferError):
            raise self._found
        return self._found

    def _mfa_code(self, question: str) -> str:
        """Ask for the code of the profile's MFA device, once per command. Raises MissingError, RemoteError."""
        if self._has_asked:
            message = "the temporary credentials from the MFA code have expired"
            raise RemoteError("expired_credentials", message, "Run the command again and enter a new MFA code.")
        self._has_asked = True
        code = self._ask(question)
        if not code:
            message = f"profile {self._session.profile_name} needs an MFA code, but there is no terminal to enter it"
            command = f'eval "$(aws configure export-credentials{self._profile_words()} --format env)"'
            hint = f"Run `{command}` in a terminal first, then this command without --profile."
            raise MissingError("mfa_needed", message, hint)
        return code

    @contextmanager
    def _login_explained(self) -> Iterator[None]:
        """Turn errors of credential providers into errors with the command to run. Raises MlinferError."""
        profile, words = self._session.profile_name, self._profile_words()
        show = f"Check where the credentials come from with `aws configure list{words}`."
        if "credential_process" in self._core.get_scoped_config():
            show = f"Run the program that `aws configure get credential_process{words}` prints and fix its error."
        try:
            yield
        except boto.ClientError as error:
            raise explain_client_error(error, f"credentials of profile {profile}", "") from error
        except boto.MissingDependencyException:
            message = (
                f"profile {profile} was created by `aws login` and needs the library awscrt, which is not installed"
            )
            raise MissingError("missing_library", message, 'Install it with `pip install "botocore[crt]"`.') from None
        except EXPIRED_LOGIN as error:
            login = "aws login" if isinstance(error, boto.LoginError) else "aws sso login"
            message = f"profile {profile}: not logged in to AWS, or the login has expired"
            raise RemoteError("expired_credentials", message, f"Log in with `{login}{words}`.") from None
        except boto.CredentialRetrievalError as error:
            if error.kwargs.get("provider") != "custom-process":
                raise
            raise MissingError(
                "no_credentials", str(explain_botocore_error(error, f"profile {profile}")), show
            ) from None
        except json.JSONDecodeError:
            message = f"profile {profile}: the output of its credential_process is not JSON"
            raise MissingError("no_credentials", message, show) from None
        except OSError as error:
            message = f"profile {profile}: cannot run or read {error.filename}"
            raise MissingError("no_credentials", message, show, reason=error.strerror) from error

    def _profile_words(self) -> str:
        """Return the --profile option for an AWS CLI command, "" for the default profile."""
        name = self._session.profile_name
        return "" if name == "default" else f" --profile {shlex.quote(name)}"

    @overload
    def client(self, service: Literal["ecr"], *, read_timeout: float | None = None) -> ECRClient: ...
    @overload
    def client(self, service: Literal["iam"], *, read_timeout: float | None = None) -> IAMClient: ...
    @overload
    def client(self, service: Literal["lambda"], *, read_timeout: float | None = None) -> LambdaClient: ...
    @overload
    def client(self, service: Literal["logs"], *, read_timeout: float | None = None) -> CloudWatchLogsClient: ...
    @overload
    def client(self, service: Literal["s3"], *, read_timeout: float | None = None) -> S3Client: ...
    @overload
    def client(self, service: Literal["sts"], *, read_timeout: float | None = None) -> STSClient: ...
    @overload
    def client(self, service: str, *, read_timeout: float | None = None) -> Any: ...
    def client(self, service: str, *, read_timeout: float | None = None) -> Any:
        """Create a client. Raises MlinferError.

        read_timeout: in seconds. It also turns retries off, because a retry would invoke a function twice.
        """
        once: dict[str, Any] = {"retries": {"total_max_attempts": 1}, "max_pool_connections": MAX_CONNECTIONS}
        more = {**once, "read_timeout": read_timeout} if read_timeout else {}
        connect_timeout = min(CONNECT_TIMEOUT_S, read_timeout or CONNECT_TIMEOUT_S)
        self._credentials()
        with explained_setup(), self._lock:
            return self._session.client(service, config=Config(connect_timeout=connect_timeout, **more))

    def url_caller(self, url: str, read_timeout: float) -> UrlCaller:
        """Return a caller of a function URL: it signs requests if there are credentials."""
        credentials = self._credentials()
        with explained_setup():
            certificates = self._core.get_config_variable("ca_bundle")
        timeout: Any = (CONNECT_TIMEOUT_S, read_timeout)  # botocore takes both, and its stubs one
        http = URLLib3Session(
            verify=certificates or True,
            proxies=get_environ_proxies(url),
            timeout=timeout,
            max_pool_connections=MAX_CONNECTIONS,
        )

        def call(body: bytes) -> tuple[int, bytes]:
            request = AWSRequest("POST", url, {"Content-Type": "application/json"}, body)
            if credentials:
                SigV4Auth(credentials, "lambda", self._session.region_name).add_auth(request)
            answer = http.send(request.prepare())
            return int(answer.status_code), bytes(answer.content)

        return call


def make_client(service: str, *, region: str | None, profile: str | None, ask: Ask) -> Any:
    """Create a client for a command that uses only one and needs a Region. Raises MlinferError."""
    return Session(region=region, profile=profile, ask=ask, needs_region=True).client(service)


def find_region() -> str:
    """Return the Region that boto3 finds, "" if none is set. Raises MlinferError."""
    with explained_setup():
        return boto3.Session().region_name or ""


def find_account(sts: STSClient) -> Account:
    """Return the account of the credentials, its partition and the Region. Raises MlinferError."""
    with explained("AWS account"):
        arn = str(sts.get_caller_identity()["Arn"])
    _, partition, _, _, number, _ = arn.split(":", 5)
    return Account(number, sts.meta.region_name, partition)


def make_emulator_client(url: str, read_timeout: float) -> LambdaClient:
    """Create a Lambda client for the emulator at `url`, with dummy credentials and without retries.

    A retry would run the function again.
    """
    config = Config(read_timeout=read_timeout, connect_timeout=CONNECT_TIMEOUT_S, retries={"total_max_attempts": 1})
    session = boto3.Session(aws_access_key_id="local", aws_secret_access_key="local", region_name="us-east-1")  # noqa: S106
    client: LambdaClient = session.client("lambda", endpoint_url=url, config=config)
    return client


def partition_of(region: str) -> str:
    """Return the partition of a Region, such as aws-cn or aws-us-gov; "aws" for an unknown Region."""
    try:
        return str(_endpoints().get_partition_for_region(region))
    except boto.UnknownRegionError:
        return "aws"


def is_aws(client: BaseClient) -> bool:
    """Return whether a client's endpoint is AWS itself, judged by the DNS suffix of its partition."""
    resolver, host = _endpoints(), urlsplit(client.meta.endpoint_url).hostname or ""
    suffixes = [resolver.get_partition_dns_suffix(client.meta.partition, variant) for variant in ([], ["dualstack"])]
    return any(host.endswith(f".{suffix}") for suffix in suffixes)


def s3_endpoint(region: str) -> str:
    """Return the S3 endpoint of a Region outside amazonaws.com; "" for others, which the handler's S3 client knows."""
    host = str((_endpoints().construct_endpoint("s3", region) or {}).get("hostname", ""))
    return "" if not host or host.endswith(".amazonaws.com") else f"https://{host}"


@cache
def _endpoints() -> EndpointResolver:
    """Return botocore's table of partitions, Regions and host names."""
    return EndpointResolver(get_session().get_data("endpoints"))


def container_environment(*, region: str | None, profile: str | None, ask: Ask) -> dict[str, str]:
    """Return credentials, Region and S3 endpoint as environment variables for a local container. Raises MlinferError."""
    found_here = Session(region=region, profile=profile, ask=ask)
    frozen, session = found_here.require_credentials().get_frozen_credentials(), found_here._session
    with explained_setup():
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
        hint = "Set AWS_ENDPOINT_URL to an address of this machine that containers can reach."
        message = f"the AWS endpoint {host} is a loopback address, which a container cannot reach"
        raise UsageError("invalid_aws_setting", message, hint)
    found["AWS_ENDPOINT_URL_S3"] = endpoint
    return {name: value for name, value in found.items() if value}


def encryption(kms_key: str) -> dict[str, Any]:
    """Return the encryption parameters for storing an object; kms_key "" means the bucket's default."""
    return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key} if kms_key else {}
