"""Measure the forms of one classifier, PyTorch, float, int8 and float16: load, inference, size and agreement.

    python -m benchmarks.models resnet18 --photos ../shared/data/photos --weights resnet18-f37072fd.pth

Without --weights, the weights are random (chosen so that images get different answers, see devtools/networks.py): times and
sizes are those of the architecture. The agreement then says little and cannot choose the plan of int8, so each plan is
measured; for a trained convolutional network, `mlinfer export` keeps `all`. The forms run in turns on the same images in
one process, with a pause in which the previous form's threads go to sleep. The first of each turn's five runs has cold
caches and is not counted, so times are those of a warm function. A ratio is the median of the ratios within one turn. float
and int8 are exported as by `mlinfer export`; float16 by onnxruntime's converter, to show why mlinfer does not offer it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from devtools.networks import write_state_dict
from devtools.reference import torchvision
from lambda_src.inference.classifier import Classifier
from mlinfer.model.export import Request, export
from mlinfer.model.parity import run
from mlinfer.model.pixel_input import remove_pixel_input, to_tensor, write_pixel_model
from mlinfer.model.quantize import PLANS, quantize
from mlinfer.model.samples import find, spread
from mlinfer.terminal import Terminal

Run = Callable[[NDArray[Any]], NDArray[Any]]
PAUSE_S = 0.02
BLOCK = 5


CONVOLUTIONAL = "all"  # the plan that `mlinfer export` keeps for a trained convolutional network


def main() -> None:
    """Create the forms, measure them, and print the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("arch", nargs="?", default="resnet18")
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--weights", type=Path, help="a state dict; default: random weights")
    parser.add_argument("--turns", type=int, default=40)
    given = parser.parse_args()
    torchvision()
    with tempfile.TemporaryDirectory() as folder:
        weights = given.weights or random_weights(given.arch, given.photos, Path(folder))
        files = forms(given.arch, weights, given.photos, Path(folder))
        network = pytorch(given.arch, weights)
        versions = {name: importlib.metadata.version(name) for name in ("torch", "onnxruntime")}
        facts = ", ".join(f"{name} {value}" for name, value in versions.items())
        print(f"{given.arch}, {'given' if given.weights else 'RANDOM'} weights; {facts}; {given.turns} turns\n")
        print(
            f"{'':16}{'threads':>8}{'load ms':>9}{'ms':>8}{'x float':>9}{'x torch':>9}{'MB':>8}{'size':>7}{'top-1':>8}"
        )
        for threads in (1, 2):
            measure(files, network, given.photos, threads, given.turns)
        print("\nx float, x torch: how many times faster; top-1: share of pictures with float's best class")


def random_weights(arch: str, photos: Path, folder: Path) -> Path:
    """Write random weights that give the photographs different answers."""
    return write_state_dict(arch, folder / "random.pth", [Path(s.name) for s in spread(find(photos, ()), 24)])


def forms(arch: str, weights: Path, photos: Path, folder: Path) -> dict[str, Path]:
    """Export float and int8, int8 by each of its plans, and convert float to float16."""
    both = exported(arch, weights, photos, folder)
    float_ = both["float"]
    made = {"float": float_, f"int8 {CONVOLUTIONAL}": both["int8"]}
    others = (plan for plan in PLANS if plan != CONVOLUTIONAL)
    made |= {f"int8 {plan}": int8(float_, folder / f"int8-{plan}.onnx", photos, plan) for plan in others}
    from onnxruntime.transformers.float16 import convert_float_to_float16

    network, metadata = onnx.load(float_), Classifier(float_, "", 1).metadata
    remove_pixel_input(network, metadata.preprocess)
    write_pixel_model(convert_float_to_float16(network, keep_io_types=True), metadata, folder / "float16.onnx")
    return made | {"float16": folder / "float16.onnx"}


def exported(arch: str, weights: Path, photos: Path, folder: Path) -> dict[str, Path]:
    """Export float as `mlinfer export` does, and int8 as for a trained convolutional network."""
    path = folder / "float.onnx"
    terminal = Terminal(quiet=True)
    export(Request(arch, str(weights), out=path), terminal.note, terminal.track)
    return {"float": path, "int8": int8(path, folder / "int8.onnx", photos, CONVOLUTIONAL)}


def int8(source: Path, path: Path, photos: Path, plan: str) -> Path:
    """Quantise by one plan, even if random weights lose answers."""
    quantize(source, path, find(photos, ()), track=Terminal(quiet=True).track, allow_drop=True, plans=[plan])
    return path


def pytorch(arch: str, weights: Path) -> Any:
    """Return torchvision's own network."""
    import torch

    state = torch.load(weights, weights_only=True)
    network = torchvision().models.get_model(arch, weights=None)
    network.load_state_dict(state)
    return network.eval()


def measure(files: dict[str, Path], network: Any, photos: Path, threads: int, turns: int) -> None:
    """Print one line for each form with that many threads."""
    import torch

    torch.set_num_threads(threads)
    loads: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(5):
        for name, path in files.items():
            loads[name].append(timed(partial(Classifier, path, "", threads)))
    models = {name: Classifier(path, "", threads) for name, path in files.items()}
    spec = models["float"].metadata.preprocess
    batches = [sample.pixels(spec) for sample in find(photos, ())]

    def torch_run(tensor: NDArray[Any]) -> NDArray[Any]:
        with torch.inference_mode():
            result: NDArray[Any] = network(torch.from_numpy(tensor)).numpy()
        return result

    runs: dict[str, Run] = {"PyTorch": torch_run, **{name: partial(run, model) for name, model in models.items()}}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(turns):
        batch = batches[turn % len(batches)]
        for name, ask in runs.items():
            given = to_tensor(batch, spec.arithmetic) if name == "PyTorch" else batch
            time.sleep(PAUSE_S)
            seconds[name].append(median([timed(partial(ask, given)) for _ in range(BLOCK)][1:]))
    times = {name: np.array(values) for name, values in seconds.items()}
    tensors = [to_tensor(batch, spec.arithmetic) for batch in batches]
    best = {
        name: [int(ask(given)[0].argmax()) for given in (tensors if name == "PyTorch" else batches)]
        for name, ask in runs.items()
    }
    for name in runs:
        load = f"{median(loads[name]) * 1000:9.0f}" if name in loads else f"{'':9}"
        bytes_ = files[name].stat().st_size if name in files else 0
        size = f"{bytes_ / 1e6:8.1f}{bytes_ / files['float'].stat().st_size:7.3f}" if bytes_ else f"{'':15}"
        ratios = "".join(f"{np.median(times[other] / times[name]):9.2f}" for other in ("float", "PyTorch"))
        agreement = float(np.mean(np.array(best[name]) == np.array(best["float"])))
        print(f"{name:16}{threads:8}{load}{np.median(times[name]) * 1000:8.1f}{ratios}{size}{agreement:8.2f}")


def timed(call: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    if len(os.sched_getaffinity(0)) < 2:
        print("one core only: the lines for two threads mean nothing")
    main()
