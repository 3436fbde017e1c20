"""Compare mlinfer with the reference design (reference/) on this machine.

    pip install --no-deps openvino          # optional: without it, OpenVINO is left out
    python -m benchmarks.compare --photos ../shared/data/photos

The model is ResNet-18 at 224 x 224 with random weights, which change neither time nor size. The designs run in turns: a
time is the median over the turns, a ratio the median of the ratios within one turn, so that a slow moment of the machine
affects both. Processes run on one core with one thread. Containers have Lambda's limits and CPU share at that memory
size, and each design's own number of threads. A cold start is a new process, from its start to its answer, or a new
container, from the first request to its answer (the emulator imports the handler then); "with the container" counts from
`docker start`. The first turn is not counted: it fills the page cache. S3 is moto, on this machine.
The images mlinfer/mlinfer-comparison and mlinfer-comparison are kept for the next run.
"""

from __future__ import annotations

import argparse
import base64
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import docker
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from devtools.reference import torchvision
from lambda_src.images.pixels import read_pixels
from lambda_src.inference.classifier import Classifier
from lambda_src.settings import MAX_PIXELS
from mlinfer.model import parity
from mlinfer.model.path import STARTER
from mlinfer.model.pixel_input import to_tensor

from . import first_answer, setup, start
from .fast_decode import enlarged
from .models import pytorch, random_weights, timed
from .setup import Process, Side

MEMORIES = (1769, 512)
TYPICAL_SIZE = (500, 375)
WARM_AIMS = {"int8": 3.0, "float": 1.3}  # on one core, which is what 1,769 MB give


@dataclass(frozen=True)
class Line:
    """One result: the reference's and ours, in ms or MB, and the ratio (`at_most`: the inverse ratio).

    aim: of the ratio; 0 = none.
    """

    figure: str
    other: float
    ours: float
    ratio: float
    aim: float = 0
    at_most: bool = False

    def met(self) -> str:
        """Say whether the aim is met; "" without an aim."""
        if not self.aim:
            return ""
        return "yes" if (self.ratio <= self.aim if self.at_most else self.ratio >= self.aim) else "NO"


class Turns:
    """Seconds by name, one list of equal length for each."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {}

    def add(self, name: str, seconds: float) -> None:
        """Add the time of one turn."""
        self.times.setdefault(name, []).append(seconds)

    def line(self, figure: str, other: str, ours: str, aim: float = 0, *, at_most: bool = False) -> Line:
        """Return the medians in milliseconds and the median of each turn's ratio, without the first turn."""
        pairs = list(zip(self.times[other], self.times[ours], strict=True))
        pairs = pairs[1:] or pairs
        ratio = median(b / a if at_most else a / b for a, b in pairs)
        first, second = (median(column) * 1e3 for column in zip(*pairs, strict=True))
        return Line(figure, first, second, ratio, aim, at_most)


def event(data: bytes) -> dict[str, Any]:
    """Return a direct invocation event."""
    return {"image": base64.b64encode(data).decode()}


def in_processes(all_sides: list[Side], events: list[Any], large: Any, turns: int) -> Iterator[Line]:
    """Compare cold starts, warm requests and answers. Raises AssertionError if ours differ in float."""
    cold = Turns()
    floors = {side.name: floor(side.model) for side in all_sides[1:]}
    for turn in range(turns + 1):
        for side in all_sides:
            cold.add(side.name, first_answer_of(side, events[turn % len(events)]))
            if side.name in floors:
                cold.add(f"floor {side.name}", floor_of(floors[side.name]))
    for name in floors:
        yield cold.line(f"cold process, {name}", "reference", name, aim=12)
        yield cold.line(f"cold process, {name}, beside the floor", f"floor {name}", name, aim=1.5, at_most=True)
    warm, warm_large = Turns(), Turns()
    best: dict[str, list[int]] = {side.name: [] for side in all_sides}
    processes = {side.name: Process(side.model, side.handler) for side in all_sides}
    for each in [events[0], *events]:
        for name, process in processes.items():
            process.ask(each)  # not counted: the caches hold the previous one's data
            started, ended, body = process.ask(each)
            warm.add(name, ended - started)
            best[name].append(body["pred_index"])
    for _ in range(turns + 1):
        for name, process in processes.items():
            process.ask(large)
            started, ended, _body = process.ask(large)
            warm_large.add(name, ended - started)
    for process in processes.values():
        process.end()
    assert best["float"] == best["reference"], "ours in float does not answer as the reference"
    print(f"top-1 of float equals the reference's on {len(events)} photographs", file=sys.stderr)
    for name, aim in WARM_AIMS.items():
        yield warm.line(f"warm request, one core, {name}", "reference", name, aim)
        yield warm_large.line(f"warm request of 12 megapixels, one core, {name}", "reference", name)


def first_answer_of(side: Side, asked: Any) -> float:
    """Return the seconds from the start of a process to its first answer."""
    started = time.perf_counter()
    process = Process(side.model, side.handler)
    _, ended, _ = process.ask(asked)
    process.end()
    return ended - started


def floor(model: Path) -> first_answer.Program:
    """Return the program with the minimum work of such a process; see `first_answer`."""
    return first_answer.programs(model, first_answer.CAT, threads=1)[0]


def floor_of(program: first_answer.Program) -> float:
    """Return the seconds from the start of a process to the floor's answer."""
    program.run(dict(os.environ), os.curdir)
    return sum(program.parts[-1][:-1])


def in_containers(client: Any, all_sides: list[Side], events: list[Any], turns: int, endpoint: str) -> Iterator[Line]:
    """Compare cold and warm containers of both sizes, with the model from S3 and in the image."""
    for memory in MEMORIES:
        for source in ("S3", "image"):
            cold, started, warm = Turns(), Turns(), Turns()
            for turn in range(turns + 1):
                for side in all_sides:
                    start = time.perf_counter()
                    with setup.container(client, side, source, memory, endpoint) as function:
                        ready = time.perf_counter()
                        answer = function.invoke(events[turn % len(events)])
                        end = time.perf_counter()
                        assert "body" in answer, f"{side.name} at {memory} MB: {answer}"
                        cold.add(side.name, end - ready)
                        started.add(side.name, end - start)
                        function.invoke(events[0])
                        for each in events[1:11]:
                            warm.add(side.name, timed(partial(function.invoke, each)))
            for side in all_sides[1:]:
                what = f"{memory:,} MB, model from {source}, {side.name}"
                aim = 8 if (memory, source) == (1769, "S3") else 0
                yield cold.line(f"cold container, {what}", "reference", side.name, aim)
                yield started.line("  with the container", "reference", side.name)
                yield warm.line("  warm request", "reference", side.name, WARM_AIMS[side.name] if memory == 1769 else 0)


def inferences(models: Mapping[str, Path], weights: Path, photos: list[bytes], turns: int) -> Iterator[Line]:
    """Compare inference only: int8 with each other way to run the network."""
    import torch

    torch.set_num_threads(1)
    network = pytorch("resnet18", weights)
    ours = {name: Classifier(path, "", 1) for name, path in models.items()}
    spec = ours["float"].metadata.preprocess

    def run_torch(batch: NDArray[Any]) -> Any:
        with torch.inference_mode():
            return network(torch.from_numpy(batch))

    runs: dict[str, Callable[[NDArray[Any]], Any]] = {"PyTorch": run_torch}
    runs |= {name: partial(parity.run, model) for name, model in ours.items()}
    runs |= {f"OpenVINO, {name}": run for name, path in models.items() if (run := openvino(path))}
    times = Turns()
    for turn in range(turns * 4):
        content = read_pixels(photos[turn % len(photos)], spec, MAX_PIXELS)
        pixels = np.frombuffer(content, np.uint8).reshape(1, *spec.size, spec.channels)
        tensor = to_tensor(pixels, spec.arithmetic)
        for name, run in runs.items():
            batch = tensor if name == "PyTorch" else pixels
            run(batch)  # not counted: the caches hold the previous one's data
            times.add(name, min(timed(partial(run, batch)) for _ in range(3)))
    for name in runs:
        if name != "int8":
            figure = f"inference alone, int8 beside {name}"
            yield times.line(figure, name, "int8", aim=1 if name == "OpenVINO, float" else 0)


def openvino(model: Path) -> Callable[[NDArray[Any]], Any] | None:
    """Return a function that runs a model in OpenVINO at its default precision on one thread; None if it is not installed."""
    if importlib.util.find_spec("openvino") is None:
        return None
    import openvino as ov

    compiled = ov.Core().compile_model(str(model), "CPU", {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"})
    request = compiled.create_infer_request()
    return lambda batch: request.infer([batch], share_inputs=True)


def preprocessing(photos: list[Path], large: bytes, model: Path, turns: int) -> Iterator[Line]:
    """Compare file to pixels with torchvision's transform to a tensor, on one thread."""
    processes = {name: Process(model, "benchmarks.prepare", name) for name in ("reference", "ours")}
    typical = [path for path in photos if Image.open(path).size == TYPICAL_SIZE]
    with tempfile.NamedTemporaryFile() as file:
        file.write(large)
        file.flush()
        for name, pictures, aim in (("500 x 375", typical, 1.7), ("12 megapixels", [Path(file.name)], 8)):
            times = Turns()
            for turn in range(turns * 4):
                for side, process in processes.items():
                    process.ask({"path": str(pictures[turn % len(pictures)])})
                    started, ended, _ = process.ask({"path": str(pictures[turn % len(pictures)])})
                    times.add(side, ended - started)
            yield times.line(f"pre-processing, {name}", "reference", "ours", aim)
    for process in processes.values():
        process.end()


def programs(turns: int) -> Iterator[Line]:
    """Compare whole processes with their floors: the help, and a prediction of the starter model."""
    empty, own_help = (first_answer.Program(name, start.PROGRAMS[name]) for name in (start.EMPTY, "mlinfer --help"))
    floor, *_ = first_answer.programs(STARTER, first_answer.CAT, threads=1)
    imports = first_answer.with_imports(floor)
    predict = first_answer.Program("mlinfer predict", ["-m", "mlinfer", "predict", str(first_answer.CAT)], imports)
    every = [empty, own_help, imports, predict]
    first_answer.measure(every, turns, threads=1)
    times = Turns()
    times.times = {program.name: program.times for program in every}
    yield times.line(
        "mlinfer --help, beside an empty typer and rich program", empty.name, own_help.name, 1, at_most=True
    )
    yield times.line("mlinfer predict, whole process, beside the floor", imports.name, predict.name, 1.3, at_most=True)


@contextmanager
def on_one_core() -> Iterator[None]:
    """Restrict this process and its children to one core."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def measure(photos: Path, folder: Path, parts: set[str], turns: int, cold_turns: int) -> Iterator[Line]:
    """Prepare what is needed and yield the lines of the chosen parts."""
    names = sorted(photos.glob("*.[jJ][pP]*[gG]"))
    pictures = [path.read_bytes() for path in names]
    large = enlarged(pictures[len(pictures) // 2])
    events = [event(data) for data in pictures]
    models = setup.make_models(photos, folder)
    weights = folder / "random.pth"
    if not weights.exists():
        random_weights("resnet18", photos, folder)
    client = docker.from_env(timeout=600) if parts & {"process", "container", "image"} else None
    images = setup.make_images(client, models) if client else setup.Images()
    all_sides = setup.sides(models, images) if client else []
    with on_one_core():
        if "process" in parts:
            yield from in_processes(all_sides, events, event(large), turns)
        if "inference" in parts:
            torchvision()
            yield from inferences(models, weights, pictures, turns)
        if "preprocess" in parts:
            yield from preprocessing(names, large, models["float"], turns)
        if "program" in parts:
            yield from programs(turns)
    if "image" in parts:
        reference, ours = (images.bytes[name] / 1e6 for name in ("reference", "none"))
        yield Line("image layers above the base, MB", reference, ours, reference / ours, aim=10)
    if "container" in parts:
        with setup.storage(client, models) as endpoint:
            yield from in_containers(client, all_sides, events, cold_turns, endpoint)


PARTS = ("process", "container", "inference", "preprocess", "image", "program")


def main() -> None:
    """Measure, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, metavar="DIR")
    parser.add_argument("--turns", type=int, default=15, metavar="N", help="of processes (default: 15)")
    parser.add_argument("--cold", type=int, default=5, metavar="N", help="containers of each kind (default: 5)")
    parser.add_argument("--models", type=Path, metavar="DIR", help="keep the models there, and use them if they are")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.models or Path(temporary)
        folder.mkdir(exist_ok=True)
        lines: list[Line] = []
        print(f"{'':64}{'other':>9}{'ours':>9}{'ratio':>8}{'aim':>8}")
        for line in measure(given.photos, folder, set(given.only), given.turns, given.cold):
            aim = f"{'<=' if line.at_most else '>='} {line.aim:g}" if line.aim else ""
            print(
                f"{line.figure:64}{line.other:9.1f}{line.ours:9.1f}{line.ratio:8.2f}{aim:>8} {line.met()}", flush=True
            )
            lines.append(line)
    packages = [
        name
        for name in ("onnxruntime", "numpy", "pillow", "torch", "torchvision", "openvino")
        if importlib.util.find_spec({"pillow": "PIL"}.get(name, name))
    ]
    facts: dict[str, Any] = {"cores": os.cpu_count(), "python": platform.python_version(), "turns": given.turns}
    facts |= {"cold": given.cold, "load": [load, os.getloadavg()[0]]}
    facts |= {name: importlib.metadata.version(name) for name in packages}
    print("\nmilliseconds, unless it says MB; " + ", ".join(f"{name} {value}" for name, value in facts.items()))
    if given.json:
        document = {"facts": facts, "lines": [asdict(line) | {"met": line.met()} for line in lines]}
        given.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
