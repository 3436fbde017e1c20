"""Collect the files of a container image, and derive its tag from their content so that nothing is built twice."""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import lambda_src

from ..clients.loopback import is_loopback
from ..config import Config
from ..errors import MissingError, UsageError
from ..model.footprint import check_image
from ..model.modelfile import ModelFile
from ..model.path import model_path, read_configured_model
from ..names import Names

MODEL_PATH = "/var/task/model/model.onnx"


@dataclass(frozen=True)
class BuildSpec:
    """The inputs of a container image. model: the model file to include, or None if the function downloads it from S3.

    bytecode: what compiles it if not the base image's own Python: the version of another one, or "none". base_digest: of a
    base image in an archive, whose name says nothing about its content.
    pip uses ca_bundle (a PEM file) and proxies (HTTPS_PROXY, ...) during the build. They do not change the image or its tag.
    """

    project: str
    base: str
    arch: str
    model: ModelFile | None = None
    ca_bundle: Path | None = None
    bytecode: str = ""
    base_digest: str = ""
    proxies: Mapping[str, str] = field(default_factory=dict)

    def tag(self) -> str:
        """Return mlinfer/PROJECT:HASH. HASH covers the content of all files, the base image's name and the architecture."""
        compiler = f" byte-code: {self.bytecode}" if self.bytecode else ""
        digest = hashlib.sha256(f"{self.base_digest or self.base} {self.arch}{compiler}".encode())
        for name, path in list_files(self.model):
            content = self.model.sha256 if self.model and path == self.model.path else _sha256(path)
            digest.update(f"\n{name} {content}".encode())
        return f"{Names(self.project).image}:{digest.hexdigest()[:16]}"


def make_build_spec(config: Config, environment: Mapping[str, str]) -> BuildSpec:
    """Return the inputs of the configured container image. Raises MissingError, UsageError."""
    if config.model_source == "image":
        check_image(model_path(config).stat().st_size)  # before reading gigabytes
    model = read_configured_model(config) if config.model_source == "image" else None
    ca_bundle = _ca_bundle(config) if config.ca_bundle else None
    return BuildSpec(
        config.project, config.base_image, config.arch, model, ca_bundle, proxies=find_build_proxies(environment)
    )


def _ca_bundle(config: Config) -> Path:
    """Return the path of the configured CA bundle. Raises MissingError, UsageError."""
    path = Path(config.ca_bundle)
    named = f"{path} (ca_bundle from {config.origins['ca_bundle']})"
    try:
        content = path.read_bytes()
    except OSError as error:
        hint = "Set ca_bundle to a PEM file with your proxy's certificate, or remove it."
        raise MissingError("ca_bundle_not_found", f"cannot read {named}", hint, reason=error.strerror) from error
    if b"-----BEGIN CERTIFICATE-----" not in content:
        hint = "Convert it with `openssl x509 -inform der -in FILE -out ca.pem`."
        raise UsageError("invalid_ca_bundle", f"{named} contains no PEM certificate", hint)
    return path


def find_build_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the proxy settings for a build, without loopback addresses, which a container cannot reach.

    They become build arguments that Docker predefines and keeps out of the image and its history.
    https://docs.docker.com/build/building/variables/#pre-defined-build-arguments
    """
    found = {}
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        value = environment.get(name, "")
        host = urlsplit(value if "//" in value else f"//{value}").hostname or ""
        if value and not is_loopback(host):
            found[name] = value
    spared = {name: environment[name] for name in ("NO_PROXY", "no_proxy") if environment.get(name)}
    return found | spared if found else {}


@contextmanager
def open_context(spec: BuildSpec) -> Iterator[IO[bytes]]:
    """Yield the build context as a temporary tar file. Raises MissingError if it cannot be written."""
    with ExitStack() as stack:
        try:
            context = stack.enter_context(tempfile.TemporaryFile())
            _write_tar(spec, context)
        except OSError as error:
            hint = "Set TMPDIR to a folder with more free space than the size of the model file."
            message = "cannot write the build context"
            raise MissingError("cannot_write", message, hint, reason=error.strerror or error) from error
        yield context


def _write_tar(spec: BuildSpec, context: IO[bytes]) -> None:
    """Write the build context as a reproducible tar file."""
    certificates = [("certificates/ca.pem", spec.ca_bundle)] if spec.ca_bundle else []
    with tarfile.open(fileobj=context, mode="w") as tar:
        for name in ("certificates", "model"):  # COPY fails without the folder, even if it would be empty
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
        for name, path in list_files(spec.model) + certificates:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = path.stat().st_size, 0o644
            with path.open("rb") as file:
                tar.addfile(entry, file)
    context.seek(0)


def list_files(model: ModelFile | None) -> list[tuple[str, Path]]:
    """Return the name in the build context and the source path of each file."""
    docker, handler = docker_folder(), Path(lambda_src.__file__).parent
    files = [(name, docker / name) for name in ("Dockerfile", "requirements.txt", "slim.py")]
    code = sorted(handler.rglob("*.py"))
    files += [(f"lambda_src/{path.relative_to(handler).as_posix()}", path) for path in code]
    return files + ([("model/model.onnx", model.path)] if model else [])


def docker_folder() -> Path:
    """Return the folder with the Dockerfile: in the installed package, or next to it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "_docker"
    return installed if installed.is_dir() else package.parent / "docker"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
