"""Check that Lambda accepts a manifest: a single image for the function's architecture, with gzip layers.

https://docs.aws.amazon.com/lambda/latest/dg/images-create.html
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import VerificationError

IMAGE_TYPES = ("application/vnd.docker.distribution.manifest.v2+json", "application/vnd.oci.image.manifest.v1+json")
INDEX_TYPES = ("application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.oci.image.index.v1+json")
_GZIP_LAYERS = ("application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.oci.image.layer.v1.tar+gzip")
MAX_IMAGE_BYTES = 10 * 2**30  # https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
ARCHITECTURES = {"amd64": "x86_64", "arm64": "arm64"}  # OCI name -> Lambda's name

_REBUILD = "Build it with `mlinfer build`, or with `docker buildx build --provenance=false --sbom=false`."


@dataclass(frozen=True)
class Manifest:
    """A manifest or index in a registry. digest: the hash of its bytes, `raw`."""

    digest: str
    media_type: str
    content: Mapping[str, Any]
    raw: bytes = b""


@dataclass(frozen=True)
class RemoteImage:
    """A container image in a registry that Lambda accepts. digest: of its manifest. arch: Lambda's name.

    ids: the ids that an Engine may use for it: the digest of its configuration, or with containerd's image store of its
    manifest or index. bytes: size of its layers, compressed.
    """

    digest: str
    arch: str
    ids: frozenset[str]
    bytes: int


def list_children(index: Manifest) -> dict[str, str]:
    """Return the digest of the image in an index for each architecture.

    Attestations, which an index lists with platform unknown/unknown, are skipped.
    """
    found: dict[str, str] = {}
    for entry in index.content.get("manifests", []):
        platform = entry.get("platform") or {}
        if "vnd.docker.reference.type" in (entry.get("annotations") or {}) or platform.get("os") != "linux":
            continue
        there = str(platform.get("architecture"))
        found.setdefault(ARCHITECTURES.get(there, there), str(entry["digest"]))
    return found


def find_child(index: Manifest, arch: str) -> str:
    """Return the digest of the image for an architecture in an index. Raises VerificationError."""
    found = list_children(index)
    if arch in found:
        return found[arch]
    message = f"the pushed image index has no image for {arch} (found: {', '.join(found) or 'none'})"
    raise VerificationError("wrong_architecture", message, f"Build it with `mlinfer build --arch {arch}`.")


def check_manifest(manifest: Manifest) -> None:
    """Raise VerificationError for types of manifest and layer that Lambda does not accept."""
    if manifest.media_type not in IMAGE_TYPES:
        message = f"Lambda does not support manifests of type {manifest.media_type or 'unknown'}"
        raise VerificationError("unsupported_manifest", message, _REBUILD)
    for layer in manifest.content["layers"]:
        if layer["mediaType"] not in _GZIP_LAYERS:
            message = f"Lambda supports only gzip layers, but one layer is {layer['mediaType']}"
            raise VerificationError("unsupported_layer", message, _REBUILD)


def check_platform(config: Mapping[str, Any], arch: str) -> None:
    """Raise VerificationError for a container image of another architecture. config: the image's configuration."""
    there = str(config.get("architecture"))
    there = ARCHITECTURES.get(there, there)
    if (config.get("os"), there) != ("linux", arch):
        message = f"the pushed container image is for {config.get('os')}/{there}, but the function uses {arch}"
        raise VerificationError("wrong_architecture", message, f"Build it with `mlinfer build --arch {arch}`.")
