"""Pictures of real runs of commands in a terminal, for the documents; `pytest --write-golden -k golden` draws them."""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
COLUMNS = 96
# Fonts that machines have: Rich's own style would load one from the web.
FONTS = 'ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace'


def run_in_a_terminal(command: str, folder: Path) -> str:
    """Return the output of a mlinfer command in a terminal."""
    ours, terminal = pty.openpty()
    environment = os.environ | {"COLUMNS": str(COLUMNS), "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-m", *shlex.split(command)]
    process = subprocess.Popen(argv, cwd=folder, env=environment, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    written = bytearray()
    try:
        while data := os.read(ours, 4096):
            written += data
    except OSError:  # Linux reports the end of a terminal so
        pass
    if process.wait():
        raise SystemExit(written.decode())
    return final_state(written.decode())


def final_state(written: str) -> str:
    """Return what stays on the screen: progress bars move the cursor up and erase their line."""
    lines = [""]
    for part in re.split(r"(\r\n|\r|\n|\x1b\[2K|\x1b\[1A|\x1b\[\?25[lh])", written):
        if part in ("\r\n", "\n"):
            lines.append("")
        elif part == "\x1b[1A":
            lines.pop()
        elif part in ("\r", "\x1b[2K"):
            lines[-1] = ""
        elif not part.startswith("\x1b[?"):
            lines[-1] += part
    return "\n".join(lines)


def draw(name: str, command: str, output: str) -> str:
    """Return a picture, as SVG, of a terminal with a command and its output."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere)
        console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
        console.print(Text.from_ansi(output.rstrip("\n")))
        svg = console.export_svg(title="mlinfer", unique_id=name)
    return self_contained(svg)


def self_contained(svg: str) -> str:
    """Return the picture without web fonts; its dark window is readable on light and dark pages."""
    svg = re.sub(r"\s*@font-face \{.*?\}\n", "\n", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: (Fira Code, monospace|arial);", f"font-family: {FONTS};", svg)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"
