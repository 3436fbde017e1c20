"""The one place that writes: results to stdout, everything else to stderr.

Rich is imported only where something is drawn: it costs a quarter of `predict --json`'s own start.
"""

from __future__ import annotations

import io
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from .errors import MissingError, MlinferError, ReaderGoneError, UsageError

T = TypeVar("T")

BAR_WIDTH = 24
UNLIMITED = 10_000  # characters: whoever reads a pipe wants the whole text


class Terminal:
    """What the user sees. `as_json`: stdout holds JSON alone."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False, verbose: bool = False) -> None:
        """Raise UsageError for quiet and verbose together."""
        if quiet and verbose:
            raise UsageError("usage", "--quiet and --verbose exclude each other", "Leave out one of them.")
        self.as_json = as_json
        self._quiet = quiet
        self._verbose = verbose

    @property
    def is_verbose(self) -> bool:
        """Tell whether `--verbose` was given."""
        return self._verbose

    def note(self, text: str) -> None:
        """Tell people something that is not the result."""
        if not self._quiet:
            _say(text)

    def detail(self, text: str) -> None:
        """Tell people what only `--verbose` shows."""
        if self._verbose:
            _say(text)

    def text(self, text: str) -> None:
        """Write a line of the result. Raises ReaderGoneError, MissingError when stdout takes no more."""
        try:
            encoding = sys.stdout.encoding or "utf-8"
            sys.stdout.write(text.encode(encoding, "replace").decode(encoding) + "\n")
            sys.stdout.flush()
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())  # else Python's own last flush fails once more
            if isinstance(error, BrokenPipeError):
                raise ReaderGoneError from error
            raise MissingError("cannot_write_output", f"the output cannot be written: {error.strerror}") from error

    def document(self, value: object, *, lines: bool = False) -> None:
        """Write one JSON document; with `lines`, on one line of its own."""
        self.text(json.dumps(value, indent=None if lines else 2, allow_nan=False))

    def rows(self, rows: Iterable[Sequence[object]], *, header: Sequence[str] = ()) -> None:
        """Write a table; a float is drawn as its percentage and a bar. Only in a terminal it is fitted to a width."""
        from rich.bar import Bar
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(
            box=SIMPLE_HEAD if header else None, show_header=bool(header), pad_edge=False, padding=(0, 2, 0, 0)
        )
        for name in header:
            table.add_column(name, overflow="fold")
        blocks = _can_write("█")
        for row in rows:
            cells: list[Any] = []
            for cell in row:
                if isinstance(cell, float):
                    bar = (
                        Bar(1.0, 0.0, cell, width=BAR_WIDTH, color="cyan") if blocks else "#" * round(cell * BAR_WIDTH)
                    )
                    cells += [Text(f"{cell:.1%}", justify="right"), bar]
                else:
                    cells.append(Text(printable(str(cell)), overflow="fold"))  # whole: a digest is of no use cut off
            table.add_row(*cells)
        watched = sys.stdout.isatty()
        width = None if watched or "COLUMNS" in os.environ else UNLIMITED
        drawing = io.StringIO()  # Rich writes to stdout even where it draws nothing, and fails there by itself
        Console(file=drawing, force_terminal=watched, width=width, highlight=False).print(table, end="")
        self.text("\n".join(line.rstrip() for line in drawing.getvalue().rstrip("\n").split("\n")))

    def track(self, items: Iterable[T], total: int, what: str) -> Iterator[T]:
        """Pass the items on, with a progress bar where a person is watching."""
        if total < 2 or not self._is_watched():
            yield from items
            return
        from rich.console import Console
        from rich.progress import track

        yield from track(items, description=what, total=total, console=Console(stderr=True), transient=True)

    @contextmanager
    def bytes_bar(self, total: int, what: str) -> Iterator[Callable[[int], None]]:
        """Yield what takes the number of bytes that were just done, and draws it where a person is watching."""
        if not self._is_watched():
            yield lambda _: None
            return
        with _byte_bars() as bars:
            yield partial(bars.advance, bars.add_task(what, total=total))

    @contextmanager
    def layer_bars(self) -> Iterator[Callable[[str, int, int], None]]:
        """Yield what takes a layer's name, its bytes done and in all, and draws a bar for each where a person is watching."""
        if not self._is_watched():
            yield lambda *_: None
            return
        tasks: dict[str, Any] = {}
        with _byte_bars() as bars:

            def show(layer: str, done: int, total: int) -> None:
                if layer not in tasks:
                    tasks[layer] = bars.add_task(printable(layer), total=total)
                bars.update(tasks[layer], completed=done, total=total)

            yield show

    @contextmanager
    def progress(self, what: str) -> Iterator[Callable[[str], None]]:
        """Yield what takes the lines of a log: a person sees the last one pass by, `--verbose` shows all."""
        if self._verbose or not self._is_watched():
            yield self.detail
            return
        from rich.console import Console
        from rich.text import Text

        console = Console(stderr=True)
        with console.status(Text(what)) as status:
            yield lambda line: status.update(Text(f"{what}: {printable(line)}"[: console.width - 4]))

    def _is_watched(self) -> bool:
        return sys.stderr.isatty() and not self._quiet and not (self.as_json and sys.stdout.isatty())

    def confirm(self, question: str) -> bool:
        """Ask yes or no; without a terminal nobody is asked and the answer is no."""
        if not _is_interactive() or self.as_json:
            return False
        sys.stderr.write(f"{question} [y/N] ")
        sys.stderr.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def ask_secret(self, question: str) -> str:
        """Ask for a code that is not shown; without a terminal nobody is asked and the answer is ""."""
        if not _is_interactive():
            return ""
        from getpass import getpass

        try:
            return getpass(question).strip()
        except EOFError:
            return ""

    def error(self, error: MlinferError, *, beside: Mapping[str, Any] | None = None) -> None:
        """Explain a failure, under `--json` on stdout too: on one line, because JSON Lines may stand before it.

        beside: what else the document of `--json` holds.
        """
        if self.as_json:
            self.document({**(beside or {}), "error": error.as_json()}, lines=True)
        self.explain(error)

    def explain(self, error: MlinferError) -> None:
        """Say what failed and why on one line, and what to do next on another."""
        self.failure(str(error))
        if error.hint:
            _say(error.hint)
        if self._verbose:
            traceback.print_exception(error)

    def failure(self, text: str) -> None:
        """Say in one line what failed; `--quiet` does not hide it."""
        _say(f"Error: {text}")

    def defect(self, error: BaseException) -> None:
        """Show a failure that is ours."""
        traceback.print_exception(error)
        message = f"this is a defect of mlinfer: {type(error).__name__}: {error}"
        hint = "Please report it with the lines above, the command and `mlinfer --version`."
        self.error(MlinferError("defect", message, hint))


def _byte_bars() -> Any:
    """Return Rich's bars over numbers of bytes."""
    from rich import progress
    from rich.console import Console

    columns = (progress.DownloadColumn(), progress.TransferSpeedColumn(), progress.TimeRemainingColumn())
    console = Console(stderr=True)
    return progress.Progress(*progress.Progress.get_default_columns()[:2], *columns, console=console, transient=True)


def _is_interactive() -> bool:
    """Tell whether a question can be asked: stdin is None where the caller has closed it."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def _say(text: str) -> None:
    with suppress(OSError):  # of a full or closed stderr: what is lost is for people, and the exit code tells the rest
        sys.stderr.write(f"{printable(text)}\n")
        sys.stderr.flush()


def _can_write(character: str) -> bool:
    try:
        character.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def one_line(text: str) -> str:
    """Return foreign text as `printable` does, on one line, so that it cannot split the row of a table."""
    return printable(text).replace("\n", "\\x0a").replace("\t", "\\x09")


def printable(text: str) -> str:
    """Return foreign text with its control characters made visible, so that it cannot steer the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)
