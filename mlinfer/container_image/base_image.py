"""Read the base image from a registry or an archive, without a Docker Engine."""

from __future__ import annotations

import hashlib
import json
import platform
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from ..config import ARCHIVE
from ..errors import MissingError, RemoteError, UsageError, VerificationError
from .archive import blob_name
from .cache import Cache
from .manifest import ARCHITECTURES, IMAGE_TYPES, INDEX_TYPES, Manifest, check_manifest, list_children
from .registry import Registry, open_public_registry
from .structure import LayerFacts, read_facts

_CHUNK = 2**20
_SINGLE = "single"
_LOGIN = "Pull it with the Docker Engine, which knows your logins: `mlinfer build --builder docker`."


class BlobSource(Protocol):
    """Where a base image is: a registry or an archive."""

    def find_manifest(self, reference: str) -> Manifest | None: ...  # noqa: D102
    def read_blob(self, digest: str) -> bytes: ...  # noqa: D102
    def open_blob(self, digest: str) -> Any: ...  # noqa: D102


@dataclass(frozen=True)
class BaseImage:
    """A base image for one architecture. digest: of its manifest; config: its configuration."""

    name: str
    digest: str
    media_type: str
    manifest: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def layers(self) -> list[Mapping[str, Any]]:
        """Return the description of each layer, lowest first."""
        return list(self.manifest["layers"])

    @property
    def arch(self) -> str:
        """Return Lambda's name of the architecture."""
        return ARCHITECTURES.get(str(self.config["architecture"]), str(self.config["architecture"]))


class BaseImages:
    """The base images of one name. What was read once is not asked for again, until `refresh`. Raises MlinferError."""

    def __init__(self, name: str, cache: Cache, ca_bundle: Path | None) -> None:
        self._name = name
        self._cache = cache
        self._source, self._reference = _open_source(name, ca_bundle)

    def find(self, arch: str, *, refresh: bool = False) -> BaseImage | None:
        """Return the base image for an architecture, or None if there is none."""
        digests = self._digests(refresh=refresh)
        if arch in digests:
            return self._read(digests[arch])
        if _SINGLE in digests:
            image = self._read(digests[_SINGLE])
            return image if image.arch == arch else None
        return None

    def get(self, arch: str, *, refresh: bool = False) -> BaseImage:
        """Return the base image for an architecture. Raises UsageError if there is none."""
        if image := self.find(arch, refresh=refresh):
            return image
        hint = "Choose another --arch, or another base_image in mlinfer.toml."
        raise UsageError("wrong_architecture", f"the base image {self._name} does not exist for {arch}", hint)

    def find_interpreter(self, arch: str) -> BaseImage | None:
        """Return the base image whose Python can run on this machine, or None. Byte-code has no architecture.

        arch: of the image that is built. Its own base is used only if this machine has that architecture.
        """
        here = {"x86_64": "x86_64", "aarch64": "arm64"}.get(platform.machine(), "")
        return self.find(here or arch) if here and platform.system() == "Linux" else None

    def layer_facts(self, digest: str) -> LayerFacts:
        """Return what is in a layer of the base image, or in one in the cache."""
        if recorded := self._cache.read_record("layer", digest):
            return LayerFacts(**recorded)
        with self.open_layer(digest, keep=True) as layer:
            facts = read_facts(layer, compressed=True)
        self._cache.write_record("layer", digest, asdict(facts))
        return facts

    @contextmanager
    def open_layer(self, digest: str, *, keep: bool = False) -> Iterator[IO[bytes]]:
        """Yield a compressed layer, from the cache if it is there. keep: store it there first; else it is only streamed."""
        path = self._cache.find_blob(digest)
        if path is None and keep:
            with (
                _explained(self._name),
                self._source.open_blob(digest) as stream,
                self._cache.writing() as (file, done),
            ):
                content = hashlib.sha256()
                while data := stream.read(_CHUNK):
                    content.update(data)
                    file.write(data)
                if f"sha256:{content.hexdigest()}" != digest:
                    hint = "Download or write the base image again."
                    raise VerificationError("invalid_layer", f"layer {digest} of the base image is damaged", hint)
                done(digest)
            path = self._cache.find_blob(digest)
        if path:
            with path.open("rb") as file:
                yield file
        else:
            with _explained(self._name), self._source.open_blob(digest) as stream:
                yield stream

    def _digests(self, *, refresh: bool) -> dict[str, str]:
        """Return the digest of the manifest for each architecture, or of the only one as "single"."""
        local = self._name if not self._name.startswith(ARCHIVE) else None
        if local and not refresh and (recorded := self._cache.read_record("base", local)):
            return dict(recorded)
        with _explained(self._name):
            top = self._source.find_manifest(self._reference)
            if top is None:
                hint = (
                    "Set base_image in mlinfer.toml to a Lambda base image for Python 3.12 or newer from "
                    "https://gallery.ecr.aws/lambda/python."
                )
                message, reason = f"cannot pull the base image {self._name}", "it does not exist"
                raise RemoteError("base_image_unavailable", message, hint, reason=reason)
            is_index = top.media_type in INDEX_TYPES
            found = list_children(top) if is_index else {_SINGLE: self._keep(top)}
        if local:
            self._cache.write_record("base", local, found)
        return found

    def _keep(self, manifest: Manifest) -> str:
        """Keep a manifest in the cache, with its type, and return its digest."""
        self._cache.write_record("manifest", manifest.digest, [manifest.media_type, manifest.raw.decode()])
        return manifest.digest

    def _read(self, digest: str) -> BaseImage:
        """Return the base image with this manifest."""
        recorded = self._cache.read_record("manifest", digest)
        with _explained(self._name):
            if recorded is None:
                manifest = self._source.find_manifest(digest)
                if manifest is None:
                    message, reason = (
                        f"cannot pull the base image {self._name}",
                        f"its registry has no manifest {digest}",
                    )
                    hint = "Ask the registry again with `mlinfer build --pull`."
                    raise RemoteError("base_image_unavailable", message, hint, reason=reason)
                self._keep(manifest)
            else:
                manifest = Manifest(digest, recorded[0], json.loads(recorded[1]))
            try:
                check_manifest(manifest)
                config = str(manifest.content["config"]["digest"])
                text = self._cache.read_record("config", config)
                if text is None:
                    text = self._source.read_blob(config).decode()
                    self._cache.write_record("config", config, text)
                return BaseImage(self._name, digest, manifest.media_type, manifest.content, json.loads(text))
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                message = f"the base image {self._name} has a damaged manifest or configuration"
                raise VerificationError("unsupported_manifest", message) from error


def _open_source(name: str, ca_bundle: Path | None) -> tuple[BlobSource, str]:
    """Return the registry or archive, and the tag or digest to ask for."""
    if name.startswith(ARCHIVE):
        return OciArchive(Path(name.removeprefix(ARCHIVE))), ""
    repository, _, digest = name.partition("@")
    path, colon, tag = repository.rpartition(":")
    if not colon or "/" in tag:  # the colon is that of a port
        path, tag = repository, "latest"
    registry: Registry = open_public_registry(path, ca_bundle)
    return registry, digest or tag


class OciArchive:
    """A base image in a tar file with the OCI image layout, as `skopeo copy` and `docker save` (Engine 25) write it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def find_manifest(self, reference: str) -> Manifest | None:
        """Return the manifest or index with a digest; for "", the only one that the archive's index names."""
        if not reference:
            entries = [e for e in json.loads(self._read("index.json"))["manifests"] if "digest" in e]
            if len(entries) > 1:
                return Manifest("", INDEX_TYPES[1], {"manifests": entries})
            reference = str(entries[0]["digest"])
        raw = self.read_blob(reference)
        content = json.loads(raw)
        media_type = content.get("mediaType") or (INDEX_TYPES[1] if "manifests" in content else IMAGE_TYPES[1])
        return Manifest(reference, media_type, content, raw)

    def read_blob(self, digest: str) -> bytes:
        """Return a small blob."""
        content = self._read(blob_name(digest))
        if f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
            raise self._damaged(f"the content of {digest} does not match its digest")
        return content

    @contextmanager
    def open_blob(self, digest: str) -> Iterator[IO[bytes]]:
        """Yield a blob as a stream."""
        with self._opened() as archive:
            yield self._member(archive, blob_name(digest))

    def _read(self, name: str) -> bytes:
        with self._opened() as archive:
            return self._member(archive, name).read()

    def _member(self, archive: tarfile.TarFile, name: str) -> IO[bytes]:
        for entry in (name, f"./{name}"):
            try:
                if file := archive.extractfile(entry):
                    return file
            except KeyError:
                continue
        raise self._damaged(f"it has no {name}")

    @contextmanager
    def _opened(self) -> Iterator[tarfile.TarFile]:
        try:
            with tarfile.open(self._path) as archive:
                yield archive
        except OSError as error:
            message, hint = f"cannot read the base image {self._path}", "Correct base_image in mlinfer.toml."
            raise MissingError("base_image_unavailable", message, hint, reason=error.strerror or error) from error
        except (tarfile.TarError, LookupError, ValueError) as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, reason: str) -> VerificationError:
        hint = "Write it again with `skopeo copy docker://IMAGE oci-archive:FILE`."
        return VerificationError("unsupported_manifest", f"{self._path} is not an OCI archive", hint, reason=reason)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn a registry's errors into errors about the base image. Raises RemoteError."""
    codes = {"access_denied": "base_image_login", "throttled": "base_image_throttled"}
    try:
        yield
    except RemoteError as error:
        if error.code.startswith("base_image"):
            raise
        hint = _LOGIN if error.code == "access_denied" else error.hint
        code = codes.get(error.code, "base_image_unavailable")
        raise RemoteError(code, f"cannot pull the base image {name}", hint, reason=error) from error
