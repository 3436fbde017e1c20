"""`mlinfer upload`: upload a model file to S3."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from ...config import Config
from ...errors import UsageError
from ...terminal import Terminal
from ..application import AWS, command
from ..options import (
    AwsOptions,
    BucketFlag,
    OutputOptions,
    PrefixFlag,
    find_account,
    read_configuration,
    require,
)

if TYPE_CHECKING:
    from ...clients.aws import Session


@command("mlinfer upload models/resnet18.onnx --bucket my-models", "mlinfer upload --create-bucket")
def upload(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="Model file.", show_default="model in mlinfer.toml, or starter"),
    ] = None,
    *,
    bucket: BucketFlag = None,
    prefix: PrefixFlag = None,
    create_bucket: Annotated[
        bool,
        typer.Option(
            "--create-bucket",
            help="Create the bucket (private, encrypted, versioned) if it does not exist.",
            rich_help_panel=AWS,
        ),
    ] = False,
    aws: AwsOptions,
    output: OutputOptions,
) -> None:
    """Upload a model file to S3.

    The key contains the SHA-256 of the file, so a file that is already there is not uploaded again. `mlinfer deploy` uploads the model by itself.
    """
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
    done = {"uploaded": "Uploaded and verified (SHA-256)", "unchanged": "Already uploaded, unchanged"}
    terminal.note(f"{done[result.outcome]}: {result.bytes:,} bytes.")


def _create_bucket(terminal: Terminal, config: Config, session: Session) -> None:
    """Create the bucket if it does not exist. Raises MlinferError."""
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
        terminal.note(f"Created bucket {config.bucket} ({s3.meta.region_name}): private, encrypted, versioned.")


def _require_bucket(config: Config) -> None:
    if not config.bucket:
        hint = "Run `mlinfer upload --bucket NAME --create-bucket`, or set `bucket` in mlinfer.toml."
        raise UsageError("no_bucket", "no S3 bucket is set", hint)
