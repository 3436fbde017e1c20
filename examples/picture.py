"""Make the pictures of the documents from real runs of commands in a terminal.

python examples/picture.py      # writes docs/pictures/predict.svg
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
COMMAND = "mlinfer predict examples/cat.jpg"
COLUMNS = 82
# Fonts that machines have: Rich's own style would load one from the web.
FONTS = 'ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace'


def run_in_a_terminal() -> str:
    """Return what the command writes to a terminal of that width."""
    ours, terminal = pty.openpty()
    environment = os.environ | {"COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    command = [sys.executable, "-m", *COMMAND.split()]
    subprocess.run(command, check=True, stdin=terminal, stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    written = bytearray()
    try:
        while data := os.read(ours, 4096):
            written += data
    except OSError:  # Linux reports the end of a terminal so
        pass
    return written.decode().replace("\r\n", "\n")


def self_contained(svg: str) -> str:
    """Return the picture without fonts from the web; its own dark window is readable on light and dark pages."""
    svg = re.sub(r"\s*@font-face \{.*?\}\n", "\n", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: (Fira Code, monospace|arial);", f"font-family: {FONTS};", svg)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def main() -> None:
    os.chdir(ROOT)
    output = run_in_a_terminal()
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere)
        console.print(Text.assemble(("$ ", "bold green"), (COMMAND, "bold")))
        console.print(Text.from_ansi(output.rstrip("\n")))
        svg = console.export_svg(title="mlinfer", unique_id="predict")
    (ROOT / "docs" / "pictures" / "predict.svg").write_text(self_contained(svg))


if __name__ == "__main__":
    main()
