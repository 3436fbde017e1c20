"""The command line: `main` parses the arguments, runs one command and reports errors.

Only the module of the requested command is imported, because Typer needs about a millisecond for each command.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from lambda_src.proxies import spare_loopback

from .. import __version__
from ..config import unknown_variables
from ..errors import MlinferError, ReaderGoneError, UsageError
from ..terminal import Terminal
from .application import COMMANDS, app


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, report its errors and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    terminal = _terminal(arguments)
    spare_loopback(os.environ)  # before any client reads the proxy variables
    try:
        return _run(arguments, terminal)
    except ReaderGoneError:
        return 141  # as after SIGPIPE
    except MlinferError as error:  # the error report could not be written either
        terminal.failure(str(error))
        return error.exit_code


def register(command: str) -> None:
    """Import the module of a command, or all of them for `--help`; `--version` needs none."""
    for name in () if command == "--version" else [command] if command in COMMANDS else COMMANDS:
        import_module(f".commands.{name.replace('-', '_')}", __name__)


def _run(arguments: list[str], terminal: Terminal) -> int:
    if not (arguments[0] in COMMANDS or arguments[0].startswith("-")):
        terminal.error(_unknown_command(arguments))
        return UsageError.exit_code
    register(arguments[0])
    for name, near in unknown_variables(os.environ).items():
        terminal.note(f"Warning: unknown environment variable {name}." + (f" Did you mean {near}?" if near else ""))
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
    """Raise UsageError for an empty argument, which an unset shell variable leaves. It does not mean the default."""
    for before, word in pairwise(arguments):
        flag = word.removesuffix("=") if word.startswith("--") and word.endswith("=") else before
        if (not word or flag != before) and flag != "--prefix":  # an empty prefix means the whole bucket
            what = f"the value of {flag}" if flag.startswith("-") else f"the argument after {flag}"
            raise UsageError("invalid_value", f"{what} is empty", "Give a value, or omit it to use the default.")


def _follows_interrupt(error: BaseException) -> bool:
    """Tell whether Ctrl-C caused the error: some libraries raise their own exception instead."""
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
    """Return the terminal that reports errors before the arguments are parsed."""
    given = set(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    quiet, verbose = bool(given & {"-q", "--quiet"}), bool(given & {"-v", "--verbose"})
    return Terminal(as_json="--json" in given, quiet=quiet and not verbose, verbose=verbose)


def _unknown_command(arguments: Sequence[str]) -> UsageError:
    """Return the error for an unknown command; its hint names the command that was probably meant."""
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
    return UsageError("usage", f"unknown command `{word}`", f"Run `mlinfer {shlex.join(command)}`.")


def _usage_error(error: typer.TyperException) -> UsageError:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "mlinfer"
    message = re.sub(r" \((Did you mean|Possible options:).*", "", error.format_message()).rstrip(".?")
    near = _near_option(error, context)
    hint = f"Did you mean `{near}`? " if near else ""
    return UsageError("usage", message[:1].lower() + message[1:], f"{hint}Run `{command} --help` to see the options.")


def _near_option(error: typer.TyperException, context: Any) -> str:
    """Return the option that an unknown option probably stands for; "" if none is close."""
    wrong = getattr(error, "option_name", None)
    if not wrong or not context:
        return ""
    known = {option.lstrip("-"): option for parameter in context.command.params for option in parameter.opts}
    near = difflib.get_close_matches(wrong.lstrip("-"), known, n=1, cutoff=0.75)
    return known[near[0]] if near else ""
