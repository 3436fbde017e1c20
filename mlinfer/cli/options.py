"""Options that several commands share, grouped in dataclasses, and the objects built from them."""

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

from ..config import ARCHITECTURES, COMMAND_LINE, KEYS, MODEL_SOURCES, Config, load_config
from ..errors import MissingError, MlinferError, UsageError
from ..terminal import Terminal
from .application import AWS, FUNCTION, MODEL, OUTPUT

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
        help="Model file, or `starter` for the built-in model.",
        show_default="model in mlinfer.toml, or starter",
        rich_help_panel=MODEL,
    ),
]
ProjectFlag = Annotated[
    str | None,
    typer.Option(
        "--project",
        metavar="NAME",
        help="Project name.",
        show_default="project in mlinfer.toml, or the folder name",
        rich_help_panel=AWS,
    ),
]
PortFlag = Annotated[
    int | None,
    typer.Option(
        "--port", metavar="PORT", help="Port of the local function.", show_default="9000", rich_help_panel=FUNCTION
    ),
]
ArchFlag = Annotated[
    str | None,
    typer.Option(
        "--arch",
        metavar="|".join(ARCHITECTURES),
        help="CPU architecture.",
        show_default="x86_64",
        rich_help_panel=FUNCTION,
    ),
]
MemoryFlag = Annotated[
    int | None,
    typer.Option(
        "--memory",
        metavar="MB",
        help="Memory size (1769 MB equal one vCPU).",
        show_default="1769",
        rich_help_panel=FUNCTION,
    ),
]
TimeoutFlag = Annotated[
    int | None,
    typer.Option(
        "--timeout", metavar="SECONDS", help="Timeout of a request.", show_default="30", rich_help_panel=FUNCTION
    ),
]
BuilderFlag = Annotated[
    str | None,
    typer.Option(
        "--builder",
        metavar="auto|docker|direct",
        help="What builds the container image (`direct` needs no Docker).",
        show_default="auto",
        rich_help_panel=FUNCTION,
    ),
]
NoBytecodeFlag = Annotated[
    bool,
    typer.Option(
        "--no-bytecode",
        help="Do not compile the modules (builder `direct`). Cold starts take longer.",
        rich_help_panel=FUNCTION,
    ),
]
ModelSourceFlag = Annotated[
    str | None,
    typer.Option(
        "--model-source",
        metavar="|".join(MODEL_SOURCES),
        help="Where the function gets the model from.",
        show_default="s3",
        rich_help_panel=MODEL,
    ),
]
BucketFlag = Annotated[
    str | None,
    typer.Option(
        "--bucket",
        metavar="NAME",
        help="S3 bucket of the models.",
        show_default="bucket in mlinfer.toml",
        rich_help_panel=AWS,
    ),
]
PrefixFlag = Annotated[
    str | None,
    typer.Option(
        "--prefix",
        metavar="PREFIX",
        help="Key prefix of the models.",
        show_default="models",
        rich_help_panel=AWS,
    ),
]
YesFlag = Annotated[bool, typer.Option("--yes", "-y", help="Skip confirmation prompts.")]


@dataclass(frozen=True)
class OutputOptions:
    """How a command writes its result."""

    as_json: Annotated[bool, typer.Option("--json", help="Write only JSON to stdout.", rich_help_panel=OUTPUT)] = False
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Write only errors to stderr.", rich_help_panel=OUTPUT)
    ] = False
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show log lines, and tracebacks of errors.", rich_help_panel=OUTPUT)
    ] = False

    def make_terminal(self) -> Terminal:
        """Return the terminal with these settings. Raises UsageError."""
        return Terminal(as_json=self.as_json, quiet=self.quiet, verbose=self.verbose)


@dataclass(frozen=True)
class AccountOptions:
    """The AWS account and Region."""

    region: Annotated[
        str | None,
        typer.Option(
            "--region",
            metavar="REGION",
            help="AWS Region.",
            show_default="from your AWS configuration",
            rich_help_panel=AWS,
        ),
    ] = None
    profile: Annotated[
        str | None,
        typer.Option(
            "--profile",
            metavar="NAME",
            help="AWS profile.",
            show_default="from your AWS configuration",
            rich_help_panel=AWS,
        ),
    ] = None

    def make_session(self, terminal: Terminal) -> Session:
        """Return a session that has not looked for credentials or a Region yet. Raises MlinferError."""
        from ..clients.aws import Session

        return Session(region=self.region, profile=self.profile, ask=terminal.ask_secret)

    def open_session(self, terminal: Terminal, *checks: Callable[[], object]) -> Session:
        """Return a session that has a Region and credentials.

        It also runs the checks, and reports everything that is missing in one error. Raises MlinferError.
        """
        session = self.make_session(terminal)
        require(*checks, session.require_region, session.require_credentials)
        return session

    def read_s3_environment(self, terminal: Terminal, config: Config) -> dict[str, str]:
        """Return the environment variables with which a local function fetches the uploaded model.

        They are the model's URI and the credentials, Region and endpoint that boto3 finds. Raises MlinferError.
        """
        from ..clients import aws
        from ..cloud.resources.model_object import object_key
        from ..model.path import read_configured_model

        if config.model_source != "s3":
            raise UsageError("usage", "--from-s3 needs model_source s3", "Remove --model-source image.")

        def need_bucket() -> None:
            if not config.bucket:
                hint = "Set `bucket` in mlinfer.toml, then run `mlinfer upload`."
                raise UsageError("no_bucket", "no S3 bucket is set", hint)

        found: dict[str, str] = {}
        which = {"region": self.region, "profile": self.profile}
        require(need_bucket, lambda: found.update(aws.container_environment(**which, ask=terminal.ask_secret)))
        found["MLINFER_MODEL_URI"] = f"s3://{config.bucket}/{object_key(read_configured_model(config), config.prefix)}"
        return found


@dataclass(frozen=True)
class AwsOptions:
    """The project and the AWS account."""

    project: ProjectFlag = None
    account: AccountOptions = AccountOptions()


@dataclass(frozen=True)
class ImageOptions:
    """What the container image contains."""

    model: ModelFlag = None
    arch: ArchFlag = None
    model_source: ModelSourceFlag = None
    builder: BuilderFlag = None
    no_bytecode: NoBytecodeFlag = False


def read_configuration(*bundles: DataclassInstance, **flags: object) -> Config:
    """Return the configuration; an option that is None was not given. Raises UsageError.

    bundles: dataclasses of options; only fields with the name of a configuration key are used.
    """
    keys = {key.name for key in KEYS}
    given = {name: value for bundle in bundles for name, value in vars(bundle).items() if name in keys}
    return load_config(Path(), os.environ, given | flags)


def report_unused(terminal: Terminal, config: Config, reason: str, *keys: str, **flags: object) -> None:
    """Raise UsageError for options that have no effect; print a note for such environment variables.

    keys: configuration keys. flags: other options by name; None or False means not given.
    """
    given = [key for key in keys if config.origins[key] == COMMAND_LINE]
    given += [name for name, value in flags.items() if value not in (None, False)]
    if given:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        verb = "has" if len(given) == 1 else "have"
        raise UsageError("no_effect", f"{named} {verb} no effect: {reason}", f"Remove {named}.")
    for key in keys:
        if config.origins[key].startswith("MLINFER_"):
            terminal.note(f"{config.origins[key]} has no effect: {reason}.")


def require(*checks: Callable[[], object]) -> None:
    """Run every check. Raises the error if one fails, or a MissingError that lists all if several fail."""
    found: dict[str, MlinferError] = {}
    for check in checks:
        try:
            check()
        except (UsageError, MissingError) as error:
            found.setdefault(str(error), error)
    if len(found) == 1:
        raise next(iter(found.values()))
    if found:
        told = "".join(f"\n- {text}" + (f"\n  Hint: {e.hint}" if e.hint else "") for text, e in found.items())
        raise MissingError("several_missing", f"{len(found)} required settings are missing or invalid:{told}")


def make_request_lock(config: Config) -> Callable[[], AbstractContextManager[None]]:
    """Return a function that locks the local function for one request: the emulator crashes if two overlap."""
    from ..files import file_lock

    return partial(file_lock, f"mlinfer-{config.port}")


def model_words(config: Config) -> str:
    """Return ` --model FILE` for a hint, or "" if a variable or mlinfer.toml sets the model."""
    return f" --model {shlex.quote(config.model)}" if config.origins["model"] == COMMAND_LINE else ""


def read_pictures(names: Sequence[str]) -> list[Picture]:
    """Return the images; each file is read only when it is needed."""
    from ..targets import Picture

    return [Picture(name, partial(read_image, name)) for name in names]


def deploy_remedy(config: Config) -> str:
    """Return the hint to deploy the model that was asked for."""
    return f"Deploy it with `mlinfer deploy{model_words(config)}`."


def read_image(name: str) -> bytes:
    """Read an image file or stdin; of a file that is too large, read only enough to see that."""
    if not name:
        raise UsageError("usage", "an image name is empty", "Give the path of an image file.")
    if name != "-":
        with Path(name).open("rb") as file:
            return file.read(MAX_IMAGE_BYTES + 1)
    if sys.stdin is None or sys.stdin.isatty():  # None if the caller closed it
        state = "closed" if sys.stdin is None else "a terminal"
        message = f"`-` reads an image from stdin, but stdin is {state}"
        raise UsageError("no_input", message, "Redirect a file: `mlinfer predict - < cat.jpg`.")
    return sys.stdin.buffer.read(MAX_IMAGE_BYTES + 1)


def require_digest(uri: str) -> str:
    """Return the URI of a container image if it has a digest. Raises UsageError."""
    if not re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", uri):
        hint = "Use the URI that `mlinfer push` prints. It ends in @sha256: and 64 digits."
        raise UsageError("invalid_value", f"--image {uri!r} has no digest", hint)
    return uri


def find_account(session: Session) -> Account:
    """Return the account of the session's credentials. Raises MlinferError."""
    from ..clients import aws

    return aws.find_account(session.client("sts"))


def make_deployment_clients(session: Session) -> DeploymentClients:
    """Return the AWS clients that a deployment needs."""
    from ..cloud.deploy import DeploymentClients

    return DeploymentClients(
        functions=session.client("lambda"),
        iam=session.client("iam"),
        logs=session.client("logs"),
        s3=session.client("s3"),
        invoker=lambda seconds: session.client("lambda", read_timeout=seconds),
    )


def make_waiter(terminal: Terminal) -> Waiter:
    """Return a waiter that prints a note while it waits for AWS."""
    from ..clients.waiter import Waiter

    return Waiter(time.sleep, terminal.note)
