"""Build the container image with the Docker Engine, unless an image with its tag exists."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from typing import Literal

from ..clients.docker import PLATFORMS, Engine, Image
from ..config import ARCHIVE
from ..errors import MlinferError, RemoteError, UsageError
from ..names import PROJECT_LABEL
from . import docker_push
from .builder import BuiltImage, Show
from .contents import MODEL_PATH, BuildSpec, open_context
from .registry import EcrRepository

_LAYERS = ("code", "model", "dependencies")  # the three COPYs of the Dockerfile, topmost first
_LAST_LINES = 15
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # the builder colours a step's stderr
_NO_CONNECTION = (  # in messages of pip and urllib3
    "NewConnectionError",
    "NameResolutionError",
    "ConnectTimeoutError",
    "ProxyError",
    "Connection to",
    "No matching distribution found",
)
_HOUSEKEEPING = re.compile(r" ---> |Removing intermediate container ")


class DockerBuilder:
    """Builds with the Docker Engine, which keeps the images. See `Builder`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def complete(self, spec: BuildSpec, *, pull: bool = False) -> BuildSpec:  # noqa: ARG002
        """Return the inputs. Raises UsageError for a base image that the Engine cannot read."""
        if spec.base.startswith(ARCHIVE):
            message = f"the Docker Engine cannot use the base image {spec.base}"
            raise UsageError("builder_needed", message, "Build it with `--builder direct`.")
        return spec

    def find_id(self, tag: str) -> str | None:
        """Return the id of the image with a tag, or None."""
        image = self._engine.find_image(tag)
        return image.id if image else None

    def build(
        self, spec: BuildSpec, tell: Callable[[str], None], *, pull: bool = False, cache: bool = True
    ) -> BuiltImage:
        """Build the container image unless it exists."""
        return build(self._engine, spec, tell, pull=pull, cache=cache)

    def size(self, built: BuiltImage) -> int:
        """Return the size of all layers; the Engine's own figure can be compressed."""
        return sum(size for _, size in self._engine.layers(built.tag))

    def send(self, built: BuiltImage, repository: EcrRepository, tag: str, show: Show) -> str:
        """Check the image as the Engine saves it, and let the Engine push it."""
        return docker_push.send(self._engine, built, repository, tag, show)


def build(
    engine: Engine, spec: BuildSpec, tell: Callable[[str], None], *, pull: bool = False, cache: bool = True
) -> BuiltImage:
    """Build the container image unless it exists. `pull` or `cache=False` forces a build.

    tell: takes the log line by line. Raises MissingError, RemoteError, UsageError.
    """
    tag = spec.tag()
    image = engine.find_image(tag)
    if image and not pull and cache:
        return _described(engine, image, tag=tag, outcome="unchanged")
    _check_base(engine, spec, pull=pull)
    with open_context(spec) as context:
        args = {**spec.proxies, "BASE": spec.base}
        if spec.model:
            args |= {"MODEL_URI": MODEL_PATH, "MODEL_SHA256": spec.model.sha256}
        labels = {PROJECT_LABEL: spec.project}
        log = engine.build(context, tag=tag, arch=spec.arch, args=args, labels=labels, pull=pull, cache=cache)
        _follow(log, tell)
    image = engine.find_image(tag)
    if image is None:
        raise RemoteError("build_failed", f"the build succeeded, but container image {tag} does not exist")
    if image.arch != spec.arch:  # the classic builder accepts a local base image of any architecture
        engine.remove_image(tag)
        raise _wrong_architecture(spec, image.arch)
    return _described(engine, image, tag=tag, outcome="created")


def _follow(log: Iterator[str], tell: Callable[[str], None]) -> None:
    """Pass the log on. Add the last lines of the failed step to a RemoteError."""
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
        raise RemoteError(error.code, error.what, hint or error.hint, reason=f"{error.reason}{lines}") from error


def _pip_hint(lines: str) -> str:
    """Return a hint if pip's output shows a network failure, else ""."""
    if "CERTIFICATE_VERIFY_FAILED" in lines:
        return "Pass the certificate of your network's proxy with `mlinfer build --ca-bundle FILE`."
    if any(words in lines for words in _NO_CONNECTION):
        return (
            "Set HTTPS_PROXY if pip needs a proxy to reach the package index. "
            "It must not be a loopback address, which a build cannot reach."
        )
    return ""


def _described(engine: Engine, image: Image, *, tag: str, outcome: Literal["created", "unchanged"]) -> BuiltImage:
    ours = [size for instruction, size in engine.layers(tag) if "COPY" in instruction][: len(_LAYERS)]
    layers = dict(reversed(list(zip(_LAYERS, ours, strict=False))))
    return BuiltImage(image.id, tag, image.arch, image.bytes, layers, outcome)


def _check_base(engine: Engine, spec: BuildSpec, *, pull: bool) -> None:
    """Raise UsageError if the local base image has another architecture, which the classic builder would accept."""
    base = engine.find_image(spec.base)
    if base and not pull and base.arch != spec.arch:
        raise _wrong_architecture(spec, base.arch)


def _wrong_architecture(spec: BuildSpec, found: str) -> MlinferError:
    message = f"the local base image {spec.base} is for {found}, but {spec.arch} is required"
    hint = f"Pull the right one with `docker pull --platform {PLATFORMS[spec.arch]} {spec.base}`."
    return UsageError("wrong_architecture", message, hint)
