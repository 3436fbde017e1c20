"""Read manifests and blobs from a registry over its HTTP API, with the token that the push uses.

`docker pull` reads the same way, so this shows what Lambda will get.
https://distribution.github.io/distribution/spec/api/
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast
from urllib.parse import urlencode, urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from ..clients.aws_errors import explained
from ..clients.loopback import is_loopback
from ..errors import RemoteError, VerificationError
from .manifest import IMAGE_TYPES, INDEX_TYPES, Manifest, RemoteImage, check_manifest, check_platform, find_child

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient


_TIMEOUTS_S = (10, 60)  # to connect, to read
_TRIES = 3  # connections for one blob
_CHUNK = 2**20


@dataclass(frozen=True)
class Login:
    """The credentials of a registry. The password is left out of repr()."""

    username: str
    password: str = field(repr=False)


def log_in(ecr: ECRClient) -> Login:
    """Get a registry token, which is valid for twelve hours. Raises RemoteError, MissingError, UsageError."""
    with explained("login to the ECR registry", "ecr:GetAuthorizationToken"):
        token = ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    username, _, password = base64.b64decode(token).decode().partition(":")
    return Login(username, password)


class EcrRepository:
    """A repository in ECR, and the token of its registry. uri: HOST/NAME. Every method raises MlinferError."""

    def __init__(self, ecr: ECRClient, uri: str) -> None:
        self.ecr = ecr
        self.uri = uri
        self._login: Login | None = None

    @property
    def name(self) -> str:
        """Return the name without the registry's host."""
        return self.uri.partition("/")[2]

    @property
    def login(self) -> Login:
        """Return the registry token."""
        self._login = self._login or log_in(self.ecr)
        return self._login

    def renew_login(self) -> None:
        """Get another registry token, because this one has expired."""
        self._login = None

    def open(self) -> Registry:
        """Open it for reading, with the protocol of the ECR endpoint: HTTPS, except for an emulated AWS."""
        host, _, name = self.uri.partition("/")
        return Registry(f"{urlsplit(self.ecr.meta.endpoint_url).scheme}://{host}/v2/{name}", self.login)


def open_public_registry(repository: str, ca_bundle: Path | None = None) -> Registry:
    """Open a repository without a login. HTTPS is used except on loopback, as the Docker Engine does.

    ca_bundle: certificates to trust besides those of requests.
    """
    host, _, name = repository.partition("/")
    if not (name and ("." in host or ":" in host or host == "localhost")):  # a name on Docker Hub
        host, name = "registry-1.docker.io", repository if name else f"library/{repository}"
    scheme = "http" if is_loopback(host.partition(":")[0]) else "https"
    return Registry(f"{scheme}://{host}/v2/{name}", None, ca_bundle)


class Registry:
    """One repository of a registry, opened for reading. url: https://HOST/v2/NAME. Every method raises RemoteError.

    login None: ask for the anonymous token that a public registry gives.
    https://distribution.github.io/distribution/spec/auth/token/
    """

    def __init__(self, url: str, login: Login | None, ca_bundle: Path | None = None) -> None:
        self._url = url
        self._host = url.split("/")[2]
        self._login = login
        self._ca_bundle = ca_bundle
        self._token = ""

    def find_image(self, reference: str, arch: str) -> RemoteImage | None:
        """Return the container image of a tag or digest, or None. From an index it returns the image for `arch`.

        Raises VerificationError for an image that Lambda rejects or that has another architecture.
        """
        top = self.find_manifest(reference)
        if top is None:
            return None
        try:
            manifest = self._resolve(top, arch)
            check_manifest(manifest)
            config, layers = str(manifest.content["config"]["digest"]), manifest.content["layers"]
            check_platform(json.loads(self.read_blob(config)), arch)
            size = sum(int(layer["size"]) for layer in layers)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise VerificationError("unsupported_manifest", f"{reference} is not a container image") from error
        return RemoteImage(manifest.digest, arch, frozenset({top.digest, manifest.digest, config}), size)

    def _resolve(self, top: Manifest, arch: str) -> Manifest:
        """Return the manifest itself, or from an index the manifest for an architecture."""
        if top.media_type not in INDEX_TYPES:
            return top
        digest = find_child(top, arch)
        manifest = self.find_manifest(digest)
        if manifest is None:
            message = f"the image index lists {digest}, which does not exist in the registry"
            raise VerificationError("unsupported_manifest", message)
        return manifest

    def find_manifest(self, reference: str) -> Manifest | None:
        """Return the manifest or index of a tag or digest, or None."""
        response = self._get(f"manifests/{reference}")
        if response is None:
            return None
        digest = _digest(response.content)
        if reference.startswith("sha256:") and digest != reference:
            raise _altered(reference)
        try:
            content = json.loads(response.content)
            media_type = content.get("mediaType") or response.headers.get("Content-Type", "").partition(";")[0]
        except (ValueError, AttributeError) as error:
            message = f"{self._host} is not a container registry"
            raise RemoteError("registry_failed", message, "Check whether a proxy answers in its place.") from error
        return Manifest(digest, media_type, content, bytes(response.content))

    def read_blob(self, digest: str) -> bytes:
        """Return the blob with this digest."""
        response = self._get(f"blobs/{digest}")
        if response is None or _digest(response.content) != digest:
            raise _altered(digest)
        return bytes(response.content)

    @contextmanager
    def open_blob(self, digest: str) -> Iterator[IO[bytes]]:
        """Yield a blob as a stream. Reading it to its end raises RemoteError if its content has another digest."""
        with closing(_BlobStream(self._stream_blob, digest, self._host)) as stream:
            yield cast("IO[bytes]", stream)

    def _stream_blob(self, digest: str, start: int) -> requests.Response:
        """Return the response with a blob from a position on."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        response = self._get(f"blobs/{digest}", stream=True, headers=headers)
        if response is None or (start and response.status_code != 206):
            raise _altered(digest)
        return response

    def _get(
        self, path: str, *, stream: bool = False, headers: Mapping[str, str] | None = None
    ) -> requests.Response | None:
        """Send a GET request; return None for status 404. requests drops the token on ECR's redirect to S3."""
        response = self._send(path, stream=stream, headers=headers or {})
        if response.status_code == 401 and self._login is None:  # no token yet, or it has expired
            self._token = self._ask_for_token(response)
            response = self._send(path, stream=stream, headers=headers or {})
        if response.status_code == 404:
            return None
        if response.status_code in (401, 403):
            hint = "Ask your AWS administrator for ecr:BatchGetImage and ecr:GetDownloadUrlForLayer on the repository."
            message = f"the registry {self._host} denied access"
            raise RemoteError("access_denied", message, hint, reason=_said(response))
        if response.status_code == 429:
            raise _throttled(self._host, response)
        if not response.ok:
            message = f"the registry {self._host} returned an error"
            raise RemoteError("registry_failed", message, "Try again.", reason=_said(response))
        return response

    def _send(self, path: str, *, stream: bool, headers: Mapping[str, str]) -> requests.Response:
        accept = ", ".join(IMAGE_TYPES + INDEX_TYPES) if path.startswith("manifests/") else "*/*"
        return self._fetch(f"{self._url}/{path}", self._authorize, stream, {"Accept": accept, **headers})

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._login:
            return HTTPBasicAuth(self._login.username, self._login.password)(request)
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request

    def _ask_for_token(self, refused: requests.Response) -> str:
        """Return the anonymous token that a registry names in its refusal, or "" if it names none."""
        kind, _, rest = refused.headers.get("WWW-Authenticate", "").partition(" ")
        named = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        if kind.lower() != "bearer" or "realm" not in named:
            return ""
        query = urlencode({name: named[name] for name in ("service", "scope") if name in named})
        response = self._fetch(f"{named['realm']}?{query}", _anonymously, False, {})
        if response.status_code == 429:
            raise _throttled(self._host, response)
        try:
            answer = response.json()
            return str(answer.get("token") or answer["access_token"])
        except (ValueError, LookupError, AttributeError):
            return ""

    def _fetch(self, url: str, auth: Callable[..., Any], stream: bool, headers: Mapping[str, str]) -> requests.Response:
        """Send a GET request."""
        retries = Retry(3, backoff_factor=0.2, status_forcelist=(429, 500, 502, 503, 504), raise_on_status=False)
        with requests.Session() as session:
            session.trust_env = not is_loopback(urlsplit(url).hostname or "")  # a proxy cannot reach this machine
            session.mount("https://", HTTPAdapter(max_retries=retries))
            session.mount("http://", HTTPAdapter(max_retries=retries))
            more = {"verify": str(self._ca_bundle)} if self._ca_bundle else {}
            try:
                return session.get(url, headers=headers, auth=auth, timeout=_TIMEOUTS_S, stream=stream, **more)
            except requests.exceptions.SSLError as error:
                hint = "Set REQUESTS_CA_BUNDLE to a PEM file with the certificate of your network's proxy."
                message = f"the certificate of {self._host} is not trusted"
                raise RemoteError("connection_failed", message, hint) from error
            except requests.RequestException as error:
                raise _no_connection(self._host) from error


class _BlobStream:
    """Reads a blob, continues after a broken connection, and compares the digest at the end."""

    def __init__(self, ask: Callable[[str, int], requests.Response], digest: str, host: str) -> None:
        self._ask, self._digest, self._host = ask, digest, host
        self._hash, self._position, self._tries = hashlib.sha256(), 0, _TRIES
        self._response = ask(digest, 0)

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(_CHUNK), b""))
        while True:
            try:
                data = bytes(self._response.raw.read(size))
                break
            except (HTTPError, OSError) as error:
                self.close()
                self._tries -= 1
                if not self._tries:
                    raise _no_connection(self._host) from error
                self._response = self._ask(self._digest, self._position)
        self._hash.update(data)
        self._position += len(data)
        if not data and size and f"sha256:{self._hash.hexdigest()}" != self._digest:
            raise _altered(self._digest)
        return data

    def close(self) -> None:
        self._response.close()


def _anonymously(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Send no credentials; without this, requests would look for some in ~/.netrc."""
    return request


def _throttled(host: str, response: requests.Response) -> RemoteError:
    message = f"the registry {host} limits the number of requests"
    return RemoteError("throttled", message, "Try again in a minute.", reason=_said(response))


def _no_connection(host: str) -> RemoteError:
    message = f"the connection to the registry {host} failed"
    return RemoteError("connection_failed", message, "Check the network and the proxy.")


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _said(response: requests.Response) -> str:
    """Return the error in a response: https://distribution.github.io/distribution/spec/api/#errors."""
    try:
        error = response.json()["errors"][0]
        return f"{response.status_code} {error['code']}: {error.get('message', '')}".rstrip(": ")
    except (ValueError, LookupError, TypeError):
        return f"{response.status_code} {response.reason}"


def _altered(digest: str) -> RemoteError:
    return RemoteError("not_confirmed", f"the registry returned content that does not match {digest}", "Push again.")
