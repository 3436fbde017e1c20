"""Read manifests and blobs from a registry over its HTTP API, with the token that the push uses.

`docker pull` reads the same way, so this shows what Lambda will get.
https://distribution.github.io/distribution/spec/api/
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from ..clients.aws_errors import explained
from ..errors import RemoteError, VerificationError
from .manifest import IMAGE_TYPES, INDEX_TYPES, Manifest, RemoteImage, check_manifest, check_platform, find_child

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient


_TIMEOUTS_S = (10, 60)  # to connect, to read


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


def open_registry(ecr: ECRClient, repository: str, login: Login) -> Registry:
    """Open a repository for reading, with the protocol of the ECR endpoint: HTTPS, except for an emulated AWS."""
    host, _, name = repository.partition("/")
    return Registry(f"{urlsplit(ecr.meta.endpoint_url).scheme}://{host}/v2/{name}", login)


class Registry:
    """One repository of a registry, opened for reading. url: https://HOST/v2/NAME. Every method raises RemoteError."""

    def __init__(self, url: str, login: Login) -> None:
        self._url = url
        self._host = url.split("/")[2]
        self._login = login

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
        return Manifest(digest, media_type, content)

    def read_blob(self, digest: str) -> bytes:
        """Return the blob with this digest."""
        response = self._get(f"blobs/{digest}")
        if response is None or _digest(response.content) != digest:
            raise _altered(digest)
        return bytes(response.content)

    def _get(self, path: str) -> requests.Response | None:
        """Send a GET request; return None for status 404. requests drops the token on ECR's redirect to S3."""
        retries = Retry(3, backoff_factor=0.2, status_forcelist=(429, 500, 502, 503, 504), raise_on_status=False)
        with requests.Session() as session:
            session.mount(self._url, HTTPAdapter(max_retries=retries))
            try:
                response = session.get(
                    f"{self._url}/{path}",
                    headers={
                        "Accept": ", ".join(IMAGE_TYPES + INDEX_TYPES) if path.startswith("manifests/") else "*/*"
                    },
                    auth=(self._login.username, self._login.password),
                    timeout=_TIMEOUTS_S,
                )
            except requests.exceptions.SSLError as error:
                hint = "Set REQUESTS_CA_BUNDLE to a PEM file with the certificate of your network's proxy."
                message = f"the certificate of {self._host} is not trusted"
                raise RemoteError("connection_failed", message, hint) from error
            except requests.RequestException as error:
                message = f"the connection to the registry {self._host} failed"
                raise RemoteError("connection_failed", message, "Check the network and the proxy.") from error
        if response.status_code == 404:
            return None
        if response.status_code in (401, 403):
            hint = "Ask your AWS administrator for ecr:BatchGetImage and ecr:GetDownloadUrlForLayer on the repository."
            message = f"the registry {self._host} denied access"
            raise RemoteError("access_denied", message, hint, reason=_said(response))
        if not response.ok:
            message = f"the registry {self._host} returned an error"
            raise RemoteError("registry_failed", message, "Try again.", reason=_said(response))
        return response


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
