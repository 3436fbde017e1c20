"""Measure the start of the tool: `mlinfer --help` compared with an empty program of Typer and Rich.

    python -m benchmarks.start --runs 20 --cpu 0

Each run is a new process with byte-code, and the programs run in turns. The ratios are medians of those within one turn.
The first turn is not counted. CPU time is that of the process in user mode and in the kernel.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from statistics import median

EMPTY = "empty Typer and Rich program --help"
EMPTY_CODE = """
import typer
app = typer.Typer(rich_markup_mode="rich")
@app.command()
def first(image: str) -> None: "Do this."
@app.command()
def second(image: str) -> None: "Do that."
app(["--help"])
"""
PROGRAMS = {
    EMPTY: ["-c", EMPTY_CODE],
    "mlinfer --help": ["-m", "mlinfer", "--help"],
    "mlinfer predict --help": ["-m", "mlinfer", "predict", "--help"],
    "mlinfer --version": ["-m", "mlinfer", "--version"],
}
Run = tuple[float, float]  # wall time and CPU time in seconds


def run(arguments: list[str], folder: str) -> Run:
    """Run a Python program in a new process. Raises CalledProcessError."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLINFER_")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, *arguments]
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, cwd=folder, check=True, capture_output=True)
    ended, after = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return ended - started, cpu


def measure(turns: int) -> dict[str, list[Run]]:
    """Return the runs of each program; the programs run in turns."""
    runs: dict[str, list[Run]] = {name: [] for name in PROGRAMS}
    with tempfile.TemporaryDirectory() as folder:  # no mlinfer.toml there
        for turn in range(turns + 1):
            for name, arguments in PROGRAMS.items():
                found = run(arguments, folder)
                if turn:
                    runs[name].append(found)
    return runs


def figures(runs: dict[str, list[Run]]) -> list[dict[str, str | float]]:
    """Return the medians of each program, and its ratio to the first program."""
    rows: list[dict[str, str | float]] = []
    for name, own in runs.items():
        row: dict[str, str | float] = {"program": name}
        for index, kind in enumerate(("wall", "cpu")):
            row[f"{kind}_s"] = median(times[index] for times in own)
            ratios = (mine[index] / other[index] for mine, other in zip(own, runs[EMPTY], strict=True))
            row[f"{kind}_ratio"] = median(ratios)
        rows.append(row)
    return rows


def main() -> None:
    """Measure, and print the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=20, metavar="N", help="turns that are counted (default: 20)")
    parser.add_argument("--cpu", type=int, metavar="N", help="run everything on this one core")
    parser.add_argument("--json", action="store_true", help="write one JSON document")
    given = parser.parse_args()
    if given.cpu is not None:
        os.sched_setaffinity(0, {given.cpu})
    rows = figures(measure(given.runs))
    if given.json:
        print(json.dumps({"python": platform.python_version(), "runs": given.runs, "programs": rows}, indent=2))
        return
    print(f"Python {platform.python_version()}; {given.runs} runs of each\n")
    print(f"{'':42}{'wall ms':>9}{'ratio':>7}{'CPU ms':>9}{'ratio':>7}")
    for row in rows:
        wall, cpu = float(row["wall_s"]) * 1000, float(row["cpu_s"]) * 1000
        print(f"{row['program']:42}{wall:9.1f}{row['wall_ratio']:7.2f}{cpu:9.1f}{row['cpu_ratio']:7.2f}")


if __name__ == "__main__":
    main()
