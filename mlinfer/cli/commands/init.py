"""`mlinfer init`: write a commented mlinfer.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...config import FILE_NAME, template
from ...errors import MlinferError, UsageError
from ...files import write_whole
from ...terminal import Terminal
from ..application import command
from ..options import (
    OutputOptions,
)


@command("mlinfer init")
def init(
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Replace an existing file without asking.")] = False,
    output: OutputOptions,
) -> None:
    """Write a commented mlinfer.toml.

    The file lists every setting with its default, commented out. In a terminal, mlinfer asks for the S3 bucket that `mlinfer deploy` needs.
    """
    terminal = output.make_terminal()
    path = Path(FILE_NAME)
    before = _content(path)
    if before not in (None, template().encode()) and not (yes or terminal.confirm(f"{FILE_NAME} exists. Replace it?")):
        raise UsageError("file_exists", f"{FILE_NAME} already exists", "Replace it with `mlinfer init --yes`.")
    bucket = "" if yes else _ask_for_bucket(terminal)
    content = template(bucket).encode()
    if before != content:
        write_whole(path, content)
    outcome = "created" if before is None else "unchanged" if before == content else "replaced"
    if output.as_json:
        terminal.document({"file": FILE_NAME, "outcome": outcome})
    terminal.note(f"{FILE_NAME}: {outcome}.")
    if bucket:
        terminal.note("Next: run `mlinfer deploy`, with `--create-bucket` if the bucket does not exist.")
    elif outcome != "unchanged":
        terminal.note("Next: set `bucket` in the file, then run `mlinfer deploy`.")


def _ask_for_bucket(terminal: Terminal) -> str:
    """Ask for what `deploy` needs and show the Region that it uses. Without a terminal, return ""."""
    if not terminal.can_ask:
        return ""
    from ...clients.aws import find_region

    try:
        region = find_region()
    except MlinferError as error:
        terminal.note(f"AWS Region: unknown ({error}).")
    else:
        terminal.note(f"AWS Region: {region or 'not set. Set one with `aws configure` or AWS_DEFAULT_REGION'}.")
    return terminal.ask("S3 bucket for the models (press Enter to skip):")


def _content(path: Path) -> bytes | None:
    if path.is_fifo():
        raise UsageError("config_unreadable", f"cannot read {path}: it is a pipe", f"Remove {path}.")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError("config_unreadable", f"cannot read {path}", reason=error.strerror) from error
