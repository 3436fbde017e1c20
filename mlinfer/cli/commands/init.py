"""`mlinfer init`: write a commented mlinfer.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...config import FILE_NAME, template
from ...errors import UsageError
from ...files import write_whole
from ..application import command
from ..options import (
    OutputOptions,
)


@command
def init(
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Replace a file that is there without asking.")] = False,
    output: OutputOptions,
) -> None:
    """Write a commented mlinfer.toml here:  mlinfer init"""
    terminal = output.make_terminal()
    path = Path(FILE_NAME)
    before = _content(path)
    content = template().encode()
    if before not in (None, content) and not yes and not terminal.confirm(f"{FILE_NAME} exists. Replace it?"):
        raise UsageError(
            "file_exists", f"{FILE_NAME} exists and was left as it is", "Replace it with: mlinfer init --yes"
        )
    if before != content:
        write_whole(path, content)
    outcome = "created" if before is None else "unchanged" if before == content else "replaced"
    if output.as_json:
        terminal.document({"file": FILE_NAME, "outcome": outcome})
    terminal.note(f"{FILE_NAME}: {outcome}.")


def _content(path: Path) -> bytes | None:
    if path.is_fifo():
        raise UsageError("config_unreadable", f"{path} cannot be read: it is a pipe", "Remove it.")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError("config_unreadable", f"{path} cannot be read: {error.strerror}") from error
