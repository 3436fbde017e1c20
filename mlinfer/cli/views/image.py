"""Build and push the container image, with progress and results on the terminal."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ...config import ARCHIVE, Config
from ...errors import MissingError, UsageError
from ...files import workspace
from ...names import Names
from ...terminal import Terminal
from ..options import report_unused

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient

    from ...clients.docker import Engine
    from ...cloud.resources.repository import AppliedRepository
    from ...container_image.builder import Builder, BuiltImage
    from ...container_image.contents import BuildSpec
    from ...container_image.direct_build import DirectBuilder
    from ...container_image.push import PushedImage

_REPOSITORY = {
    ("repository", "created"): "Created the ECR repository: immutable tags, scan on push.",
    ("repository", "changed"): "Changed the ECR repository: immutable tags, scan on push.",
    ("lifecycle", "created"): "Created its lifecycle policy: ECR deletes only untagged images.",
    ("lifecycle", "changed"): "Changed its lifecycle policy: ECR deletes only untagged images.",
    ("lifecycle", "kept"): "Warning: its lifecycle policy was not created by mlinfer and is kept. Make sure that it does not delete deployed images.",
    ("policy", "created"): "Created its policy: Lambda may pull images for this project's function.",
    ("policy", "changed"): "Changed its policy: Lambda may pull images for this project's function.",
}  # fmt: skip


def open_builder(terminal: Terminal, config: Config, *, no_bytecode: bool = False, direct: bool = False) -> Builder:
    """Return the configured builder; auto: the Engine if one answers. direct: auto means direct. Raises MissingError."""
    from ...clients import docker
    from ...container_image.docker_build import DockerBuilder

    reason = "it is built by the Docker Engine"
    direct = direct or config.base_image.startswith(ARCHIVE)
    if config.builder == "docker" or (config.builder == "auto" and not direct):
        try:
            engine = docker.connect(os.environ)
            report_unused(terminal, config, reason, no_bytecode=no_bytecode)
            return DockerBuilder(engine)
        except MissingError as error:
            if config.builder == "docker":
                raise
            terminal.note(f"Building without Docker: {error}.")
    return open_direct_builder(config, no_bytecode=no_bytecode)


def open_direct_builder(config: Config, *, no_bytecode: bool = False) -> DirectBuilder:
    """Return the builder that needs no Engine."""
    from ...container_image.cache import Cache, cache_folder
    from ...container_image.direct_build import DirectBuilder

    ca_bundle = Path(config.ca_bundle) if config.ca_bundle else None
    cache = Cache(cache_folder(os.environ))
    return DirectBuilder(cache, os.environ, ca_bundle=ca_bundle, with_bytecode=not no_bytecode)


def require_builder(config: Config) -> None:
    """Raise MissingError if the configured builder needs an Engine and none answers."""
    from ...clients import docker

    if config.builder == "docker":
        docker.connect(os.environ)


def build_image(
    terminal: Terminal, builder: Builder, spec: BuildSpec, *, pull: bool = False, cache: bool = True
) -> BuiltImage:
    """Build a container image unless it exists, and write the result."""
    with terminal.progress("Building the container image") as tell:
        built = builder.build(builder.complete(spec, pull=pull), tell, pull=pull, cache=cache)
    above = sum(built.layers.values())
    sizes = ", ".join(
        f"{name} {_megabytes(size)}" for name, size in built.layers.items() if name != "model" or spec.model
    )
    outcome = {"created": "Built", "unchanged": "Unchanged:"}[built.outcome]
    terminal.note(f"{outcome} {built.tag} ({built.arch}): {_megabytes(above)} on top of the base image ({sizes}).")
    return built


def build_for_engine(terminal: Terminal, engine: Engine, config: Config) -> BuiltImage:
    """Build the container image and have it in the Engine, which runs it."""
    from ...container_image.contents import make_build_spec
    from ...container_image.docker_build import DockerBuilder

    spec = make_build_spec(config, os.environ)
    if config.builder != "direct" and not config.base_image.startswith(ARCHIVE):
        return build_image(terminal, DockerBuilder(engine), spec)
    builder = open_direct_builder(config)
    built = build_image(terminal, builder, spec)
    there = engine.find_image(built.tag)
    if there is None or there.id != built.id:
        with terminal.progress("Loading the container image into the Docker Engine"):
            builder.load(engine, built)
    return built


def write_image(terminal: Terminal, builder: Builder, built: BuiltImage, path: Path) -> None:
    """Write a container image to an archive. Raises UsageError, MissingError."""
    from ...container_image.direct_build import DirectBuilder

    if not isinstance(builder, DirectBuilder):
        hint = f"Use `--builder direct`, or `docker save --output {path} {built.tag}`."
        raise UsageError("builder_needed", "--output needs the builder `direct`", hint)
    with terminal.progress(f"Writing {path}"), workspace(path) as folder:
        part = folder / "image.tar"
        with part.open("wb") as file:
            builder.write(built, file)
        part.replace(path)
    terminal.note(f"Wrote {path}: {_megabytes(path.stat().st_size)}.")


def push_image(
    terminal: Terminal, builder: Builder, ecr: ECRClient, config: Config
) -> tuple[AppliedRepository, PushedImage]:
    """Push the container image to ECR, build it first if needed, and write the result."""
    from ...cloud.resources.repository import apply_repository
    from ...container_image import push
    from ...container_image.contents import make_build_spec

    built = build_image(terminal, builder, make_build_spec(config, os.environ))
    push.check_image(builder, built, config.arch)
    repository = apply_repository(ecr, Names(config.project))
    with terminal.layer_bars() as show:
        pushed = push.push_image(builder, ecr, repository=repository.uri, built=built, arch=config.arch, show=show)
    for name, outcome in repository.outcomes.items():
        if outcome != "unchanged":
            terminal.note(_REPOSITORY[name, outcome])
    said = {"pushed": "Pushed and verified", "unchanged": "Already pushed, unchanged"}[pushed.outcome]
    terminal.note(f"{said}: {pushed.bytes:,} bytes, {pushed.arch}, tag {pushed.tag}.")
    return repository, pushed


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
