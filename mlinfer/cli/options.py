"""What the commands share: the application that they belong to, the flags, and the configuration that these override."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from lambda_src.settings import MAX_IMAGE_BYTES

from ..config import COMMAND_LINE, Config, load_config
from ..errors import MissingError, MlinferError, UsageError
from ..terminal import Terminal

if TYPE_CHECKING:
    from ..clients.aws import Session

# As the help and docs/commands.md list them: in the order of the way, then what looks after it. Each is a module of
# `commands`, named as it is typed.
COMMANDS = (
    "init",
    "predict",
    "export",
    "inspect",
    "build",
    "run-local",
    "deploy",
    "upload",
    "push",
    "status",
    "logs",
    "rollback",
    "destroy",
    "doctor",
    "bench",
    "tune",
)

SLACK_S = 15  # beyond the function's timeout: the start of a container and the way there


class _InOrder(TyperGroup):
    def list_commands(self, _: object) -> list[str]:
        return [name for name in COMMANDS if name in self.commands]


app = typer.Typer(
    name="mlinfer",
    cls=_InOrder,
    help="Take an image classifier from a laptop to AWS Lambda, and prove at each step that the answer has not changed.\n\n"
    "Start with:  mlinfer predict cat.jpg",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

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
RegionFlag = Annotated[
    str | None, typer.Option("--region", help="AWS Region; default: as boto3 finds it.", show_default=False)
]
ProfileFlag = Annotated[
    str | None, typer.Option("--profile", help="AWS profile; default: as boto3 finds it.", show_default=False)
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
JsonFlag = Annotated[bool, typer.Option("--json", help="Write JSON to stdout, and nothing else there.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="Write nothing to stderr but errors.")]
VerboseFlag = Annotated[
    bool, typer.Option("--verbose", "-v", help="Show the handler's log lines, and the traceback of an error.")
]


def configuration(**flags: object) -> Config:
    """Return the configuration in force; a flag that is None was not given. Raises UsageError."""
    return load_config(Path(), os.environ, flags)


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


def aws_session(terminal: Terminal, region: str | None, profile: str | None, *checks: Callable[[], object]) -> Session:
    """Return the session of a command that needs a Region and credentials, once the other checks hold, too.

    Tells all that is missing at once. Raises MlinferError.
    """
    from ..clients import aws

    session = aws.Session(region=region, profile=profile, ask=terminal.ask_secret)
    require(*checks, session.require_region, session.require_credentials)
    return session


def one_at_a_time(config: Config) -> Callable[[], AbstractContextManager[None]]:
    """Return what makes the context of each request to the local function: a second one at once would end the emulator."""
    from ..files import file_lock

    return partial(file_lock, f"mlinfer-{config.port}")


def model_words(config: Config) -> str:
    """Return the flag that a hint needs to name the model once more; "" where a variable or the file names it."""
    return f" --model {shlex.quote(config.model)}" if config.origins["model"] == COMMAND_LINE else ""


def read_image(name: str) -> bytes:
    """Read an image, and of what can be none only as much as shows it."""
    if not name:
        raise UsageError("usage", "the name of an image is empty", "See: mlinfer predict --help")
    if name != "-":
        with Path(name).open("rb") as file:
            return file.read(MAX_IMAGE_BYTES + 1)
    if sys.stdin.isatty():
        raise UsageError(
            "no_input", "- reads an image from stdin, but stdin is a terminal", "Pipe one: mlinfer predict - < cat.jpg"
        )
    return sys.stdin.buffer.read(MAX_IMAGE_BYTES + 1)
