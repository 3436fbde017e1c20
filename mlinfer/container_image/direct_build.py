"""Build the container image without a Docker Engine: the same files as the Dockerfile makes, in layers of the same order.

The settings of the image are read from docker/Dockerfile, and docker/slim.py prepares the files, so both builders share
them. The same input gives the same image on every machine; only the compressed size can depend on the version of zlib.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

from ..clients.docker import Engine
from ..config import ARCHIVE
from ..errors import MissingError
from . import bytecode, dependencies
from .archive import Blob, Package, write_archive
from .base_image import BaseImage, BaseImages
from .builder import BuiltImage, Show
from .cache import Cache
from .contents import MODEL_PATH, BuildSpec, docker_folder, list_files
from .ecr_upload import UploadTarget, upload_image
from .image_config import LAYERS, make_config, make_manifest
from .layers import Layer, LayerFile, write_layer
from .registry import EcrRepository
from .structure import LayerFacts, check_structure

_LEVEL, _MODEL_LEVEL = 6, 1  # weights hardly get smaller


@dataclass(frozen=True)
class DirectImage:
    """A built image. size: of all files, uncompressed. own: the layers above the base image's; base: the name of that."""

    tag: str
    arch: str
    base: str
    size: int
    media_type: str
    manifest: bytes
    config: bytes
    own: tuple[Layer, ...]

    @property
    def id(self) -> str:
        """Return the image's id: the digest of its configuration."""
        return f"sha256:{hashlib.sha256(self.config).hexdigest()}"

    @property
    def layers(self) -> list[Mapping[str, Any]]:
        """Return the description of each layer in the manifest, lowest first."""
        return list(json.loads(self.manifest)["layers"])


class DirectBuilder:
    """Builds images and keeps them in the cache. environment: of the process. Every method raises MlinferError."""

    def __init__(
        self,
        cache: Cache,
        environment: Mapping[str, str],
        *,
        ca_bundle: Path | None = None,
        with_bytecode: bool = True,
    ) -> None:
        """ca_bundle: certificates to trust besides the usual ones. with_bytecode: compile the modules."""
        self._cache = cache
        self._environment = environment
        self._ca_bundle = ca_bundle
        self._with_bytecode = with_bytecode

    def complete(self, spec: BuildSpec, *, pull: bool = False) -> BuildSpec:
        """Add what the tag depends on: how modules are compiled, and the content of a base image in an archive."""
        with self._images(spec.base) as images:
            base = images.get(spec.arch, refresh=pull)
            if spec.base.startswith(ARCHIVE):
                spec = replace(spec, base_digest=base.digest)
            if not self._with_bytecode:
                return replace(spec, bytecode="none")
            if images.find_interpreter(spec.arch):
                return spec
            version = bytecode.find_interpreter(images, base, self._cache).version
            return replace(spec, bytecode=bytecode.find_host_python(version, self._environment)[1])

    def find(self, tag: str) -> DirectImage | None:
        """Return the image with a tag if all of it is in the cache, except layers of the base image."""
        recorded = self._cache.read_record("image", tag)
        if recorded is None:
            return None
        own = tuple(Layer(**layer) for layer in recorded.pop("own"))
        texts: dict[str, Any] = {name: str(recorded.pop(name)).encode() for name in ("manifest", "config")}
        complete = all(self._cache.has_blob(layer.digest) for layer in own)
        return DirectImage(**recorded, **texts, own=own) if complete else None

    def build(
        self, spec: BuildSpec, tell: Callable[[str], None], *, pull: bool = False, cache: bool = True
    ) -> BuiltImage:
        """Build the container image unless it exists. `pull` or `cache=False` forces a build."""
        image, made = self.find(spec.tag()), False
        if image is None or pull or not cache:
            with self._images(spec.base) as images:
                image, made = self._build(spec, images, tell, cache=cache), True
        sizes = {name: layer.bytes for name, layer in zip(LAYERS, image.own, strict=True)}
        self._cache.prune()
        return BuiltImage(image.id, image.tag, image.arch, image.size, sizes, "created" if made else "unchanged")

    def find_id(self, tag: str) -> str | None:
        """Return the id of the image with a tag, or None."""
        image = self.find(tag)
        return image.id if image else None

    def size(self, built: BuiltImage) -> int:
        """Return the size of all layers, uncompressed, in bytes."""
        return built.bytes

    def send(self, built: BuiltImage, repository: EcrRepository, tag: str, show: Show) -> str:
        """Send what ECR lacks by its API. Layers of the base image are streamed from their registry."""
        image = self.require(built.tag)
        with self._images(image.base) as images:
            check_structure(json.loads(image.config), _facts(images, image.manifest), own=len(LAYERS), arch=image.arch)
            return upload_image(UploadTarget(repository.ecr, repository.name, tag), self._package(image, images), show)

    def write(self, built: BuiltImage, target: IO[bytes]) -> None:
        """Write an image as an archive that Docker and other tools read."""
        image = self.require(built.tag)
        with self._images(image.base) as images:
            write_archive(target, self._package(image, images))

    def load(self, engine: Engine, built: BuiltImage) -> None:
        """Load an image into an Engine, under its tag."""
        with tempfile.TemporaryFile() as archive:
            self.write(built, archive)
            archive.seek(0)
            engine.load(archive, built.tag)

    def _package(self, image: DirectImage, images: BaseImages) -> Package:
        """Return all of an image."""
        own, found = {layer.digest for layer in image.own}, []
        for layer in image.layers:
            digest, size = str(layer["digest"]), int(layer["size"])
            open_ = partial(self._open_own, image, digest) if digest in own else partial(images.open_layer, digest)
            found.append(Blob(digest, size, open_))
        found.append(Blob(image.id, len(image.config), lambda: closing(io.BytesIO(image.config))))
        return Package(image.tag, image.media_type, image.manifest, found)

    def _open_own(self, image: DirectImage, digest: str) -> AbstractContextManager[IO[bytes]]:
        path = self._cache.find_blob(digest)
        if path is None:
            raise _not_cached(image.tag)
        return path.open("rb")

    def require(self, tag: str) -> DirectImage:
        """Return the image with a tag. Raises MissingError if a part of it was removed or damaged since it was built."""
        image = self.find(tag)
        if image is None:
            raise _not_cached(tag)
        return image

    def _build(self, spec: BuildSpec, images: BaseImages, tell: Callable[[str], None], *, cache: bool) -> DirectImage:
        tell(f"Reading the base image {spec.base}")
        base = images.get(spec.arch)
        own = tuple(self._layers(spec, images, base, tell, cache=cache))
        config = make_config(spec, base, own)
        manifest = make_manifest(base, config, own)
        facts = _facts(images, manifest)
        check_structure(json.loads(config), facts, own=len(own), arch=spec.arch)
        image = DirectImage(
            spec.tag(),
            spec.arch,
            spec.base,
            sum(layer.bytes for layer in facts),
            base.media_type,
            manifest,
            config,
            own,
        )
        texts = {"manifest": manifest.decode(), "config": config.decode()}
        self._cache.write_record("image", image.tag, asdict(image) | texts)
        return image

    def _layers(
        self, spec: BuildSpec, images: BaseImages, base: BaseImage, tell: Callable[[str], None], *, cache: bool
    ) -> Iterator[Layer]:
        """Yield the layers above the base image, each from the cache if it was built before."""
        docker = docker_folder()
        requirements, script = docker / "requirements.txt", docker / "slim.py"
        runner = images.find_interpreter(spec.arch)
        python = bytecode.find_interpreter(images, runner or base, self._cache).version
        compiler = [spec.bytecode or (runner or base).digest, _sha256(script)]

        def slim(folder: Path) -> None:
            if spec.bytecode == "none":
                bytecode.run_on_host(sys.executable, script, folder, "--no-bytecode")
            elif spec.bytecode or runner is None:
                bytecode.run_on_host(bytecode.find_host_python(python, self._environment)[0], script, folder)
            else:
                bytecode.run_in_base(images, runner, self._cache, script, folder)

        def install(folder: Path) -> None:
            task = folder / "var" / "task"
            task.mkdir(parents=True)
            with trusted_certificates(self._ca_bundle) as trusted:
                platform = dependencies.Platform(python, spec.arch)
                dependencies.install(
                    requirements, task, platform, tell=tell, environment=self._environment, trusted=trusted
                )
            tell("Compiling the packages")
            slim(folder)

        def copy(files: Sequence[tuple[str, Path]], folder: Path) -> None:
            for name, path in files:
                target = folder / "var" / "task" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
            slim(folder)

        with tempfile.TemporaryDirectory() as place:
            key = ["dependencies", _sha256(requirements), python, spec.arch, *compiler]
            yield self._layer(key, partial(_prepared, Path(place) / "dependencies", install), _LEVEL, cache=cache)
            tell("Writing the model and the code")
            key = ["model", spec.model.sha256 if spec.model else ""]
            yield self._layer(key, lambda: _model_files(spec), _MODEL_LEVEL, cache=cache)
            code = [(name, path) for name, path in list_files(None) if name.startswith("lambda_src/")]
            key = ["code", json.dumps({name: _sha256(path) for name, path in code}), *compiler]
            prepare = partial(_prepared, Path(place) / "code", partial(copy, code))
            yield self._layer(key, prepare, _LEVEL, cache=cache)

    def _layer(self, key: object, prepare: Callable[[], list[LayerFile]], level: int, *, cache: bool) -> Layer:
        """Return the layer that was made from the same input, or make it."""
        recorded = self._cache.read_record("own layer", key) if cache else None
        if recorded and self._cache.find_blob(recorded["digest"]):
            return Layer(**recorded)
        files = prepare()
        with self._cache.writing() as (file, keep):
            layer = write_layer(files, file, level)
            keep(layer.digest)
        self._cache.write_record("own layer", key, asdict(layer))
        return layer

    @contextmanager
    def _images(self, base: str) -> Iterator[BaseImages]:
        with trusted_certificates(self._ca_bundle) as trusted:
            yield BaseImages(base, self._cache, trusted)


@contextmanager
def trusted_certificates(ca_bundle: Path | None) -> Iterator[Path | None]:
    """Yield a PEM file with the usual certificates and those of a file, or None without one."""
    if ca_bundle is None:
        yield None
        return
    import certifi

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trusted.pem"
        path.write_bytes(Path(certifi.where()).read_bytes() + b"\n" + ca_bundle.read_bytes())
        yield path


def _facts(images: BaseImages, manifest: bytes) -> list[LayerFacts]:
    """Return what is in each layer. A layer is read once, and what is in it is kept in the cache."""
    return [images.layer_facts(str(layer["digest"])) for layer in json.loads(manifest)["layers"]]


def _not_cached(tag: str) -> MissingError:
    message = f"a part of container image {tag} is no longer in the cache"
    return MissingError("image_not_cached", message, "Run the command again to build it again.")


def _prepared(folder: Path, fill: Callable[[Path], None]) -> list[LayerFile]:
    """Fill a folder, and return its files with the modes that they have there."""
    folder.mkdir()
    fill(folder)
    found = sorted(folder.rglob("*"))
    return [
        LayerFile(path.relative_to(folder).as_posix(), None if path.is_dir() else path, path.stat().st_mode & 0o777)
        for path in found
    ]


def _model_files(spec: BuildSpec) -> list[LayerFile]:
    """Return the model's folder, and the file if the image contains it. It is not copied: it can be large."""
    folders = [LayerFile(name) for name in ("var", "var/task", "var/task/model")]
    return [*folders, *([LayerFile(MODEL_PATH.lstrip("/"), spec.model.path, 0o644)] if spec.model else [])]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
