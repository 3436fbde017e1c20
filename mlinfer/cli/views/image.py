"""Build and push the container image, with progress and results on the terminal."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ...config import Config
from ...names import Names
from ...terminal import Terminal

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient

    from ...clients.docker import Engine
    from ...cloud.resources.repository import AppliedRepository
    from ...container_image.contents import BuildSpec
    from ...container_image.docker_build import BuiltImage
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


def build_image(
    terminal: Terminal, engine: Engine, spec: BuildSpec, *, pull: bool = False, cache: bool = True
) -> BuiltImage:
    """Build a container image unless it exists, and write the result."""
    from ...container_image import docker_build

    with terminal.progress(f"Building {spec.tag()}") as tell:
        built = docker_build.build(engine, spec, tell, pull=pull, cache=cache)
    above = sum(built.layers.values())
    sizes = ", ".join(
        f"{name} {_megabytes(size)}" for name, size in built.layers.items() if name != "model" or spec.model
    )
    outcome = {"created": "Built", "unchanged": "Unchanged:"}[built.outcome]
    terminal.note(f"{outcome} {built.tag} ({built.arch}): {_megabytes(above)} on top of the base image ({sizes}).")
    return built


def push_image(
    terminal: Terminal, engine: Engine, ecr: ECRClient, config: Config
) -> tuple[AppliedRepository, PushedImage]:
    """Push the container image to ECR, build it first if needed, and write the result."""
    from ...cloud.resources.repository import apply_repository
    from ...container_image import push
    from ...container_image.contents import make_build_spec

    built = build_image(terminal, engine, make_build_spec(config, os.environ))
    push.check_image(engine, built, config.arch)
    repository = apply_repository(ecr, Names(config.project))
    with terminal.layer_bars() as show:
        pushed = push.push_image(engine, ecr, repository=repository.uri, built=built, arch=config.arch, show=show)
    for name, outcome in repository.outcomes.items():
        if outcome != "unchanged":
            terminal.note(_REPOSITORY[name, outcome])
    said = {"pushed": "Pushed and verified", "unchanged": "Already pushed, unchanged"}[pushed.outcome]
    terminal.note(f"{said}: {pushed.bytes:,} bytes, {pushed.arch}, tag {pushed.tag}.")
    return repository, pushed


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
