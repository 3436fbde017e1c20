"""What is to run on this machine: the image and Lambda's settings, and the container's options that stand for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lambda_src.settings import MB_PER_VCPU

from ..clients.docker import EngineMachine
from ..config import Config
from ..errors import UsageError
from ..model.path import read_configured_model
from ..names import PROJECT_LABEL
from .address import HOST, INVOCATIONS, address

_INNER_PORT = 8080
_MODEL_MOUNT = "/mnt/model.onnx"
_LAMBDA_USER = "993:990"  # sbx_user1051
_MAX_PROCESSES = 1024  # https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html


@dataclass(frozen=True)
class LocalFunction:
    """How the image is to run. memory, tmp: MB; timeout: s; model: a file to mount, or None for what environment names."""

    image: str
    project: str
    port: int
    memory: int
    tmp: int
    timeout: int
    environment: Mapping[str, str]
    model: Path | None = None
    fetched_bytes: int = 0  # of a model that will be downloaded to /tmp, which takes memory here but not in Lambda

    @property
    def url(self) -> str:
        """Return where events are posted to."""
        return address(self.port) + INVOCATIONS


def make_function(config: Config, tag: str, s3_environment: Mapping[str, str] | None = None) -> LocalFunction:
    """Return how the image is to run: with the configured model mounted, inside the image or fetched.

    s3_environment: what the function needs to fetch the model from S3, or None where it does not. Raises MlinferError.
    """
    environment, mounted, fetched = config.handler_environment() | dict(s3_environment or {}), None, 0
    if config.model_source == "s3":
        model = read_configured_model(config)
        environment["MLINFER_MODEL_SHA256"] = model.sha256
        mounted, fetched = (model.path, 0) if s3_environment is None else (None, model.bytes)
    return LocalFunction(
        image=tag,
        project=config.project,
        port=config.port,
        memory=config.memory,
        tmp=config.tmp,
        timeout=config.timeout,
        environment=environment,
        model=mounted,
        fetched_bytes=fetched,
    )


def container_options(function: LocalFunction, machine: EngineMachine, label: str) -> dict[str, Any]:
    """Return docker-py's options of the container. label: gets a hash of the image and of the other options as its value."""
    environment = {
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory),
        "AWS_LAMBDA_FUNCTION_TIMEOUT": str(function.timeout),
        "AWS_LAMBDA_FUNCTION_NAME": "function",
        **function.environment,
    }
    files = {}
    if function.model:
        _check_readable(function.model)
        files = {str(function.model.resolve()): _MODEL_MOUNT}
        environment["MLINFER_MODEL_URI"] = _MODEL_MOUNT
    memory = function.memory * 2**20 + function.fetched_bytes
    options: dict[str, Any] = {
        "environment": environment,
        "files": files,
        "ports": {f"{_INNER_PORT}/tcp": (HOST, function.port)},
        "read_only": True,
        "tmpfs": {"/tmp": f"size={function.tmp}m,mode=1777"},
        "user": _LAMBDA_USER,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "pids_limit": _MAX_PROCESSES,
        "mem_limit": memory,
        "memswap_limit": memory,
        "nano_cpus": int(min(function.memory / MB_PER_VCPU, machine.cores) * 1e9),
        "name": f"mlinfer-{function.project}-{function.port}",
    }
    spec = json.dumps([function.image, options], sort_keys=True).encode()
    options["labels"] = {PROJECT_LABEL: function.project, label: hashlib.sha256(spec).hexdigest()[:16]}
    return options


def describe_shortage(memory: int, machine: EngineMachine) -> tuple[str, ...]:
    """Say what a machine cannot give to a function of that memory, in MB."""
    notes = []
    share = memory / MB_PER_VCPU
    if share > machine.cores:
        notes.append(f"{memory} MB give {share:.1f} vCPUs in Lambda; this machine has {machine.cores}.")
    if memory * 2**20 > machine.memory:
        notes.append(f"The function has {memory} MB; the Docker Engine's machine has {machine.memory // 2**20} MB.")
    return tuple(notes)


def _check_readable(model: Path) -> None:
    if not model.stat().st_mode & 0o004:
        message = f"{model} is readable only by you, and the function runs as Lambda's own user"
        raise UsageError("model_unreadable", message, f"Let it be read: chmod o+r {model}")
