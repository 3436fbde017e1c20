"""Find the credentials that Lambda gives the function.

They are in the environment, or, for a function with SnapStart, at an address that the environment names:
https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping

from ..errors import FaultError

_CONTAINER_HOST = "http://169.254.170.2"  # for AWS_CONTAINER_CREDENTIALS_RELATIVE_URI, used by ECS
_RENEW_S = 300  # before they expire
_PLAIN_HOSTS = {"localhost", "127.0.0.1", "::1", "169.254.170.2", "169.254.170.23", "fd00:ec2::23"}  # may use HTTP


class CredentialsError(FaultError):
    """The function has no AWS credentials."""


class Credentials:
    """An access key. token: the session token, "" for a permanent key."""

    __slots__ = ("access_key", "secret_key", "token")

    def __init__(self, access_key: str, secret_key: str, token: str = "") -> None:
        self.access_key = access_key
        self.secret_key = secret_key
        self.token = token


_lock = threading.Lock()
_fetched: dict[str, tuple[str, Credentials]] = {}  # by address, with the time at which they expire


def find_credentials() -> Credentials:
    """Return the credentials of the environment. Raises CredentialsError."""
    env = os.environ
    access_key, secret_key = env.get("AWS_ACCESS_KEY_ID"), env.get("AWS_SECRET_ACCESS_KEY")
    if access_key and secret_key:
        return Credentials(access_key, secret_key, env.get("AWS_SESSION_TOKEN", ""))
    address = env.get("AWS_CONTAINER_CREDENTIALS_FULL_URI", "")
    if relative := env.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):
        address = _CONTAINER_HOST + relative
    if not address:
        raise CredentialsError("no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    with _lock:
        if address not in _fetched or _fetched[address][0] <= _utc(_RENEW_S):
            _fetched[address] = _fetch(address, env)
        return _fetched[address][1]


def _fetch(address: str, env: Mapping[str, str]) -> tuple[str, Credentials]:
    import json

    from .connection import Url, request  # imported here because Lambda without SnapStart does not need it

    try:
        url = Url(address)
        token = env.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", "")
        if path := env.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"):
            with open(path, encoding="utf-8") as file:
                token = file.read().strip()
    except (OSError, ValueError) as error:
        raise CredentialsError(
            f"invalid value in AWS_CONTAINER_CREDENTIALS_FULL_URI or AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: {error}"
        ) from error
    if url.scheme != "https" and url.host not in _PLAIN_HOSTS:
        raise CredentialsError(f"AWS_CONTAINER_CREDENTIALS_FULL_URI must use HTTPS or a local address, got {address}")
    headers = {"host": url.netloc, "accept": "application/json"} | ({"authorization": token} if token else {})
    try:
        response = request("GET", url, url.path or "/", headers, proxied=False)
        body = response.read_all()
    except OSError as error:
        raise CredentialsError(f"cannot fetch AWS credentials from {address}: {error}") from error
    try:
        found = json.loads(body)
        if response.status != 200:
            raise ValueError
        credentials = Credentials(found["AccessKeyId"], found["SecretAccessKey"], found.get("Token") or "")
        expires = str(found.get("Expiration") or "9999")
    except (ValueError, KeyError, TypeError) as error:
        raise CredentialsError(f"cannot read AWS credentials from {address}: status {response.status}") from error
    return expires, credentials


def _utc(seconds: float) -> str:
    """Return the time in some seconds, in the format of Expiration, so that the two can be compared as text."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
