"""What builds and sends a container image: the Docker Engine, or mlinfer itself. Both make the same files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from .contents import BuildSpec
from .registry import EcrRepository

Show = Callable[[str, int, int], None]  # takes a layer's id, the bytes sent and the total


@dataclass(frozen=True)
class BuiltImage:
    """A local container image. bytes: size of all layers, uncompressed. layers: sizes of those above the base image."""

    id: str
    tag: str
    arch: str
    bytes: int
    layers: Mapping[str, int]
    outcome: Literal["created", "unchanged"]


class Builder(Protocol):
    """Builds images and keeps them under their tags. Every method raises MlinferError."""

    def complete(self, spec: BuildSpec, *, pull: bool = False) -> BuildSpec:
        """Return the inputs with what the tag depends on here. pull: look for a newer base image first."""

    def find_id(self, tag: str) -> str | None:
        """Return the id of the image with a tag, or None."""

    def build(
        self, spec: BuildSpec, tell: Callable[[str], None], *, pull: bool = False, cache: bool = True
    ) -> BuiltImage:
        """Build the container image unless it exists. `pull` or `cache=False` forces a build. tell: takes log lines."""

    def size(self, built: BuiltImage) -> int:
        """Return the size of all layers, uncompressed, in bytes."""

    def send(self, built: BuiltImage, repository: EcrRepository, tag: str, show: Show) -> str:
        """Check the content of the image, send it, and return the digest of its manifest, "" if that is not known."""
