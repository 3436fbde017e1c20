"""`mlinfer build`: build the Lambda image."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ...terminal import Terminal
from ..inputs import (
    make_build_spec,
    tell_of_unused_model,
)
from ..options import (
    ArchFlag,
    JsonFlag,
    ModelFlag,
    ModelSourceFlag,
    ProjectFlag,
    QuietFlag,
    VerboseFlag,
    app,
    configuration,
    require,
)
from ..views.image import build_image

if TYPE_CHECKING:
    pass


@app.command()
def build(
    model: ModelFlag = None,
    arch: ArchFlag = None,
    model_source: ModelSourceFlag = None,
    project: ProjectFlag = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Take no layer from an earlier build.")] = False,
    ca_bundle: Annotated[
        str | None,
        typer.Option(
            "--ca-bundle",
            metavar="FILE",
            help="PEM file that pip trusts during the build; it stays out of the image.",
            show_default=False,
        ),
    ] = None,
    pull: Annotated[bool, typer.Option("--pull", help="Ask the registry for a newer base image first.")] = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> None:
    """Build the Lambda image, unless it is there:  mlinfer build"""
    from ...clients import docker as engine

    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    config = configuration(model=model, arch=arch, model_source=model_source, project=project, ca_bundle=ca_bundle)
    require(lambda: make_build_spec(config), lambda: engine.connect(os.environ))
    spec = make_build_spec(config)
    tell_of_unused_model(terminal, config)
    built = build_image(terminal, engine.connect(os.environ), spec, pull=pull, cache=not no_cache)
    if as_json:
        terminal.document(asdict(built))
    else:
        terminal.text(built.tag)
