"""Check the model file, Docker, the base image, memory and cores on this machine."""

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
from ..terminal import counted
from .findings import ANSWER_S, Finding

ROOM_BYTES = 3 * 10**9  # enough for a new build next to the previous one


def check_model(config: Config) -> Iterator[Finding]:
    """Check that the configured model exists, has metadata and suits the image's onnxruntime. Raises MlinferError."""
    file = modelfile.read_model_file(model_path(config))
    named = f"{file.path.name}, {file.bytes:,} bytes"
    if file.metadata is None:
        remedy = f"Add them with `mlinfer export {file.path} --labels FILE --preprocess imagenet|none|JSON`."
        yield Finding("model", "missing", f"{named}: no labels or pre-processing metadata", remedy)
    elif reason := modelfile.image_refusal(file):
        remedy = f"Convert it with `mlinfer export {file.path}`."
        yield Finding("model", "missing", f"{named}: {reason}", remedy)
    else:
        labels = counted(len(file.metadata.labels), "label")
        yield Finding(
            "model", "ok", f"{file.metadata.name} ({named}, {labels}), runs on onnxruntime {IMAGE_ONNXRUNTIME}"
        )


def check_docker(engine: Engine) -> Iterator[Finding]:
    """Report the versions of the Engine and the docker command, and the free disk space. Raises MlinferError."""
    version, info = engine.version(), engine.describe()
    store = ", containerd's image store" if "containerd.snapshotter" in str(info.get("DriverStatus")) else ""
    server = (
        f"Engine {version.get('Version')} (API {version.get('ApiVersion')}, {version.get('Os')}/{version.get('Arch')})"
    )
    yield Finding("docker", "ok", f"{server}, {_command()}, storage {info.get('Driver')}{store}")
    if engine.remote:
        remedy = "Use an Engine on this machine, or `mlinfer run-local --no-docker`."
        said = f"the Engine is on another machine ({engine.remote}), so run-local does not work"
        yield Finding("docker", "warning", said, remedy)
        return
    try:
        free = shutil.disk_usage(str(info.get("DockerRootDir"))).free
    except OSError:  # the folder is in Docker Desktop's virtual machine
        return
    room = f"{free / 10**9:.1f} GB free for container images"
    if free < ROOM_BYTES:
        remedy = "Free some disk space, for example with `docker system prune`."
        yield Finding("docker", "warning", room, remedy)
    else:
        yield Finding("docker", "ok", room)


def _command() -> str:
    """Return the version of the docker command, which mlinfer does not need."""
    path = shutil.which("docker")
    if not path:
        return "no docker command (not needed)"
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=ANSWER_S)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return "docker command fails (not needed)"
    return f"command {said.stdout.strip().removeprefix('Docker version ').partition(',')[0] or 'unknown'}"


def check_base_image(engine: Engine, config: Config) -> Iterator[Finding]:
    """Check that the base image exists for the configured architecture, locally or in its registry."""
    here = engine.find_image(config.base_image)
    if here:
        architectures, place = [here.arch], "local"
    else:
        try:
            architectures, place = engine.find_in_registry(config.base_image), "in its registry"
        except MlinferError as error:
            yield Finding("base image", "missing", str(error), error.hint)
            return
    if config.arch in architectures or not architectures:
        yield Finding("base image", "ok", f"{config.base_image} ({place}), {config.arch}")
    else:
        pull = f"docker pull --platform linux/{'arm64' if config.arch == 'arm64' else 'amd64'} {config.base_image}"
        remedy = f"Pull the right one with `{pull}`."
        said = f"{config.base_image} ({place}) is for {', '.join(architectures)}, but arch is {config.arch}"
        yield Finding("base image", "missing", said, remedy)


def check_machine(engine: Engine, config: Config) -> Iterator[Finding]:
    """Compare the Engine's machine with the memory and vCPUs that the function has in Lambda."""
    info = engine.describe()
    cores, memory = int(info.get("NCPU", 0)), int(info.get("MemTotal", 0)) // 2**20
    here, share = f"{counted(cores, 'core')}, {memory:,} MB", config.memory / MB_PER_VCPU
    if memory < config.memory:
        remedy = "Give Docker more memory, or lower memory in mlinfer.toml."
        yield Finding("machine", "warning", f"{here}: less than the function's {config.memory:,} MB", remedy)
    elif cores < share:
        remedy = "Measure in Lambda with --target aws, which is faster than this machine."
        yield Finding("machine", "warning", f"{here}: less than the function's {share:.1f} vCPUs", remedy)
    else:
        yield Finding("machine", "ok", f"{here}: enough for the function's {config.memory:,} MB and {share:.1f} vCPUs")
