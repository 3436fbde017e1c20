"""Measure a ResNet-18 in the container under Lambda's limits: the first and a warm invocation at several memory sizes.

    python -m benchmarks.container --photos ../shared/data/photos

It measures float and int8, with the model in the image and from S3, which is moto on this machine (no network time). The
weights are random, which changes neither time nor size. Each run is a new container; "first" is its first invocation, with
the start of Python, the imports, the model and one prediction; "warm" is the median of the next ones. Lambda gives more CPU
during the start, so first invocations below 1,769 MB look slower here.
It needs the Docker Engine with Lambda's base image (or `python -m devtools.base_image`), torch and torchvision.
"""

from __future__ import annotations

import argparse
import io
import ipaddress
import json
import logging
import os
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from statistics import median

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import boto3
import docker
from moto.server import ThreadedMotoServer

from devtools.networks import write_state_dict
from devtools.reference import torchvision
from mlinfer.cli import main as mlinfer
from mlinfer.clients.docker import Engine, connect
from mlinfer.clients.invocation import read_answer
from mlinfer.config import BASE_IMAGE
from mlinfer.container_image.contents import BuildSpec
from mlinfer.container_image.docker_build import build
from mlinfer.errors import RemoteError
from mlinfer.local.address import post
from mlinfer.local.container import start
from mlinfer.local.function import LocalFunction
from mlinfer.model.modelfile import ModelFile, read_model_file
from mlinfer.targets import make_event

PROJECT = "benchmark"
BUCKET = "models"
MEMORY = (128, 512, 1024, 1769)
TIMEOUT_S = 60
WARM = 7
CAT = Path(__file__).parents[1] / "examples" / "cat.jpg"


def main() -> None:
    """Create models and images, measure, and print the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    photos = given.photos.resolve()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # moto's requests
    torchvision()
    engine = connect(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        models = make_models(sorted(photos.glob("*.JPEG")), photos)
        server, environment = start_s3(models)
        try:
            functions = make_functions(engine, models, environment)
            show(engine, functions, given.runs)
        finally:
            server.stop()


def make_models(pictures: list[Path], photos: Path) -> dict[str, ModelFile]:
    """Export a ResNet-18 as float and as int8."""
    weights = write_state_dict("resnet18", Path("weights.pth"), pictures[:8])
    with redirect_stdout(io.StringIO()):
        assert mlinfer(["export", "resnet18", "--weights", str(weights), "--quiet"]) == 0
        command = ["export", "models/resnet18.onnx", "--quantize", "int8", "--calibration", str(photos), "--allow-drop"]
        assert mlinfer([*command, "--out", "models/resnet18-int8.onnx", "--quiet"]) == 0
    files = {"float": "models/resnet18.onnx", "int8": "models/resnet18-int8.onnx"}
    return {name: read_model_file(Path(path)) for name, path in files.items()}


def start_s3(models: Mapping[str, ModelFile]) -> tuple[ThreadedMotoServer, dict[str, str]]:
    """Start an S3 that containers can reach, with the models in it; return it and the function's settings for it."""
    client = docker.from_env()
    network = client.networks.get("bridge").attrs["IPAM"]["Config"][0]
    client.close()
    gateway = network.get("Gateway") or str(ipaddress.ip_network(network["Subnet"])[1])
    server = ThreadedMotoServer(ip_address=gateway, port=0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
    s3 = boto3.client("s3", endpoint_url=url, **keys)
    s3.create_bucket(Bucket=BUCKET)
    for model in models.values():
        s3.put_object(Bucket=BUCKET, Key=f"{model.sha256}.onnx", Body=model.path.read_bytes())
    environment = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_ENDPOINT_URL_S3": url}
    return server, environment


def make_functions(
    engine: Engine, models: Mapping[str, ModelFile], environment: Mapping[str, str]
) -> dict[tuple[str, str], LocalFunction]:
    """Build the images and return one function per kind of model and place."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    functions = {}
    plain = build(engine, BuildSpec(PROJECT, BASE_IMAGE, "x86_64"), tell=lambda _: None)
    for kind, model in models.items():
        built = build(engine, BuildSpec(PROJECT, BASE_IMAGE, "x86_64", model), tell=lambda _: None)
        sizes = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in built.layers.items())
        print(f"{kind}: {sizes}")
        here = LocalFunction(built.tag, PROJECT, port, 0, 512, TIMEOUT_S, {})
        uri = {"MLINFER_MODEL_URI": f"s3://{BUCKET}/{model.sha256}.onnx", "MLINFER_MODEL_SHA256": model.sha256}
        functions[kind, "image"] = here
        functions[kind, "S3"] = replace(
            here, image=plain.tag, environment={**environment, **uri}, fetched_bytes=model.bytes
        )
    return functions


def show(engine: Engine, functions: Mapping[tuple[str, str], LocalFunction], runs: int) -> None:
    """Measure in turns, so that other load affects all alike, and print the table."""
    print(f"\nfirst / warm, s; medians of {runs} containers\n")
    print("| MB | " + " | ".join(f"{kind}, {place}" for kind, place in functions) + " |")
    print("|---" * (len(functions) + 1) + "|")
    for memory in MEMORY:
        found: dict[tuple[str, str], list[tuple[float, float]]] = {name: [] for name in functions}
        failed: dict[tuple[str, str], str] = {}
        for _ in range(runs):
            for name, function in functions.items():
                try:
                    found[name].append(measure(engine, replace(function, memory=memory)))
                except RemoteError as error:
                    failed[name] = error.code
                except TimeoutError:
                    print(f"no answer within {TIMEOUT_S + 10} s: {memory} MB, {name}; not counted", file=sys.stderr)
        cells = []
        for name, times in found.items():
            first, warm = zip(*times, strict=True) if times else ((), ())
            cells.append(f"{median(first):.2f} / {median(warm):.3f}" if name not in failed else failed[name])
        print(f"| {memory:,} | " + " | ".join(cells) + " |", flush=True)


def measure(engine: Engine, function: LocalFunction) -> tuple[float, float]:
    """Return the seconds of a new container's first invocation and of a warm one. Raises RemoteError."""
    body = json.dumps(make_event(CAT.read_bytes(), 5)).encode()
    container = start(engine, function)
    try:
        times = []
        for _ in range(1 + WARM):
            started = time.perf_counter()
            read_answer(post(function.url, body, TIMEOUT_S + 10), "the function")
            times.append(time.perf_counter() - started)
    except RemoteError:
        if any(
            "signal: killed" in line for line in container.log(100)
        ):  # of an end during the start the answer is empty
            raise RemoteError("out_of_memory", "the function's memory is too small") from None
        raise
    finally:
        container.remove()
    return times[0], median(times[1:])


if __name__ == "__main__":
    main()
