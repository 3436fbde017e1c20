"""Read what lies in a registry, over the registry's own HTTP API, under the token that the push uses.

docker pull reads the same way, so this shows what Lambda will be given.
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


_TIMEOUTS_S = (10, 60)  # to connect, and of silence while reading


@dataclass(frozen=True)
class Login:
    """What opens a registry. The password shows in no message."""

    username: str
    password: str = field(repr=False)


def log_in(ecr: ECRClient) -> Login:
    """Get a token that opens the registry for twelve hours. Raises RemoteError, MissingError, UsageError."""
    with explained("the token of the ECR registry", "ecr:GetAuthorizationToken"):
        token = ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    username, _, password = base64.b64decode(token).decode().partition(":")
    return Login(username, password)


def open_registry(ecr: ECRClient, repository: str, login: Login) -> Registry:
    """Return the repository for reading, over the protocol that the token came by: HTTPS, but of an emulated AWS."""
    host, _, name = repository.partition("/")
    return Registry(f"{urlsplit(ecr.meta.endpoint_url).scheme}://{host}/v2/{name}", login)


class Registry:
    """One repository of a registry, for reading. url: https://HOST/v2/NAME. Every method raises RemoteError."""

    def __init__(self, url: str, login: Login) -> None:
        self._url = url
        self._host = url.split("/")[2]
        self._login = login

    def find_image(self, reference: str, arch: str) -> RemoteImage | None:
        """Return the image of a tag or digest, of an index the one for `arch`; None if nothing is there.

        Raises VerificationError for what Lambda would refuse, or start on the wrong processor.
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
            raise VerificationError("unsupported_manifest", f"{reference}: what lies there is no image") from error
        return RemoteImage(manifest.digest, arch, frozenset({top.digest, manifest.digest, config}), size)

    def _resolve(self, top: Manifest, arch: str) -> Manifest:
        """Return the manifest itself, or of an index the one for an architecture."""
        if top.media_type not in INDEX_TYPES:
            return top
        digest = find_child(top, arch)
        manifest = self.find_manifest(digest)
        if manifest is None:
            raise VerificationError("unsupported_manifest", f"the index names the image {digest}, which is not there")
        return manifest

    def find_manifest(self, reference: str) -> Manifest | None:
        """Return the manifest or index of a tag or digest; None if there is none."""
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
            message = f"{self._host}: what answers is no registry"
            raise RemoteError("registry_failed", message, "Does a proxy answer in its place?") from error
        return Manifest(digest, media_type, content)

    def read_blob(self, digest: str) -> bytes:
        """Return what has this hash."""
        response = self._get(f"blobs/{digest}")
        if response is None or _digest(response.content) != digest:
            raise _altered(digest)
        return bytes(response.content)

    def _get(self, path: str) -> requests.Response | None:
        """Ask the registry; None stands for 404. A redirect to another host, as ECR's to S3, goes without the token."""
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
                hint = "Behind a proxy that has a certificate of its own: set REQUESTS_CA_BUNDLE."
                raise RemoteError(
                    "connection_failed", f"{self._host}: its certificate is not accepted here", hint
                ) from error
            except requests.RequestException as error:
                message = f"{self._host}: the registry cannot be read: no connection, or it broke"
                raise RemoteError("connection_failed", message, "Check the network and the proxy.") from error
        if response.status_code == 404:
            return None
        if response.status_code in (401, 403):
            hint = "These credentials need ecr:BatchGetImage and ecr:GetDownloadUrlForLayer on the repository."
            raise RemoteError("access_denied", f"{self._host}: the registry refuses the token: {_said(response)}", hint)
        if not response.ok:
            raise RemoteError("registry_failed", f"{self._host}: the registry failed: {_said(response)}", "Try again.")
        return response


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _said(response: requests.Response) -> str:
    """Return the registry's own words: https://distribution.github.io/distribution/spec/api/#errors."""
    try:
        error = response.json()["errors"][0]
        return f"{response.status_code} {error['code']}: {error.get('message', '')}".rstrip(": ")
    except (ValueError, LookupError, TypeError):
        return f"{response.status_code} {response.reason}"


def _altered(digest: str) -> RemoteError:
    return RemoteError("not_confirmed", f"the registry does not give back what has the hash {digest}", "Push again.")
