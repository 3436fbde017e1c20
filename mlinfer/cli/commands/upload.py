"""`mlinfer upload`: put a model file into S3."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from ...config import Config
from ...errors import UsageError
from ...terminal import Terminal
from ..application import command
from ..options import (
    AwsOptions,
    OutputOptions,
    find_account,
    read_configuration,
    require,
)

if TYPE_CHECKING:
    from ...clients.aws import Session


@command
def upload(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="Model file; default: the configured one.")
    ] = None,
    *,
    bucket: Annotated[str | None, typer.Option("--bucket", help="S3 bucket.", show_default=False)] = None,
    prefix: Annotated[
        str | None,
        typer.Option("--prefix", help="Prefix of the key; default: as configured, else models.", show_default=False),
    ] = None,
    create_bucket: Annotated[
        bool, typer.Option("--create-bucket", help="Make the bucket if there is none: private, encrypted, versioned.")
    ] = False,
    aws: AwsOptions,
    output: OutputOptions,
) -> None:
    """Put a model file into S3 under its hash:  mlinfer upload models/resnet18.onnx --bucket my-models"""
    from ...cloud.resources.model_object import ModelObject, object_key
    from ...cloud.resources.model_object import upload as put_model
    from ...model.modelfile import read_model_file
    from ...model.path import model_path

    terminal = output.make_terminal()
    config = read_configuration(aws, model=model, bucket=bucket, prefix=prefix)
    session = aws.account.make_session(terminal)
    places = [session.require_region] if create_bucket else []
    require(partial(_require_bucket, config), lambda: model_path(config), *places, session.require_credentials)
    file = read_model_file(model_path(config))
    target = ModelObject(file, config.bucket, object_key(file, config.prefix), config.kms_key)
    if create_bucket:
        _create_bucket(terminal, config, session)
    with terminal.bytes_bar(file.bytes, "Uploading") as advance:
        result = put_model(session.client("s3"), target, advance)
    if output.as_json:
        terminal.document(asdict(result))
    else:
        terminal.text(result.uri)
    done = {"uploaded": "Uploaded, and its SHA-256 confirmed by S3", "unchanged": "It was there already, unchanged"}
    terminal.note(f"{done[result.outcome]}: {result.bytes:,} bytes.")


def _create_bucket(terminal: Terminal, config: Config, session: Session) -> None:
    """Create the bucket unless it is there, and say so. Raises MlinferError."""
    from ...cloud.resources.bucket import ensure_bucket

    s3 = session.client("s3")
    is_new = ensure_bucket(
        s3,
        config.bucket,
        project=config.project,
        owner=lambda: find_account(session).id,
        kms_key=config.kms_key,
    )
    if is_new:
        terminal.note(f"Made the bucket {config.bucket} ({s3.meta.region_name}): private, encrypted, versioned.")


def _require_bucket(config: Config) -> None:
    if not config.bucket:
        hint = "Name one with --bucket (--create-bucket makes it), or bucket in mlinfer.toml."
        raise UsageError("no_bucket", "no S3 bucket is named", hint)
