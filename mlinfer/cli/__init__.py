"""The command line. Each command makes what a step needs, calls that one step and shows its result.

`main` runs one. `commands` holds them, a module each, and only the one that is asked for is imported: Typer takes a
millisecond for each command that it knows.
"""

from __future__ import annotations

import difflib
import os
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer

from lambda_src.proxies import spare_loopback

from .. import __version__
from ..config import unknown_variables
from ..errors import MlinferError, ReaderGoneError, UsageError
from ..terminal import Terminal
from .application import COMMANDS, app


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: the one place where failures become messages."""
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    terminal = _terminal(arguments)
    spare_loopback(os.environ)  # before any client is made
    try:
        return _run(arguments, terminal)
    except ReaderGoneError:
        return 141  # what a shell reports of a program that SIGPIPE ended
    except MlinferError as error:  # the report of a failure could not be written either
        terminal.failure(str(error))
        return error.exit_code


def register(command: str) -> None:
    """Make a command known, by the import of its module; of another word, as for the help, all of them."""
    for name in [command] if command in COMMANDS else COMMANDS:
        import_module(f".commands.{name.replace('-', '_')}", __name__)


def _run(arguments: list[str], terminal: Terminal) -> int:
    if not (arguments[0] in COMMANDS or arguments[0].startswith("-")):
        terminal.error(_unknown_command(arguments))
        return UsageError.exit_code
    register(arguments[0])
    for name, near in unknown_variables(os.environ).items():
        terminal.note(
            f"Warning: mlinfer does not read the variable {name}." + (f" Did you mean {near}?" if near else "")
        )
    try:
        _require_no_empty(arguments)
        code = app(arguments, prog_name="mlinfer", standalone_mode=False)
    except typer.TyperException as error:
        terminal.error(_usage_error(error))
        return UsageError.exit_code
    except typer.Abort:
        code = 130
    except MlinferError as error:
        terminal.error(error)
        return error.exit_code
    except ReaderGoneError:
        raise
    except Exception as error:
        if not _follows_interrupt(error):
            terminal.defect(error)
            return 1
        code = 130
    if code == 130:
        terminal.note("Interrupted.")
    return int(code or 0)


def _require_no_empty(arguments: Sequence[str]) -> None:
    """Refuse an empty argument, such as an unset variable of a script leaves: it does not mean the default. Raises UsageError."""
    for before, word in pairwise(arguments):
        flag = word.removesuffix("=") if word.startswith("--") and word.endswith("=") else before
        if (not word or flag != before) and flag != "--prefix":  # the empty prefix is the whole bucket
            what = f"the value of {flag}" if flag.startswith("-") else f"the argument after {flag}"
            raise UsageError("invalid_value", f"{what} is empty", "Give a value, or leave it out for the default.")


def _follows_interrupt(error: BaseException) -> bool:
    """Tell whether Ctrl-C led to the error: some libraries raise their own in its place."""
    before = error.__cause__ or error.__context__
    return isinstance(error, KeyboardInterrupt) or (before is not None and _follows_interrupt(before))


def _show_version(wanted: bool) -> None:
    if wanted:
        Terminal().text(f"mlinfer {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


def _terminal(arguments: Sequence[str]) -> Terminal:
    """Make the terminal for failures, which can come before the arguments are parsed."""
    given = set(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    quiet, verbose = bool(given & {"-q", "--quiet"}), bool(given & {"-v", "--verbose"})
    return Terminal(as_json="--json" in given, quiet=quiet and not verbose, verbose=verbose)


def _unknown_command(arguments: Sequence[str]) -> UsageError:
    """Return the error for a first word that is no command, with the command that it may stand for."""
    word, *rest = arguments
    near = difflib.get_close_matches(word, COMMANDS, n=1)
    if word == "help":
        command = [*(name for name in rest[:1] if name in COMMANDS), "--help"]
    elif word == "version":
        command = ["--version"]
    elif word == "-" or Path(word).suffix or Path(word).exists():
        command = ["predict", *arguments]
    else:
        command = [*near, "--help"]
    return UsageError("usage", f"No such command: {word}", f"Try: mlinfer {shlex.join(command)}")


def _usage_error(error: typer.TyperException) -> UsageError:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "mlinfer"
    return UsageError("usage", error.format_message().rstrip("."), f"See: {command} --help")
