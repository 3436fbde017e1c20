"""`mlinfer upload`: put a model file into S3."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Annotated

import typer

from ...config import Config
from ...errors import UsageError
from ..application import command
from ..options import (
    AwsOptions,
    OutputOptions,
    configuration,
    require,
)


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
    terminal = output.terminal()
    config = configuration(aws, model=model, bucket=bucket, prefix=prefix)
    from ...clients.aws import Session, find_account
    from ...cloud.resources import model_object as step
    from ...cloud.resources.bucket import ensure_bucket
    from ...model import modelfile
    from ...model.path import model_path

    session = Session(region=aws.account.region, profile=aws.account.profile, ask=terminal.ask_secret)
    places = [session.require_region] if create_bucket else []
    require(partial(_require_bucket, config), lambda: model_path(config), *places, session.require_credentials)
    file = modelfile.read_model_file(model_path(config))
    target = step.ModelObject(file, config.bucket, step.object_key(file, config.prefix), config.kms_key)
    s3 = session.client("s3")

    def owner() -> str:
        return find_account(session.client("sts")).id

    if create_bucket and ensure_bucket(s3, config.bucket, project=config.project, owner=owner, kms_key=config.kms_key):
        terminal.note(f"Made the bucket {config.bucket} ({s3.meta.region_name}): private, encrypted, versioned.")
    with terminal.bytes_bar(file.bytes, "Uploading") as advance:
        result = step.upload(s3, target, advance)
    if output.as_json:
        terminal.document(asdict(result))
    else:
        terminal.text(result.uri)
    done = {"uploaded": "Uploaded, and its SHA-256 confirmed by S3", "unchanged": "It was there already, unchanged"}
    terminal.note(f"{done[result.outcome]}: {result.bytes:,} bytes.")


def _require_bucket(config: Config) -> None:
    if not config.bucket:
        hint = "Name one with --bucket (--create-bucket makes it), or bucket in mlinfer.toml."
        raise UsageError("no_bucket", "no S3 bucket is named", hint)
