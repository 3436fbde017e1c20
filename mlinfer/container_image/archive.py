"""Archives of container images: tar files of the Docker Engine and of the OCI image layout.

https://github.com/opencontainers/image-spec/blob/main/image-layout.md
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import PurePosixPath
from posixpath import normpath
from typing import IO, Any, cast

from ..errors import VerificationError
from .structure import LayerFacts, read_facts

_DOCUMENT_BYTES = 4 * 2**20
_GZIP = b"\x1f\x8b"
_CHUNK = 2**20


@dataclass(frozen=True)
class Blob:
    """A layer or configuration to send. open: returns a context with a stream from its start."""

    digest: str
    size: int
    open: Callable[[], AbstractContextManager[IO[bytes]]]


@dataclass(frozen=True)
class Package:
    """All of an image. blobs: the layers, lowest first, and last the configuration."""

    tag: str
    media_type: str
    manifest: bytes
    blobs: Sequence[Blob]


def write_archive(target: IO[bytes], package: Package) -> None:
    """Write an archive with the index of the OCI image layout and that of `docker load`, so that every Engine reads it."""
    digest = hashlib.sha256(package.manifest).hexdigest()
    names = {"io.containerd.image.name": f"docker.io/{package.tag}"}
    names |= {"org.opencontainers.image.ref.name": package.tag.rpartition(":")[2]}
    described = {"mediaType": package.media_type, "size": len(package.manifest), "digest": f"sha256:{digest}"}
    index = {"schemaVersion": 2, "manifests": [described | {"annotations": names}]}
    *layers, config = [blob_name(blob.digest) for blob in package.blobs]
    loaded = [{"Config": config, "RepoTags": [package.tag], "Layers": layers}]
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for blob in {blob.digest: blob for blob in package.blobs}.values():
            with blob.open() as stream:
                _add(tar, blob_name(blob.digest), blob.size, stream)
        documents = {blob_name(f"sha256:{digest}"): package.manifest, "oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
        documents |= {"index.json": json.dumps(index).encode(), "manifest.json": json.dumps(loaded).encode()}
        for name, content in documents.items():
            _add(tar, name, len(content), io.BytesIO(content))


def blob_name(digest: str) -> str:
    """Return the path of a blob in the OCI image layout."""
    return f"blobs/{digest.replace(':', '/', 1)}"


def _add(tar: tarfile.TarFile, name: str, size: int, stream: IO[bytes]) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = size
    tar.addfile(entry, stream)


@dataclass(frozen=True)
class SavedImage:
    """The content of an archive of one image. layers: lowest first."""

    config: dict[str, Any]
    layers: tuple[LayerFacts, ...]


def read_saved_image(stream: IO[bytes]) -> SavedImage:
    """Read what `docker save` writes, of any Engine, without storing it. Raises VerificationError."""
    documents: dict[str, bytes] = {}
    layers: dict[str, LayerFacts] = {}
    links: dict[str, str] = {}
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=_CHUNK) as tar:
            for member in tar:
                name = normpath(member.name)
                if member.issym():  # an old Engine stores equal layers once
                    links[name] = normpath(str(PurePosixPath(name).parent / member.linkname))
                elif file := tar.extractfile(member):
                    start = cast("io.BufferedReader", file).peek(2)[:2]
                    if start[:1] in (b"{", b"["):
                        documents[name] = file.read(_DOCUMENT_BYTES)
                    elif start == _GZIP or (member.size and not member.size % tarfile.BLOCKSIZE):
                        layers[name] = read_facts(file, compressed=start == _GZIP)
        (described,) = json.loads(documents["manifest.json"])
        named = [links.get(name, name) for name in map(normpath, described["Layers"])]
        config: dict[str, Any] = json.loads(documents[normpath(described["Config"])])
        return SavedImage(config, tuple(layers[name] for name in named))
    except (tarfile.TarError, LookupError, ValueError, TypeError) as error:
        hint = "Build it again with `mlinfer build --no-cache`."
        message = "the Docker Engine saved the container image in an unknown format"
        raise VerificationError("invalid_layer", message, hint, reason=repr(error)) from error
