"""Check what commands need on this machine: the model file, Docker, the base image, memory and cores."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

from lambda_src.settings import MB_PER_VCPU

from ..clients.docker import Engine
from ..config import Config
from ..errors import MlinferError
from ..model import modelfile
from ..model.path import model_path
from ..model.runtime import IMAGE_ONNXRUNTIME
from .findings import ANSWER_S, Finding

ROOM_BYTES = 3 * 10**9  # a build and what it replaces


def check_model(config: Config) -> Iterator[Finding]:
    """Look whether the configured model is there, can predict, and suits the image's onnxruntime. Raises MlinferError."""
    file = modelfile.read_model_file(model_path(config))
    named = f"{file.path.name}, {file.bytes:,} bytes"
    if file.metadata is None:
        remedy = f"Stamp it: mlinfer export {file.path} --labels FILE --preprocess imagenet|none|JSON"
        yield Finding("model", "missing", f"{named}: it does not say what its labels and pre-processing are", remedy)
    elif reason := modelfile.image_refusal(file):
        remedy = f"Convert it for the image's onnxruntime: mlinfer export {file.path}"
        yield Finding("model", "missing", f"{named}: {reason}", remedy)
    else:
        labels = f"{len(file.metadata.labels)} labels"
        yield Finding(
            "model", "ok", f"{file.metadata.name} ({named}, {labels}), onnxruntime {IMAGE_ONNXRUNTIME} takes it"
        )


def check_docker(engine: Engine) -> Iterator[Finding]:
    """Describe the Engine, the docker command beside it, and the room that images have. Raises MlinferError."""
    version, info = engine.version(), engine.describe()
    store = ", containerd's image store" if "containerd.snapshotter" in str(info.get("DriverStatus")) else ""
    server = (
        f"Engine {version.get('Version')} (API {version.get('ApiVersion')}, {version.get('Os')}/{version.get('Arch')})"
    )
    yield Finding("docker", "ok", f"{server}, {_command()}, storage {info.get('Driver')}{store}")
    if engine.remote:
        remedy = "For run-local use an Engine on this machine, or --no-docker."
        yield Finding("docker", "warning", f"it runs on another machine ({engine.remote}): build and push work", remedy)
        return
    try:
        free = shutil.disk_usage(str(info.get("DockerRootDir"))).free
    except OSError:  # it runs in Docker Desktop's virtual machine
        return
    room = f"{free / 10**9:.1f} GB free for images"
    if free < ROOM_BYTES:
        yield Finding("docker", "warning", room, "Make room, for example: docker system prune")
    else:
        yield Finding("docker", "ok", room)


def _command() -> str:
    """Describe the docker command, which mlinfer does not need."""
    path = shutil.which("docker")
    if not path:
        return "no docker command (not needed)"
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=ANSWER_S)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return "a docker command that does not answer (not needed)"
    return f"command {said.stdout.strip().removeprefix('Docker version ').partition(',')[0] or 'unknown'}"


def check_base_image(engine: Engine, config: Config) -> Iterator[Finding]:
    """Look whether the base image is here, or its registry in reach, for the configured architecture."""
    here = engine.find_image(config.base_image)
    if here:
        architectures, place = [here.arch], "here"
    else:
        try:
            architectures, place = engine.find_in_registry(config.base_image), "in its registry"
        except MlinferError as error:
            yield Finding("base image", "missing", str(error), error.hint)
            return
    if config.arch in architectures or not architectures:
        yield Finding("base image", "ok", f"{config.base_image} is {place}, {config.arch}")
    else:
        remedy = f"docker pull --platform linux/{'arm64' if config.arch == 'arm64' else 'amd64'} {config.base_image}"
        said = f"{config.base_image} is {place} for {', '.join(architectures)}, and arch is {config.arch}"
        yield Finding("base image", "missing", said, remedy)


def check_machine(engine: Engine, config: Config) -> Iterator[Finding]:
    """Compare the Engine's machine with what the configured memory size gives in Lambda."""
    info = engine.describe()
    cores, memory = int(info.get("NCPU", 0)), int(info.get("MemTotal", 0)) // 2**20
    here, share = f"{cores} cores, {memory:,} MB", config.memory / MB_PER_VCPU
    if memory < config.memory:
        remedy = "Give the Engine's machine more memory, or lower memory in mlinfer.toml."
        yield Finding("machine", "warning", f"{here}: less than the function's {config.memory:,} MB", remedy)
    elif cores < share:
        remedy = "run-local is slower here than Lambda: measure there."
        yield Finding("machine", "warning", f"{here}: the function has {share:.1f} vCPUs in Lambda", remedy)
    else:
        yield Finding("machine", "ok", f"{here}: enough for the function's {config.memory:,} MB and {share:.1f} vCPUs")
