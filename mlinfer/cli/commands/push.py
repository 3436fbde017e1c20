"""`mlinfer push`: bring the image to ECR."""

from __future__ import annotations

import os
from dataclasses import asdict

from ..application import command
from ..options import (
    AwsOptions,
    ImageOptions,
    OutputOptions,
    read_configuration,
)
from ..views.image import push_image
from ..views.model import warn_of_unused_model


@command
def push(
    *,
    image: ImageOptions,
    aws: AwsOptions,
    output: OutputOptions,
) -> None:
    """Bring the image to ECR, built first if it is not here:  mlinfer push

    Prints REPOSITORY@sha256:..., the one name of it that can never mean another image. What is there already is not sent again.
    """
    from ...clients import docker

    terminal = output.make_terminal()
    config = read_configuration(image, aws)
    warn_of_unused_model(terminal, config)
    ecr = aws.account.open_session(terminal, lambda: docker.connect(os.environ)).client("ecr")
    repository, pushed = push_image(terminal, docker.connect(os.environ), ecr, config)
    if output.as_json:
        terminal.document({**asdict(pushed), "repository": {"uri": repository.uri, **repository.outcomes}})
    else:
        terminal.text(pushed.uri)
