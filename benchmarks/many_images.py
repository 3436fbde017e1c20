"""Measure `mlinfer predict` on many photographs: throughput one at a time and in parallel, memory, order.

    python benchmarks/many_images.py ../shared/data/photos [--count 1000] [--model FILE] [--local]

The photographs are repeated until there are `count` of them. Each program is timed with its start, in turns. Its memory is
also measured with a tenth of the images, which shows whether it grows. Every run must give the same answers in input
order. --local runs the configured container image with `mlinfer run-local --detach`; the emulator answers one request at a
time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MLINFER = [sys.executable, "-m", "mlinfer"]


@dataclass
class Way:
    """One way to predict, with the seconds and peak memory in bytes of its runs."""

    name: str
    flags: list[str]
    seconds: list[float] = field(default_factory=list)
    peak: int = 0
    peak_of_few: int = 0


def run(way: Way, pictures: list[Path]) -> tuple[float, int, list[tuple[str, Any]]]:
    """Run it once and return seconds, peak memory in bytes, and name and answer of each picture."""
    with tempfile.TemporaryFile("w+") as output:
        started = time.perf_counter()
        process = subprocess.Popen([*MLINFER, "predict", *pictures, "--json", "--quiet", *way.flags], stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        lines = [json.loads(line) for line in output]
    assert process.returncode == 0, f"{way.name} ended with {process.returncode}"
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return seconds, peak, [(line["image"], line["predictions"]) for line in lines]


def measure(ways: list[Way], pictures: list[Path], turns: int) -> None:
    """Run the ways in turns, and compare their answers."""
    expected: list[tuple[str, Any]] = []
    for _ in range(turns):
        for way in ways:
            seconds, peak, answers = run(way, pictures)
            assert [name for name, _ in answers] == [str(picture) for picture in pictures], f"{way.name}: order"
            expected = expected or answers
            assert answers == expected, f"{way.name} answers differently"
            way.seconds.append(seconds)
            way.peak = max(way.peak, peak)
    for way in ways:
        way.peak_of_few = run(way, pictures[: len(pictures) // 10])[1]


@contextmanager
def local(model: list[str]) -> Iterator[None]:
    """Run the container image locally."""
    subprocess.run([*MLINFER, "run-local", "--detach", "--quiet", *model], check=True, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        subprocess.run([*MLINFER, "run-local", "--stop", "--quiet"], check=True)


def main() -> None:
    """Measure, and print the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="photographs")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--model", type=Path, help="default: the starter")
    parser.add_argument("--local", action="store_true", help="also ask the image, in a container")
    given = parser.parse_args()
    photographs = sorted(path for path in given.folder.iterdir() if path.suffix.lower() in SUFFIXES)
    pictures = list(itertools.islice(itertools.cycle(photographs), given.count))
    model = ["--model", str(given.model)] if given.model else []
    ways = [Way("embedded, one at a time", [*model, "--jobs", "1"]), Way("embedded", model)]
    if given.local:
        with local(model):
            measure([*ways, way := Way("local", ["--target", "local"])], pictures, given.turns)
            ways.append(way)
    else:
        measure(ways, pictures, given.turns)
    name = given.model.name if given.model else "the starter"
    print(
        f"{len(pictures):,} pictures, {name}, {os.cpu_count()} cores, {given.turns} turns; all answers equal, in order\n"
    )
    print(f"{'':26}{'a second':>10}{'ratio':>7}{'MB':>7}{'MB of a tenth':>15}")
    for way in ways:
        ratio = median(slow / own for slow, own in zip(ways[0].seconds, way.seconds, strict=True))
        rate = len(pictures) / median(way.seconds)
        print(f"{way.name:26}{rate:>10.1f}{ratio:>7.2f}{way.peak / 2**20:>7.0f}{way.peak_of_few / 2**20:>15.0f}")


if __name__ == "__main__":
    main()
