"""Build the Lambda image. Its tag is the hash of everything that it is made of, so that nothing is built twice."""

from __future__ import annotations

import hashlib
import re
import tarfile
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal
from urllib.parse import urlsplit

import lambda_src

from ..clients.docker import PLATFORMS, Engine, Image, is_loopback
from ..errors import MissingError, MlinferError, RemoteError, UsageError
from ..model.modelfile import ModelFile
from ..names import PROJECT_LABEL, Names

MODEL_PATH = "/var/task/model/model.onnx"

_LAYERS = ("code", "model", "dependencies")  # the Dockerfile's three COPY, the topmost first
_LAST_LINES = 15
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # the builder's, around what a step writes to stderr
_NO_CONNECTION = (  # in pip's words, or those of what it stands on
    "NewConnectionError",
    "NameResolutionError",
    "ConnectTimeoutError",
    "ProxyError",
    "Connection to",
    "No matching distribution found",
)
_HOUSEKEEPING = re.compile(r" ---> |Removing intermediate container ")


@dataclass(frozen=True)
class Recipe:
    """What an image is made of. model: the file that goes into it, or None for one that the function fetches from S3.

    ca_bundle (a PEM file) and proxies (HTTPS_PROXY and the like) serve pip during the build; the image and its tag do not
    depend on them.
    """

    project: str
    base: str
    arch: str
    model: ModelFile | None = None
    ca_bundle: Path | None = None
    proxies: Mapping[str, str] = field(default_factory=dict)

    def tag(self) -> str:
        """Return mlinfer/PROJECT:HASH, where HASH stands for every byte that goes in, the base's name and the architecture."""
        digest = hashlib.sha256(f"{self.base} {self.arch}".encode())
        for name, path in _context(self.model):
            content = self.model.sha256 if self.model and path == self.model.path else _sha256(path)
            digest.update(f"\n{name} {content}".encode())
        return f"{Names(self.project).image}:{digest.hexdigest()[:16]}"


@dataclass(frozen=True)
class Built:
    """An image that is there. bytes: of all its layers, unpacked; layers: those above the base, in bytes."""

    id: str
    tag: str
    arch: str
    bytes: int
    layers: Mapping[str, int]
    outcome: Literal["made", "unchanged"]


def build(
    engine: Engine, recipe: Recipe, tell: Callable[[str], None], *, pull: bool = False, cache: bool = True
) -> Built:
    """Build the image unless it is there; pull, or no cache, builds it again. tell: takes the log, line by line.

    Raises MissingError, RemoteError, UsageError.
    """
    tag = recipe.tag()
    image = engine.find_image(tag)
    if image and not pull and cache:
        return _described(engine, image, tag, "unchanged")
    _check_base(engine, recipe, pull=pull)
    with _staged(recipe) as context:
        args = {**recipe.proxies, "BASE": recipe.base}
        if recipe.model:
            args |= {"MODEL_URI": MODEL_PATH, "MODEL_SHA256": recipe.model.sha256}
        labels = {PROJECT_LABEL: recipe.project}
        log = engine.build(context, tag=tag, arch=recipe.arch, args=args, labels=labels, pull=pull, cache=cache)
        _follow(log, tell)
    image = engine.find_image(tag)
    if image is None:
        raise RemoteError("build_failed", f"the Engine reports success, but there is no image {tag}")
    if image.arch != recipe.arch:  # the classic builder takes a local base image of any architecture
        engine.remove_image(tag)
        raise _wrong_architecture(recipe, image.arch)
    return _described(engine, image, tag, "made")


def _follow(log: Iterator[str], tell: Callable[[str], None]) -> None:
    """Pass the log on; a failure carries the failing step's last lines."""
    step: deque[str] = deque(maxlen=_LAST_LINES)
    try:
        for line in filter(None, (_COLOUR.sub("", raw).rstrip() for raw in log)):
            if line.startswith("Step "):
                step.clear()
            if not _HOUSEKEEPING.match(line):
                step.append(line)
            tell(line)
    except RemoteError as error:
        lines = "".join(f"\n    {line}" for line in step)
        hint = _pip_hint(lines) if error.code == "build_failed" else error.hint
        raise RemoteError(error.code, f"{error}{lines}", hint or error.hint) from error


def _pip_hint(lines: str) -> str:
    """Return what to do about the network failure that pip's lines tell of, or ""."""
    if "CERTIFICATE_VERIFY_FAILED" in lines:
        return "Does a proxy here inspect TLS? Give pip its certificate, in a PEM file: mlinfer build --ca-bundle FILE"
    if any(words in lines for words in _NO_CONNECTION):
        return (
            "pip does not reach the package index. If a proxy is needed, set HTTPS_PROXY, or proxies in Docker's config.json; "
            "a build does not reach a proxy that listens on this machine's loopback address."
        )
    return ""


def build_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the proxy settings that a build can use: not those on loopback, which a container does not reach.

    They become build arguments that Docker predefines: it keeps them out of the image and its history.
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


def _described(engine: Engine, image: Image, tag: str, outcome: Literal["made", "unchanged"]) -> Built:
    ours = [size for instruction, size in engine.layers(tag) if "COPY" in instruction][: len(_LAYERS)]
    layers = dict(reversed(list(zip(_LAYERS, ours, strict=False))))
    return Built(image.id, tag, image.arch, image.bytes, layers, outcome)


def _check_base(engine: Engine, recipe: Recipe, *, pull: bool) -> None:
    """Refuse a base image that is here in another architecture: the classic builder would take it unasked."""
    base = engine.find_image(recipe.base)
    if base and not pull and base.arch != recipe.arch:
        raise _wrong_architecture(recipe, base.arch)


def _wrong_architecture(recipe: Recipe, found: str) -> MlinferError:
    message = f"{recipe.base} is here for {found}, but {recipe.arch} is asked for: Lambda could not start the image"
    hint = (
        f"Get the right one: docker pull --platform {PLATFORMS[recipe.arch]} {recipe.base}   (or mlinfer build --pull)"
    )
    return UsageError("wrong_architecture", message, hint)


@contextmanager
def _staged(recipe: Recipe) -> Iterator[IO[bytes]]:
    """Yield the build context in a temporary file. Raises MissingError when there is no room for it."""
    with ExitStack() as stack:
        try:
            context = stack.enter_context(tempfile.TemporaryFile())
            _write(recipe, context)
        except OSError as error:
            hint = "It needs as much room as the model file has bytes, in the folder that TMPDIR names."
            message = f"the build context cannot be written: {error.strerror or error}"
            raise MissingError("cannot_write", message, hint) from error
        yield context


def _write(recipe: Recipe, context: IO[bytes]) -> None:
    """Write the build context as a tar file that depends on nothing but its content."""
    certificates = [("certificates/ca.pem", recipe.ca_bundle)] if recipe.ca_bundle else []
    with tarfile.open(fileobj=context, mode="w") as tar:
        for name in ("certificates", "model"):  # both can be empty: COPY needs the folder
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
        for name, path in _context(recipe.model) + certificates:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = path.stat().st_size, 0o644
            with path.open("rb") as file:
                tar.addfile(entry, file)
    context.seek(0)


def _context(model: ModelFile | None) -> list[tuple[str, Path]]:
    """Return the name and the source of each file of the build context."""
    docker, handler = _docker_folder(), Path(lambda_src.__file__).parent
    files = [(name, docker / name) for name in ("Dockerfile", "requirements.txt", "slim.py")]
    code = sorted(handler.rglob("*.py"))
    files += [(f"lambda_src/{path.relative_to(handler).as_posix()}", path) for path in code]
    return files + ([("model/model.onnx", model.path)] if model else [])


def _docker_folder() -> Path:
    """Return where Dockerfile and requirements are: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "_docker"
    return installed if installed.is_dir() else package.parent / "docker"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
