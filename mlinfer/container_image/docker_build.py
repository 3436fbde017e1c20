"""Build the Lambda image with the Docker Engine, unless an image with its tag is there."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from ..clients.docker import PLATFORMS, Engine, Image
from ..errors import MlinferError, RemoteError, UsageError
from ..names import PROJECT_LABEL
from .contents import MODEL_PATH, BuildSpec, open_context

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
class BuiltImage:
    """An image that is there. bytes: of all its layers, unpacked; layers: those above the base, in bytes."""

    id: str
    tag: str
    arch: str
    bytes: int
    layers: Mapping[str, int]
    outcome: Literal["created", "unchanged"]


def build(
    engine: Engine, spec: BuildSpec, tell: Callable[[str], None], *, pull: bool = False, cache: bool = True
) -> BuiltImage:
    """Build the image unless it is there; pull, or no cache, builds it again. tell: takes the log, line by line.

    Raises MissingError, RemoteError, UsageError.
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
        raise RemoteError("build_failed", f"the Engine reports success, but there is no image {tag}")
    if image.arch != spec.arch:  # the classic builder takes a local base image of any architecture
        engine.remove_image(tag)
        raise _wrong_architecture(spec, image.arch)
    return _described(engine, image, tag=tag, outcome="created")


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


def _described(engine: Engine, image: Image, *, tag: str, outcome: Literal["created", "unchanged"]) -> BuiltImage:
    ours = [size for instruction, size in engine.layers(tag) if "COPY" in instruction][: len(_LAYERS)]
    layers = dict(reversed(list(zip(_LAYERS, ours, strict=False))))
    return BuiltImage(image.id, tag, image.arch, image.bytes, layers, outcome)


def _check_base(engine: Engine, spec: BuildSpec, *, pull: bool) -> None:
    """Refuse a base image that is here in another architecture: the classic builder would take it unasked."""
    base = engine.find_image(spec.base)
    if base and not pull and base.arch != spec.arch:
        raise _wrong_architecture(spec, base.arch)


def _wrong_architecture(spec: BuildSpec, found: str) -> MlinferError:
    message = f"{spec.base} is here for {found}, but {spec.arch} is asked for: Lambda could not start the image"
    hint = f"Get the right one: docker pull --platform {PLATFORMS[spec.arch]} {spec.base}   (or mlinfer build --pull)"
    return UsageError("wrong_architecture", message, hint)
