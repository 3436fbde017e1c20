"""What lies in a registry, read back over the registry's own HTTP API, and whether Lambda takes it.

It is the way that docker pull goes, so it shows what is really there under the very token that was pushed with.
https://distribution.github.io/distribution/spec/api/
https://docs.aws.amazon.com/lambda/latest/dg/images-create.html
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from ..errors import RemoteError, VerificationError

_IMAGES = ("application/vnd.docker.distribution.manifest.v2+json", "application/vnd.oci.image.manifest.v1+json")
_INDEXES = ("application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.oci.image.index.v1+json")
_GZIP_LAYERS = ("application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.oci.image.layer.v1.tar+gzip")
ARCHITECTURES = {"amd64": "x86_64", "arm64": "arm64"}  # in Lambda's words

_TIMEOUTS_S = (10, 60)  # to connect, and of silence while reading
_REBUILD = "Build it with mlinfer build, or with: docker buildx build --provenance=false --sbom=false"


@dataclass(frozen=True)
class Login:
    """What opens a registry. The password shows in no message."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class Manifest:
    """A manifest or an index as it lies in the registry. digest: the hash of its bytes."""

    digest: str
    media_type: str
    content: Mapping[str, Any]


@dataclass(frozen=True)
class RemoteImage:
    """An image in a registry that Lambda takes. digest: of its own manifest. arch: in Lambda's words.

    ids: what an Engine may call this image: the digest of its configuration, or with containerd's image store that of
    its manifest or of the index that this one was found in. bytes: of its layers, compressed.
    """

    digest: str
    arch: str
    ids: frozenset[str]
    bytes: int


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
            _check_manifest(manifest)
            config, layers = str(manifest.content["config"]["digest"]), manifest.content["layers"]
            _check_platform(json.loads(self.read_blob(config)), arch)
            size = sum(int(layer["size"]) for layer in layers)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise VerificationError("unsupported_manifest", f"{reference}: what lies there is no image") from error
        return RemoteImage(manifest.digest, arch, frozenset({top.digest, manifest.digest, config}), size)

    def _resolve(self, top: Manifest, arch: str) -> Manifest:
        """Return the manifest itself, or of an index the one for an architecture."""
        if top.media_type not in _INDEXES:
            return top
        digest = _child(top, arch)
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
                    headers={"Accept": ", ".join(_IMAGES + _INDEXES) if path.startswith("manifests/") else "*/*"},
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


def _child(index: Manifest, arch: str) -> str:
    """Return the digest of an index's image for an architecture; attestations stand beside images as unknown/unknown."""
    found = []
    for entry in index.content.get("manifests", []):
        platform = entry.get("platform") or {}
        if "vnd.docker.reference.type" in entry.get("annotations", {}) or platform.get("os") != "linux":
            continue
        there = str(platform.get("architecture"))
        found.append(ARCHITECTURES.get(there, there))
        if found[-1] == arch:
            return str(entry["digest"])
    message = f"the pushed index holds no image for {arch}, only for: {', '.join(found) or 'nothing that runs'}"
    raise VerificationError("wrong_architecture", message, f"Build for it: mlinfer build --arch {arch}")


def _check_manifest(manifest: Manifest) -> None:
    if manifest.media_type not in _IMAGES:
        message = (
            f"Lambda does not take {manifest.media_type or 'a manifest of no type'}, only one image's own manifest"
        )
        raise VerificationError("unsupported_manifest", message, _REBUILD)
    for layer in manifest.content["layers"]:
        if layer["mediaType"] not in _GZIP_LAYERS:
            message = f"Lambda takes layers packed with gzip, and one is {layer['mediaType']}"
            raise VerificationError("unsupported_layer", message, _REBUILD)


def _check_platform(config: Mapping[str, Any], arch: str) -> None:
    there = str(config.get("architecture"))
    there = ARCHITECTURES.get(there, there)
    if (config.get("os"), there) != ("linux", arch):
        message = f"the pushed image is for {config.get('os')}/{there}, and the function's architecture is {arch}"
        raise VerificationError("wrong_architecture", message, f"Build for it: mlinfer build --arch {arch}")


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
