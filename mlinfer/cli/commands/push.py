"""`mlinfer push`: bring the image to ECR."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING

from ...terminal import Terminal
from ..inputs import (
    tell_of_unused_model,
)
from ..options import (
    ArchFlag,
    JsonFlag,
    ModelFlag,
    ModelSourceFlag,
    ProfileFlag,
    ProjectFlag,
    QuietFlag,
    RegionFlag,
    VerboseFlag,
    app,
    aws_session,
    configuration,
)
from ..views.image import push_image

if TYPE_CHECKING:
    pass


@app.command()
def push(
    model: ModelFlag = None,
    arch: ArchFlag = None,
    model_source: ModelSourceFlag = None,
    project: ProjectFlag = None,
    region: RegionFlag = None,
    profile: ProfileFlag = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> None:
    """Bring the image to ECR, built first if it is not here:  mlinfer push

    Prints REPOSITORY@sha256:..., the one name of it that can never mean another image. What is there already is not sent again.
    """
    from ...clients import docker as engine

    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    config = configuration(model=model, arch=arch, model_source=model_source, project=project)
    tell_of_unused_model(terminal, config)
    ecr = aws_session(terminal, region, profile, lambda: engine.connect(os.environ)).client("ecr")
    repository, pushed = push_image(terminal, engine.connect(os.environ), ecr, config)
    if as_json:
        terminal.document({**asdict(pushed), "repository": {"uri": repository.uri, **repository.outcomes}})
    else:
        terminal.text(pushed.uri)
