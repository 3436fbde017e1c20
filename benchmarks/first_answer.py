"""Measure a process from its start to its exit with one answer, compared with the floor: the minimum for such a program.

    python benchmarks/first_answer.py --runs 20 --cpu 0

The floor imports numpy, onnxruntime and Pillow, opens the same model with the same threads and classifies the same
image. Every run is a new process, and the programs run in turns; ratio and difference are medians of those within one
turn, so that a slow moment of the machine affects both sides. The first turn is not counted: it writes the byte-code and
fills the page cache.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from lambda_src.settings import default_threads
from mlinfer.model.modelfile import read_model_file
from mlinfer.model.path import STARTER

CAT = Path(__file__).parents[1] / "examples" / "cat.jpg"
# Each prints its clock after each part. On Linux and macOS perf_counter is one clock for all processes.
FLOOR = """
from time import perf_counter as now; clock = [now()]
import numpy as np; clock.append(now())
import onnxruntime as ort; clock.append(now())
from PIL import Image; clock.append(now())
options = ort.SessionOptions()
options.intra_op_num_threads = {threads}
session = ort.InferenceSession({model!r}, options, providers=["CPUExecutionProvider"]); clock.append(now())
image = Image.open({image!r}).convert("RGB")
scale = {resize} / min(image.size)
image = image.resize([int(side * scale) for side in image.size], Image.Resampling.{interpolation})
left, top = (image.width - {crop}[1]) // 2, (image.height - {crop}[0]) // 2
batch = np.asarray(image.crop((left, top, left + {crop}[1], top + {crop}[0])))[None]; clock.append(now())
best = session.run(None, {{session.get_inputs()[0].name: batch}})[0].argmax(); clock.append(now())
print(clock)
"""
FLOOR_PARTS = "interpreter, numpy, onnxruntime, Pillow, session, decode and pre-process, inference, exit"
HANDLER = """
from time import perf_counter as now; clock = [now()]
from binascii import b2a_base64
from lambda_src.service import Service
from lambda_src.settings import Settings
clock.append(now())
service = Service(Settings({model!r}, threads={threads}), log=str)
service.load(); clock.append(now())
with open({image!r}, "rb") as file:
    answer = service.answer({{"image": b2a_base64(file.read(), newline=False).decode()}})
seconds = answer["body"]["timings"]
clock += [clock[-1] + seconds["preprocess_s"], clock[-1] + seconds["preprocess_s"] + seconds["inference_s"], now()]
print(clock)
"""
HANDLER_PARTS = (
    "interpreter, import of the service, numpy + onnxruntime + Pillow + hash + session, "
    "decode and pre-process, inference, the rest of the answer, exit"
)
# The command's additional imports, which its floor has too: typer parses the options, rich draws the table.
COMMAND = """
import typer, typer.main, rich.console, rich.table
"""


@dataclass
class Program:
    """A measured program. times: seconds of each counted run; parts: the seconds of its parts, named by `part_names`."""

    name: str
    arguments: list[str]
    floor: Program | None = None
    part_names: str = ""
    times: list[float] = field(default_factory=list)
    parts: list[list[float]] = field(default_factory=list)

    def run(self, environment: dict[str, str], folder: str) -> None:
        """Run the program in a new process and store its times. Raises CalledProcessError."""
        command = [sys.executable, *self.arguments]
        started = time.perf_counter()
        done = subprocess.run(command, env=environment, cwd=folder, check=True, capture_output=True)
        ended = time.perf_counter()
        self.times.append(ended - started)
        if self.part_names:
            clock = [started, *json.loads(done.stdout), ended]
            self.parts.append([after - before for before, after in itertools.pairwise(clock)])

    def figures(self) -> dict[str, Any]:
        """Return medians and extremes in seconds, and the ratio to the floor, for JSON."""
        floors = (self.floor or self).times
        added = median(own - floor for own, floor in zip(self.times, floors, strict=True))
        ratio = median(own / floor for own, floor in zip(self.times, floors, strict=True))
        row = {"program": self.name, "median_s": median(self.times), "min_s": min(self.times), "max_s": max(self.times)}
        names = self.part_names.split(", ") if self.part_names else []
        parts = dict(zip(names, map(median, zip(*self.parts, strict=True)), strict=True))
        return row | {"added_s": added, "ratio": ratio, "parts_s": parts}


def programs(model: Path, image: Path, threads: int) -> list[Program]:
    """Return the programs to measure, each floor before the programs compared with it."""
    metadata = read_model_file(model).metadata
    assert metadata, f"{model} has no mlinfer metadata"
    spec = metadata.preprocess
    assert spec.color == "RGB", "the floor knows no other input"
    assert isinstance(spec.resize, int), "the floor knows no other geometry"
    values = {"model": str(model), "image": str(image), "threads": threads, "resize": spec.resize, "crop": spec.crop}
    values |= {"interpolation": spec.interpolation.upper()}
    predict = ["-m", "mlinfer", "predict", str(image), "--model", str(model)]
    floor = Program("floor", ["-c", FLOOR.format(**values)], part_names=FLOOR_PARTS)
    handler = Program("handler package", ["-c", HANDLER.format(**values)], floor, HANDLER_PARTS)
    as_json = Program("mlinfer predict --json", [*predict, "--json"], floor)
    return [floor, handler, as_json, Program("mlinfer predict", predict, floor)]


def with_imports(floor: Program) -> Program:
    """Return the floor with a command's additional imports."""
    return Program("floor and the command's imports", ["-c", COMMAND + floor.arguments[1]], part_names=FLOOR_PARTS)


def measure(every: list[Program], runs: int, threads: int) -> None:
    """Run the programs in turns, and drop the first turn."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLINFER_")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment |= {"MLINFER_THREADS": str(threads), "ORT_DISABLE_TELEMETRY": "1"}
    with tempfile.TemporaryDirectory() as folder:  # no mlinfer.toml there
        for turn in range(runs + 1):
            for program in every:
                program.run(environment, folder)
                if turn == 0:
                    program.times.clear()
                    program.parts.clear()


def main() -> None:
    """Measure, and print the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=20, metavar="N", help="turns that are counted (default: 20)")
    parser.add_argument("--model", type=Path, default=STARTER)
    parser.add_argument("--image", type=Path, default=CAT)
    parser.add_argument("--cpu", type=int, metavar="N", help="run everything on this one core")
    parser.add_argument("--json", action="store_true", help="write one JSON document")
    given = parser.parse_args()
    if given.cpu is not None:
        os.sched_setaffinity(0, {given.cpu})
    threads = default_threads({})
    every = programs(given.model.resolve(), given.image.resolve(), threads)
    measure(every, given.runs, threads)
    results = [program.figures() for program in every]
    versions = {name: importlib.metadata.version(name) for name in ("onnxruntime", "numpy", "pillow", "typer", "rich")}
    facts = {"cores": os.cpu_count(), "threads": threads, "python": platform.python_version(), **versions}
    if given.json:
        print(json.dumps({"facts": facts, "runs": given.runs, "programs": results}, indent=2))
        return
    print(", ".join(f"{name} {value}" for name, value in facts.items()) + f"; {given.runs} runs of each\n")
    print(f"{'milliseconds':50}  median     min     max   added  ratio")
    for row in results:
        times = "".join(f"{row[name] * 1000:8.1f}" for name in ("median_s", "min_s", "max_s", "added_s"))
        print(f"{row['program']:50}{times}{row['ratio']:7.2f}")
        for name, seconds in row["parts_s"].items():
            print(f"    {name:46}{seconds * 1000:8.1f}")


if __name__ == "__main__":
    main()
