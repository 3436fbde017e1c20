"""What Lambda accepts: one image's own manifest, for the function's architecture, with layers packed by gzip.

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
ARCHITECTURES = {"amd64": "x86_64", "arm64": "arm64"}  # in Lambda's words

_REBUILD = "Build it with mlinfer build, or with: docker buildx build --provenance=false --sbom=false"


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


def find_child(index: Manifest, arch: str) -> str:
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


def check_manifest(manifest: Manifest) -> None:
    """Refuse the types of manifest and layer that Lambda does not accept. Raises VerificationError."""
    if manifest.media_type not in IMAGE_TYPES:
        message = (
            f"Lambda does not take {manifest.media_type or 'a manifest of no type'}, only one image's own manifest"
        )
        raise VerificationError("unsupported_manifest", message, _REBUILD)
    for layer in manifest.content["layers"]:
        if layer["mediaType"] not in _GZIP_LAYERS:
            message = f"Lambda takes layers packed with gzip, and one is {layer['mediaType']}"
            raise VerificationError("unsupported_layer", message, _REBUILD)


def check_platform(config: Mapping[str, Any], arch: str) -> None:
    """Refuse an image of another architecture. config: the image's own. Raises VerificationError."""
    there = str(config.get("architecture"))
    there = ARCHITECTURES.get(there, there)
    if (config.get("os"), there) != ("linux", arch):
        message = f"the pushed image is for {config.get('os')}/{there}, and the function's architecture is {arch}"
        raise VerificationError("wrong_architecture", message, f"Build for it: mlinfer build --arch {arch}")
