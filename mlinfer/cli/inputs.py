"""What the configuration stands for: the model file, the contents of the image, the function to run."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import FILE_NAME, Config
from ..errors import MissingError, UsageError
from ..names import Account
from ..terminal import Terminal
from .options import (
    AccountOptions,
    require,
)

if TYPE_CHECKING:
    from ..clients.aws import Session
    from ..clients.waiter import Waiter
    from ..cloud.deploy import Clients
    from ..container_image.contents import BuildSpec
    from ..local.container import LocalFunction
    from ..model.modelfile import ModelFile


def make_build_spec(config: Config) -> BuildSpec:
    """Return what the configured image is made of, and how pip gets its packages. Raises MissingError, UsageError."""
    from ..container_image import docker_build
    from ..container_image.contents import BuildSpec
    from ..model import footprint
    from ..model.path import model_path

    if config.model_source == "image":
        footprint.check_image(model_path(config).stat().st_size)  # before gigabytes are read
    model = model_file(config) if config.model_source == "image" else None
    ca_bundle = _ca_bundle(config) if config.ca_bundle else None
    proxies = docker_build.build_proxies(os.environ)
    return BuildSpec(config.project, config.base_image, config.arch, model, ca_bundle, proxies)


def tell_of_unused_model(terminal: Terminal, config: Config) -> None:
    """Say that a model named for this command does not go into the image, once it is known to be one. Raises MlinferError."""
    origin = config.origins["model"]
    if config.model_source == "s3" and origin not in ("default", FILE_NAME):
        model = model_file(config)
        terminal.note(
            f"{model.path} (from {origin}) is not in this image: with model_source s3 the function gets its model from S3. "
            "To put it into the image: --model-source image"
        )


def foresee(terminal: Terminal, config: Config) -> None:
    """Say when the configured function has barely room for its model. Raises UsageError when it has none."""
    from ..model import footprint
    from ..model.path import model_path

    size = model_path(config).stat().st_size
    if note := footprint.foresee(size, config.memory, config.tmp if config.model_source == "s3" else None):
        terminal.note(note)


def _ca_bundle(config: Config) -> Path:
    """Return the configured certificates. Raises MissingError, UsageError."""
    path = Path(config.ca_bundle)
    named = f"{path} (ca_bundle from {config.origins['ca_bundle']})"
    try:
        content = path.read_bytes()
    except OSError as error:
        hint = "Name the PEM file of your proxy's certificate, or leave ca_bundle out."
        raise MissingError("ca_bundle_not_found", f"{named} cannot be read: {error.strerror}", hint) from error
    if b"-----BEGIN CERTIFICATE-----" not in content:
        hint = "Convert it: openssl x509 -inform der -in FILE -out ca.pem"
        raise UsageError("invalid_ca_bundle", f"{named} holds no certificate in PEM format", hint)
    return path


def model_file(config: Config) -> ModelFile:
    """Return the configured model file. Raises UsageError if a function could not predict with it."""
    from ..model import modelfile
    from ..model.path import model_path

    model = modelfile.read_model_file(model_path(config))
    modelfile.require_metadata(model)
    return model


def local_function(config: Config, tag: str, credentials: dict[str, str], *, from_s3: bool) -> LocalFunction:
    """Return how the image is to run: with the configured model mounted, inside the image or, `from_s3`, fetched."""
    from ..local import container

    environment = config.handler_environment() | credentials
    fetched = 0
    mounted = None
    if from_s3:
        from ..cloud.resources import model_object  # and with it boto3

        file = model_file(config)
        environment["MLINFER_MODEL_URI"] = f"s3://{config.bucket}/{model_object.object_key(file, config.prefix)}"
        environment["MLINFER_MODEL_SHA256"] = file.sha256
        fetched = file.bytes
    elif config.model_source == "s3":
        file = model_file(config)
        environment["MLINFER_MODEL_SHA256"] = file.sha256
        mounted = file.path
    return container.LocalFunction(
        tag,
        config.project,
        config.port,
        config.memory,
        config.tmp,
        config.timeout,
        environment,
        mounted,
        fetched,
    )


def s3_environment(terminal: Terminal, config: Config, account: AccountOptions) -> dict[str, str]:
    """Return the AWS credentials, Region and endpoint that boto3 finds here, as Lambda would give its own."""
    from ..clients import aws

    if config.model_source != "s3":
        raise UsageError("usage", "--from-s3 needs model_source s3", "Leave out --model-source image.")

    def need_bucket() -> None:
        if not config.bucket:
            hint = "Set bucket in mlinfer.toml, and mlinfer upload first."
            raise UsageError("no_bucket", "no S3 bucket is named", hint)

    found: dict[str, str] = {}
    ask = terminal.ask_secret
    require(
        need_bucket,
        lambda: found.update(aws.container_environment(region=account.region, profile=account.profile, ask=ask)),
    )
    return found


def model_here(config: Config) -> ModelFile | None:
    """Return the configured model file; None where it is not."""
    from ..model import modelfile
    from ..model.path import model_path

    try:
        return modelfile.read_model_file(model_path(config))
    except MissingError:
        return None


def account_of(session: Session) -> Account:
    """Return whose credentials these are. Raises MlinferError."""
    from ..clients import aws

    return aws.find_account(session.client("sts"))


def require_model_file(config: Config) -> None:
    """Raise MissingError where the configured model file is not."""
    from ..model.path import model_path

    model_path(config)


def cloud_clients(session: Session) -> Clients:
    """Return the clients of a deployment."""
    from ..cloud.deploy import Clients

    functions, iam, logs, s3 = (session.client(service) for service in ("lambda", "iam", "logs", "s3"))
    return Clients(functions, iam, logs, s3, lambda seconds: session.client("lambda", read_timeout=seconds))


def make_waiter(terminal: Terminal) -> Waiter:
    """Return what waits for AWS, and says so."""
    from ..clients.waiter import Waiter

    return Waiter(time.sleep, terminal.note)


def by_digest(uri: str) -> str:
    """Return an image's name that says which bytes it means. Raises UsageError."""
    if not re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", uri):
        hint = "It ends in @sha256: and 64 digits, as `mlinfer push` prints it: a tag can come to mean another image."
        raise UsageError("invalid_value", f"--image is {uri!r}, not an image by its digest", hint)
    return uri
