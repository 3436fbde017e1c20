"""The only module that writes: results to stdout, everything else to stderr.

Rich is imported only where something is drawn: its import takes a quarter of the start of `predict --json`.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from shutil import get_terminal_size
from typing import Any, TextIO, TypeVar

from .errors import MissingError, MlinferError, ReaderGoneError, UsageError

T = TypeVar("T")

BAR_WIDTH = 24
UNLIMITED = 10_000  # characters: a pipe gets the whole text
LABELS = {
    "Error:": "1;31",
    "Hint:": "1;36",
    "Reason:": "1",
    "Warning:": "1;33",
    "✓": "32",
}  # ANSI styles, in a terminal only


class Terminal:
    """What the user sees. `as_json`: stdout holds only JSON."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False, verbose: bool = False) -> None:
        """Raise UsageError if both quiet and verbose are set."""
        if quiet and verbose:
            raise UsageError("usage", "--quiet and --verbose cannot be combined", "Remove one of them.")
        self.as_json = as_json
        self._quiet = quiet
        self._verbose = verbose

    @property
    def is_verbose(self) -> bool:
        """Tell whether `--verbose` is set."""
        return self._verbose

    def note(self, text: str) -> None:
        """Write a line to stderr, unless `--quiet` is set."""
        if not self._quiet:
            _say(text)

    def detail(self, text: str) -> None:
        """Write a line to stderr if `--verbose` is set."""
        if self._verbose:
            _say(text)

    def mark(self, *, done: bool) -> str:
        """Return the mark before a step on stderr: a tick if it did something, a dot if nothing changed."""
        tick, dot = ("✓", "·") if _can_write("✓·", sys.stderr) else ("+", "-")
        return tick if done else dot

    def text(self, text: str) -> None:
        """Write a line of the result. Raises ReaderGoneError or MissingError if stdout cannot be written."""
        try:
            encoding = sys.stdout.encoding or "utf-8"
            sys.stdout.write(text.encode(encoding, "replace").decode(encoding) + "\n")
            sys.stdout.flush()
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())  # or Python's last flush fails again
            if isinstance(error, BrokenPipeError):
                raise ReaderGoneError from error
            raise MissingError("cannot_write_output", "cannot write to stdout", reason=error.strerror) from error

    def document(self, value: object, *, lines: bool = False) -> None:
        """Write one JSON document; with `lines`, on a single line."""
        self.text(json.dumps(value, indent=None if lines else 2, allow_nan=False))

    def rows(
        self,
        rows: Iterable[Sequence[object]],
        *,
        header: Sequence[str] = (),
        right: Collection[int] = (),
        styles: Mapping[str, str] | None = None,
    ) -> None:
        """Write a table. A float becomes its percentage and a bar. The width is limited only in a terminal.

        right: the columns of numbers, which are aligned at the right and never wrapped. styles: the Rich style of a cell,
        by its text; used in a terminal only.
        """
        from rich.bar import Bar
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(
            box=SIMPLE_HEAD if header else None,
            show_header=bool(header),
            pad_edge=False,
            padding=(0, 1 if header else 2, 0, 0),  # the box adds a space between columns
        )
        for place, name in enumerate(header):
            is_right = place in right
            table.add_column(name, overflow="fold", justify="right" if is_right else "left", no_wrap=is_right)
        blocks = _can_write("█", sys.stdout)
        for row in rows:
            cells: list[Any] = []
            for cell in row:
                if isinstance(cell, float):
                    bar = (
                        Bar(1.0, 0.0, cell, width=BAR_WIDTH, color="cyan") if blocks else "#" * round(cell * BAR_WIDTH)
                    )
                    cells += [Text(f"{cell:.1%}", justify="right"), bar]
                else:
                    style = (styles or {}).get(str(cell), "")
                    cells.append(
                        Text(printable(str(cell)), style, overflow="fold")
                    )  # not cut: a digest is copied whole
            table.add_row(*cells)
        width = get_terminal_size().columns if sys.stdout.isatty() or "COLUMNS" in os.environ else UNLIMITED
        drawing = io.StringIO()  # Rich handles a closed stdout differently from `text`
        console = Console(file=drawing, force_terminal=_has_colour(sys.stdout), width=width, highlight=False)
        console.print(table, end="")
        self.text("\n".join(line.rstrip() for line in drawing.getvalue().split("\n")).strip("\n"))

    def track(self, items: Iterable[T], total: int, what: str) -> Iterator[T]:
        """Yield the items; in a terminal, show a progress bar."""
        if total < 2 or not self._is_watched():
            yield from items
            return
        from rich.console import Console
        from rich.progress import track

        yield from track(items, description=what, total=total, console=Console(stderr=True), transient=True)

    @contextmanager
    def bytes_bar(self, total: int, what: str) -> Iterator[Callable[[int], None]]:
        """Yield a function that takes the number of new bytes; in a terminal, it moves a progress bar."""
        if not self._is_watched():
            yield lambda _: None
            return
        with _byte_bars() as bars:
            yield partial(bars.advance, bars.add_task(what, total=total))

    @contextmanager
    def layer_bars(self) -> Iterator[Callable[[str, int, int], None]]:
        """Yield a function that takes a layer's name, bytes done and total; in a terminal, each layer has a bar."""
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
        """Yield a function that takes log lines: a terminal shows the latest one, `--verbose` shows all."""
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

    @property
    def can_ask(self) -> bool:
        """Tell whether the user can answer a question: in a terminal, without `--json`."""
        return _is_interactive() and not self.as_json

    def confirm(self, question: str) -> bool:
        """Ask a yes/no question; without a terminal, return False."""
        if not self.can_ask:
            return False
        sys.stderr.write(f"{question} [y/N] ")
        sys.stderr.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def ask(self, question: str) -> str:
        """Ask for a line of text; without a terminal, return ""."""
        if not self.can_ask:
            return ""
        sys.stderr.write(f"{question} ")
        sys.stderr.flush()
        return sys.stdin.readline().strip()

    def ask_secret(self, question: str) -> str:
        """Ask for a secret without an echo; without a terminal, return ""."""
        if not _is_interactive():
            return ""
        from getpass import getpass

        try:
            return getpass(question).strip()
        except EOFError:
            return ""

    def error(self, error: MlinferError, *, beside: Mapping[str, Any] | None = None) -> None:
        """Report an error; under `--json` also on stdout, as one line, because JSON Lines may precede it.

        beside: other keys of the JSON document.
        """
        if self.as_json:
            self.document({**(beside or {}), "error": error.as_json()}, lines=True)
        self.explain(error)

    def explain(self, error: MlinferError) -> None:
        """Write the lines `Error: ...`, `Reason: ...` and `Hint: ...`, the last two only if known."""
        self.failure(error.what)
        if error.reason:
            _say(f"Reason: {error.reason}")
        if error.hint:
            _say(f"Hint: {error.hint}")
        if self._verbose:
            traceback.print_exception(error)

    def failure(self, text: str) -> None:
        """Write the line `Error: ...`, also with `--quiet`."""
        _say(f"Error: {text}")

    def defect(self, error: BaseException) -> None:
        """Report a bug in mlinfer, with its traceback."""
        traceback.print_exception(error)
        message = f"internal error: {type(error).__name__}: {error}"
        hint = "This is a bug in mlinfer. Please report it with the traceback, the command and `mlinfer --version`."
        self.error(MlinferError("defect", message, hint))


def _byte_bars() -> Any:
    """Return Rich's progress bars for bytes."""
    from rich import progress
    from rich.console import Console

    columns = (progress.DownloadColumn(), progress.TransferSpeedColumn(), progress.TimeRemainingColumn())
    console = Console(stderr=True)
    return progress.Progress(*progress.Progress.get_default_columns()[:2], *columns, console=console, transient=True)


def _is_interactive() -> bool:
    """Tell whether the user can answer a question; stdin is None if the caller closed it."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def _say(text: str) -> None:
    text = printable(text)
    if _has_colour(sys.stderr):
        text = re.sub(r"^([\s-]*)(\w+:|✓)", lambda m: f"{m[1]}{_styled(m[2])}", text, flags=re.MULTILINE)
    with suppress(OSError):  # if stderr is full or closed, the exit code still reports the failure
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def _has_colour(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _styled(label: str) -> str:
    return f"\x1b[{LABELS[label]}m{label}\x1b[0m" if label in LABELS else label


def _can_write(characters: str, stream: TextIO) -> bool:
    try:
        characters.encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def bold(text: str) -> str:
    """Return text for stdout, in bold if stdout is a terminal that allows it."""
    return f"\x1b[1m{text}\x1b[0m" if _has_colour(sys.stdout) else text


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as "1 object" or "2,000 objects"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def one_line(text: str) -> str:
    """Return text from outside like `printable`, with line breaks and tabs escaped too."""
    return printable(text).replace("\n", "\\x0a").replace("\t", "\\x09")


def printable(text: str) -> str:
    """Return text from outside with its control characters escaped, so that it cannot control the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)
