"""`mlinfer push`: push the container image to ECR."""

from __future__ import annotations

from dataclasses import asdict

from ..application import command
from ..options import (
    AwsOptions,
    ImageOptions,
    OutputOptions,
    read_configuration,
)
from ..views.image import open_builder, push_image, require_builder
from ..views.model import warn_of_unused_model


@command("mlinfer push", "mlinfer deploy --image $(mlinfer push)")
def push(
    *,
    image: ImageOptions,
    aws: AwsOptions,
    output: OutputOptions,
) -> None:
    """Push the container image to ECR.

    It builds the container image first if needed, and skips layers that ECR already has. It prints REPOSITORY@sha256:..., which `mlinfer deploy --image` takes.
    """
    terminal = output.make_terminal()
    config = read_configuration(image, aws)
    warn_of_unused_model(terminal, config)
    ecr = aws.account.open_session(terminal, lambda: require_builder(config)).client("ecr")
    builder = open_builder(terminal, config, no_bytecode=image.no_bytecode)
    repository, pushed = push_image(terminal, builder, ecr, config)
    if output.as_json:
        terminal.document({**asdict(pushed), "repository": {"uri": repository.uri, **repository.outcomes}})
    else:
        terminal.text(pushed.uri)
