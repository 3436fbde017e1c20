"""`mlinfer build`: build the Lambda container image."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..application import command
from ..options import (
    ImageOptions,
    OutputOptions,
    ProjectFlag,
    read_configuration,
    require,
)
from ..views.image import build_image, open_builder, require_builder, write_image
from ..views.model import warn_of_unused_model


@command("mlinfer build", "mlinfer build --arch arm64 --model-source image", "mlinfer build --builder direct")
def build(
    *,
    image: ImageOptions,
    project: ProjectFlag = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Do not use layers of earlier builds.")] = False,
    ca_bundle: Annotated[
        str | None,
        typer.Option(
            "--ca-bundle",
            metavar="FILE",
            help="PEM file of certificates that pip trusts during the build (not copied into the container image).",
            show_default=False,
        ),
    ] = None,
    archive: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="Write the container image to a tar file that `docker load` and other tools read.",
            show_default=False,
        ),
    ] = None,
    pull: Annotated[bool, typer.Option("--pull", help="Check the registry for a newer base image first.")] = False,
    output: OutputOptions,
) -> None:
    """Build the Lambda container image.

    The tag is a hash of the contents, so an image that already exists is not built again.
    """
    from ...container_image.contents import make_build_spec

    terminal = output.make_terminal()
    config = read_configuration(image, project=project, ca_bundle=ca_bundle)
    require(lambda: make_build_spec(config, os.environ), lambda: require_builder(config))
    spec = make_build_spec(config, os.environ)
    warn_of_unused_model(terminal, config)
    builder = open_builder(terminal, config, no_bytecode=image.no_bytecode, direct=archive is not None)
    built = build_image(terminal, builder, spec, pull=pull, cache=not no_cache)
    if archive:
        write_image(terminal, builder, built, archive)
    if output.as_json:
        terminal.document(asdict(built))
    else:
        terminal.text(built.tag)
