"""Make the README's picture from a real run of the command in a terminal.

python examples/picture.py      # writes examples/predict.svg
"""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
COMMAND = "mlinfer predict examples/cat.jpg"
COLUMNS = 82


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


def main() -> None:
    os.chdir(ROOT)
    output = run_in_a_terminal()
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere)
        console.print(Text.assemble(("$ ", "bold green"), (COMMAND, "bold")))
        console.print(Text.from_ansi(output.rstrip("\n")))
        console.save_svg(str(ROOT / "examples" / "predict.svg"), title="mlinfer")


if __name__ == "__main__":
    main()
