"""Archives of container images: tar files of the Docker Engine and of the OCI image layout."""

from __future__ import annotations

import io
import json
import tarfile
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
        message = f"the Docker Engine saved the container image in an unknown format: {error!r}"
        raise VerificationError("invalid_layer", message, hint) from error
