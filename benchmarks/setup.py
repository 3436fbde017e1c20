"""What the comparison needs: models, both designs' images, an S3 that containers can reach, and containers as in Lambda."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3

from devtools import base_image
from devtools.containers import AS_LAMBDA, Function, running
from devtools.ready import wait_until
from devtools.reference import torchvision
from lambda_src.settings import MB_PER_VCPU
from mlinfer.clients.docker import Engine
from mlinfer.container_image.contents import MODEL_PATH, BuildSpec
from mlinfer.container_image.docker_build import build
from mlinfer.model.graph import read_graph
from mlinfer.model.modelfile import read_model_file
from mlinfer.model.pixel_input import write_network

from .models import exported, random_weights

REFERENCE = Path(__file__).with_name("reference")
PROJECT = "mlinfer-comparison"
TORCH = "2.13.0"
TORCH_PYTHON = "3.11"  # the version with a CPU build of torch on this project's machines
BUCKET = "comparison"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "comparison",
    "AWS_SECRET_ACCESS_KEY": "comparison",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@dataclass(frozen=True)
class Side:
    """One design with one model. uri: the model's place in S3; environment: the handler's settings for it."""

    name: str
    model: Path
    image: str
    uri: str
    handler: str
    environment: Mapping[str, Mapping[str, str]]  # by the model's source, "image" or "S3"


@dataclass
class Images:
    """The tags of the built images, and the bytes of the layers above the base without the model's."""

    tags: dict[str, str] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)


def make_models(photos: Path, folder: Path) -> dict[str, Path]:
    """Return ResNet-18 as float and int8, with random weights that give different answers; existing files are kept."""
    made = {name: folder / f"{name}.onnx" for name in ("float", "int8")}
    if not all(path.exists() for path in made.values()):
        torchvision()
        made = exported("resnet18", random_weights("resnet18", photos, folder), photos, folder)
    return made


def network_of(model: Path) -> Path:
    """Return the network of a model file, which takes a tensor instead of pixels, as the reference design needs it."""
    path = model.with_suffix(".network.onnx")
    if not path.exists():
        metadata = read_model_file(model).metadata
        assert metadata
        write_network(read_graph(model), metadata, path, folder=model.parent)
    return path


def make_images(client: Any, models: Mapping[str, Path]) -> Images:
    """Build the reference's image and ours: with the float model, with the int8 model, and with none."""
    engine, images = Engine(client), Images()
    base = base_image.ensure_base_image(client, TORCH_PYTHON)
    images.tags["reference"] = _make_reference(client, base, network_of(models["float"]))
    layers = engine.layers(images.tags["reference"])
    above = layers[: -len(engine.layers(base))]
    images.bytes["reference"] = sum(size for instruction, size in above if "/var/task/model" not in instruction)
    if engine.find_image(base_image.NAME) is None:
        base_image.ensure_base_image(client)
    for name, path in {"none": None, **models}.items():
        spec = BuildSpec(PROJECT, base_image.NAME, "x86_64", read_model_file(path) if path else None)
        built = build(engine, spec, tell=lambda _: None)
        images.tags[name], images.bytes[name] = built.tag, built.layers["dependencies"] + built.layers["code"]
    return images


def _make_reference(client: Any, base: str, model: Path) -> str:
    """Build the reference image; pip on this machine finds torch's CPU build."""
    tag = f"{PROJECT}:reference"
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder)
        for name in ("Dockerfile", "requirements.txt", "handler.py"):
            shutil.copy(REFERENCE / name, context)
        (context / "model").mkdir()
        shutil.copy(model, context / "model" / "model.onnx")
        wheel = ["pip", "download", "-qq", "--no-deps", "--python-version", TORCH_PYTHON, "--only-binary=:all:"]
        platform = ["--platform", "manylinux_2_28_x86_64", f"torch=={TORCH}", "--dest", str(context / "wheels")]
        subprocess.run([sys.executable, "-m", *wheel, *platform], check=True)
        client.images.build(path=folder, tag=tag, buildargs={"BASE": base}, forcerm=True)
    return tag


def sides(models: Mapping[str, Path], images: Images) -> list[Side]:
    """Return the reference with the float model, and ours with each."""
    uris = {name: f"s3://{BUCKET}/{name}.onnx" for name in models}
    sources = {"image": {"MODEL_URI": MODEL_PATH}, "S3": {"MODEL_URI": f"s3://{BUCKET}/reference.onnx"}}
    all_sides = [
        Side(
            "reference",
            network_of(models["float"]),
            images.tags["reference"],
            f"s3://{BUCKET}/reference.onnx",
            "benchmarks.reference.handler",
            sources,
        )
    ]
    for name, path in models.items():
        sha256 = read_model_file(path).sha256
        sources = {"image": {}, "S3": {"MLINFER_MODEL_URI": uris[name], "MLINFER_MODEL_SHA256": sha256}}
        all_sides.append(Side(name, path, images.tags[name], uris[name], "lambda_src.handler", sources))
    return all_sides


@contextmanager
def container(client: Any, side: Side, source: str, memory: int, endpoint: str) -> Iterator[Function]:
    """Run a side in a new container with the memory, in MB, and the CPU share of a function of that size.

    A model from S3 is in /tmp, which takes memory here but not in Lambda: its size is added.
    """
    environment = {
        **CREDENTIALS,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory),
        "AWS_LAMBDA_FUNCTION_TIMEOUT": "60",
        **side.environment[source],
    }
    limit = memory * 2**20 + (side.model.stat().st_size if source == "S3" else 0)
    share = min(memory / MB_PER_VCPU, client.info()["NCPU"])
    limits = {"mem_limit": limit, "memswap_limit": limit, "nano_cpus": int(share * 1e9)}
    with running(client, side.image, environment=environment, **limits, **AS_LAMBDA) as function:
        yield function


@contextmanager
def storage(client: Any, models: Mapping[str, Path]) -> Iterator[str]:
    """Start an S3 that containers can reach, with the models in it, and yield its URL."""
    subnet = client.networks.get("bridge").attrs["IPAM"]["Config"][0]["Subnet"]
    gateway = str(next(ipaddress.ip_network(subnet).hosts()))  # this machine, as containers see it
    with closing(socket.create_server((gateway, 0))) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", gateway, "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            endpoint = f"http://{gateway}:{port}"
            os.environ.update(CREDENTIALS)
            wait_until(lambda: _listens(gateway, port), "moto")
            with closing(boto3.client("s3", endpoint_url=endpoint)) as s3:
                s3.create_bucket(Bucket=BUCKET)
                for name, path in {**models, "reference": network_of(models["float"])}.items():
                    s3.upload_file(str(path), BUCKET, f"{name}.onnx")
            yield endpoint
        finally:
            server.terminate()


def _listens(host: str, port: int) -> bool:
    with socket.create_connection((host, port)):
        return True


class Process:
    """A function of events, by default a side's handler, in a new process that answers one event after another."""

    CODE = """
import json, os, sys
from importlib import import_module
from time import perf_counter as now
answers = os.dup(1)
os.dup2(2, 1)  # what the handler logs
handle = getattr(import_module(sys.argv[1]), sys.argv[2])
for line in sys.stdin:
    event = json.loads(line)
    started = now()
    answer = handle(event)
    ended = now()
    os.write(answers, json.dumps([started, ended, answer["body"]]).encode() + b"\\n")
"""

    def __init__(self, model: Path, module: str = "lambda_src.handler", function: str = "lambda_handler") -> None:
        where = {"MODEL_URI": str(model), "MLINFER_MODEL_URI": str(model)}
        threads = {"THREADS": "1", "MLINFER_THREADS": "1"}
        command = [sys.executable, "-c", self.CODE, module, function]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, env={**os.environ, **CREDENTIALS, **where, **threads}, **pipes)

    def ask(self, event: object) -> tuple[float, float, dict[str, Any]]:
        """Return when the handler began and ended, on the clock of perf_counter, and the answer's body."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(event).encode() + b"\n")
        self._process.stdin.flush()
        started, ended, body = json.loads(self._process.stdout.readline())
        return started, ended, body

    def end(self) -> None:
        """End the process."""
        self._process.communicate()
