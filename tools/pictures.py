"""Draw the pictures of the documents from real runs of commands in a terminal.

    python tools/pictures.py      # writes docs/pictures/predict.svg and deploy.svg

`mlinfer deploy` runs against the AWS of the tests, on this machine.
"""

from __future__ import annotations

import logging
import os
import pty
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from moto.server import ThreadedMotoServer
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.servers.aws import ACCOUNT, REGION, LoopbackAws
from tests.servers.http import served

PICTURES = ROOT / "docs" / "pictures"
COLUMNS = 96
# Fonts that machines have: Rich's own style would load one from the web.
FONTS = 'ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace'
IMAGE = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/mlinfer/cats@sha256:{'5f' * 32}"


def run_in_a_terminal(command: str, folder: Path, variables: Mapping[str, str]) -> str:
    """Return the output of a mlinfer command in a terminal."""
    ours, terminal = pty.openpty()
    environment = os.environ | {"COLUMNS": str(COLUMNS), "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), **variables}
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


def draw(name: str, command: str, output: str) -> None:
    """Write a picture of a terminal with a command and its output."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere)
        console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
        console.print(Text.from_ansi(output.rstrip("\n")))
        svg = console.export_svg(title="mlinfer", unique_id=name)
    (PICTURES / f"{name}.svg").write_text(self_contained(svg))


def self_contained(svg: str) -> str:
    """Return the picture without web fonts; its dark window is readable on light and dark pages."""
    svg = re.sub(r"\s*@font-face \{.*?\}\n", "\n", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: (Fira Code, monospace|arial);", f"font-family: {FONTS};", svg)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def draw_deploy(folder: Path) -> None:
    """Deploy the starter to the AWS of the tests, which already has the image, so that Docker is not needed."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with served(LoopbackAws, f"http://{host}:{port}") as aws:
        aws.cache = folder / "cache"
        variables = {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": aws.url,
            "MLINFER_PROJECT": "cats",
            "MLINFER_BUCKET": "my-models",
        }
        os.environ.update(variables)  # the function runs in this process, and reads its model there
        command = "mlinfer deploy --create-bucket --image $IMAGE"
        draw("deploy", command, run_in_a_terminal(command.replace("$IMAGE", IMAGE), folder, variables))
    server.stop()


def main() -> None:
    """Draw all pictures."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    command = "mlinfer predict examples/cat.jpg"
    draw("predict", command, run_in_a_terminal(command, ROOT, {}))
    with tempfile.TemporaryDirectory() as folder:
        draw_deploy(Path(folder))


if __name__ == "__main__":
    main()
