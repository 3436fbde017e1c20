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


@command("mlinfer init")
def init(
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Replace an existing file without asking.")] = False,
    output: OutputOptions,
) -> None:
    """Write a commented mlinfer.toml.

    The file lists every setting with its default, commented out, so that it changes nothing by itself.
    """
    terminal = output.make_terminal()
    path = Path(FILE_NAME)
    before = _content(path)
    content = template().encode()
    if before not in (None, content) and not yes and not terminal.confirm(f"{FILE_NAME} exists. Replace it?"):
        raise UsageError("file_exists", f"{FILE_NAME} already exists", "Replace it with `mlinfer init --yes`.")
    if before != content:
        write_whole(path, content)
    outcome = "created" if before is None else "unchanged" if before == content else "replaced"
    if output.as_json:
        terminal.document({"file": FILE_NAME, "outcome": outcome})
    terminal.note(f"{FILE_NAME}: {outcome}.")
    if outcome != "unchanged":
        terminal.note("Next: set `bucket` in the file, then run `mlinfer deploy`.")


def _content(path: Path) -> bytes | None:
    if path.is_fifo():
        raise UsageError("config_unreadable", f"cannot read {path}: it is a pipe", f"Remove {path}.")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError("config_unreadable", f"cannot read {path}", reason=error.strerror) from error
