"""The flags that several commands share, as bundles of those that travel together, and what is made of them."""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lambda_src.settings import MAX_IMAGE_BYTES

from ..config import COMMAND_LINE, KEYS, Config, load_config
from ..errors import MissingError, MlinferError, UsageError
from ..terminal import Terminal

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from ..clients.aws import Session
    from ..clients.waiter import Waiter
    from ..cloud.deploy import DeploymentClients
    from ..names import Account
    from ..targets import Picture


ModelFlag = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="FILE",
        help="Model file, or starter: the built-in one; default: the configured model, else starter.",
        show_default=False,
    ),
]
ProjectFlag = Annotated[
    str | None,
    typer.Option(
        "--project",
        metavar="NAME",
        help="Project; default: the configured one, else the folder's name.",
        show_default=False,
    ),
]
PortFlag = Annotated[
    int | None,
    typer.Option(
        "--port", help="Where the local function listens; default: the configured port, else 9000.", show_default=False
    ),
]
ArchFlag = Annotated[
    str | None, typer.Option("--arch", metavar="x86_64|arm64", help="Of image and function.", show_default=False)
]
ModelSourceFlag = Annotated[
    str | None,
    typer.Option("--model-source", metavar="s3|image", help="Where the function finds the model.", show_default=False),
]
YesFlag = Annotated[bool, typer.Option("--yes", "-y", help="Answer yes to what would be asked, as scripts must.")]


@dataclass(frozen=True)
class OutputOptions:
    """How a command reports."""

    as_json: Annotated[bool, typer.Option("--json", help="Write JSON to stdout, and nothing else there.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Write nothing to stderr but errors.")] = False
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the handler's log lines, and the traceback of an error.")
    ] = False

    def make_terminal(self) -> Terminal:
        """Return what writes so. Raises UsageError."""
        return Terminal(as_json=self.as_json, quiet=self.quiet, verbose=self.verbose)


@dataclass(frozen=True)
class AccountOptions:
    """Which account of AWS, and which of its Regions."""

    region: Annotated[
        str | None, typer.Option("--region", help="AWS Region; default: as boto3 finds it.", show_default=False)
    ] = None
    profile: Annotated[
        str | None, typer.Option("--profile", help="AWS profile; default: as boto3 finds it.", show_default=False)
    ] = None

    def make_session(self, terminal: Terminal) -> Session:
        """Return the session, in which nothing was looked for yet. Raises MlinferError."""
        from ..clients.aws import Session

        return Session(region=self.region, profile=self.profile, ask=terminal.ask_secret)

    def open_session(self, terminal: Terminal, *checks: Callable[[], object]) -> Session:
        """Return the session of a command that needs a Region and credentials, once the other checks hold, too.

        Tells all that is missing at once. Raises MlinferError.
        """
        session = self.make_session(terminal)
        require(*checks, session.require_region, session.require_credentials)
        return session

    def read_s3_environment(self, terminal: Terminal, config: Config) -> dict[str, str]:
        """Return what lets a function on this machine fetch the uploaded model: where that is, and what boto3 finds here.

        That is credentials, Region and endpoint, as Lambda would give its own. Raises MlinferError.
        """
        from ..clients import aws
        from ..cloud.resources.model_object import object_key
        from ..model.path import read_configured_model

        if config.model_source != "s3":
            raise UsageError("usage", "--from-s3 needs model_source s3", "Leave out --model-source image.")

        def need_bucket() -> None:
            if not config.bucket:
                hint = "Set bucket in mlinfer.toml, and mlinfer upload first."
                raise UsageError("no_bucket", "no S3 bucket is named", hint)

        found: dict[str, str] = {}
        which = {"region": self.region, "profile": self.profile}
        require(need_bucket, lambda: found.update(aws.container_environment(**which, ask=terminal.ask_secret)))
        found["MLINFER_MODEL_URI"] = f"s3://{config.bucket}/{object_key(read_configured_model(config), config.prefix)}"
        return found


@dataclass(frozen=True)
class AwsOptions:
    """Which project, and in which account."""

    project: ProjectFlag = None
    account: AccountOptions = AccountOptions()


@dataclass(frozen=True)
class ImageOptions:
    """What the image is made of."""

    model: ModelFlag = None
    arch: ArchFlag = None
    model_source: ModelSourceFlag = None


def read_configuration(*bundles: DataclassInstance, **flags: object) -> Config:
    """Return the configuration in force; a flag that is None was not given. Raises UsageError.

    bundles: of their flags, those that are named as a key of the configuration.
    """
    keys = {key.name for key in KEYS}
    given = {name: value for bundle in bundles for name, value in vars(bundle).items() if name in keys}
    return load_config(Path(), os.environ, given | flags)


def report_unused(terminal: Terminal, config: Config, reason: str, *keys: str, **flags: object) -> None:
    """Refuse the flags, and tell of the variables, that have no effect for that reason. Raises UsageError.

    keys: of the configuration. flags: by their names; one that is None or False was not given.
    """
    given = [key for key in keys if config.origins[key] == COMMAND_LINE]
    given += [name for name, value in flags.items() if value not in (None, False)]
    if given:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        verb = "has" if len(given) == 1 else "have"
        raise UsageError("no_effect", f"{named} {verb} no effect: {reason}", f"Leave out {named}.")
    for key in keys:
        if config.origins[key].startswith("MLINFER_"):
            terminal.note(f"{config.origins[key]} has no effect: {reason}.")


def require(*checks: Callable[[], object]) -> None:
    """Make every check and tell at once all that is missing. Raises the one error, or a MissingError that lists them."""
    found: dict[str, MlinferError] = {}
    for check in checks:
        try:
            check()
        except (UsageError, MissingError) as error:
            found.setdefault(str(error), error)
    if len(found) == 1:
        raise next(iter(found.values()))
    if found:
        told = "".join(f"\n- {text}\n  {error.hint}".rstrip() for text, error in found.items())
        raise MissingError("several_missing", f"{len(found)} things are missing or wrong:{told}")


def make_request_lock(config: Config) -> Callable[[], AbstractContextManager[None]]:
    """Return what makes the context of each request to the local function: a second one at once would end the emulator."""
    from ..files import file_lock

    return partial(file_lock, f"mlinfer-{config.port}")


def model_words(config: Config) -> str:
    """Return the flag that a hint needs to name the model once more; "" where a variable or the file names it."""
    return f" --model {shlex.quote(config.model)}" if config.origins["model"] == COMMAND_LINE else ""


def read_pictures(names: Sequence[str]) -> list[Picture]:
    """Return the pictures, each of which is read when it is its turn."""
    from ..targets import Picture

    return [Picture(name, partial(read_image, name)) for name in names]


def deploy_remedy(config: Config) -> str:
    """Return the hint that lets target aws answer with the named model."""
    return f"Deploy it: mlinfer deploy{model_words(config)}"


def read_image(name: str) -> bytes:
    """Read an image, and of what can be none only as much as shows it."""
    if not name:
        raise UsageError("usage", "the name of an image is empty", "See: mlinfer predict --help")
    if name != "-":
        with Path(name).open("rb") as file:
            return file.read(MAX_IMAGE_BYTES + 1)
    if sys.stdin is None or sys.stdin.isatty():  # None where the caller has closed it
        state = "closed" if sys.stdin is None else "a terminal"
        message = f"- reads an image from stdin, but stdin is {state}"
        raise UsageError("no_input", message, "Pipe one: mlinfer predict - < cat.jpg")
    return sys.stdin.buffer.read(MAX_IMAGE_BYTES + 1)


def require_digest(uri: str) -> str:
    """Return an image's name that says which bytes it means. Raises UsageError."""
    if not re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", uri):
        hint = "It ends in @sha256: and 64 digits, as `mlinfer push` prints it: a tag can come to mean another image."
        raise UsageError("invalid_value", f"--image is {uri!r}, not an image by its digest", hint)
    return uri


def find_account(session: Session) -> Account:
    """Return whose credentials these are. Raises MlinferError."""
    from ..clients import aws

    return aws.find_account(session.client("sts"))


def make_deployment_clients(session: Session) -> DeploymentClients:
    """Return the clients of a deployment."""
    from ..cloud.deploy import DeploymentClients

    return DeploymentClients(
        functions=session.client("lambda"),
        iam=session.client("iam"),
        logs=session.client("logs"),
        s3=session.client("s3"),
        invoker=lambda seconds: session.client("lambda", read_timeout=seconds),
    )


def make_waiter(terminal: Terminal) -> Waiter:
    """Return what waits for AWS, and says so."""
    from ..clients.waiter import Waiter

    return Waiter(time.sleep, terminal.note)
