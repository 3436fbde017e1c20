"""Describe the function to run locally, and derive the container options that match Lambda's settings."""

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
from ..terminal import counted
from .address import HOST, INVOCATIONS, address

_INNER_PORT = 8080
_MODEL_MOUNT = "/mnt/model.onnx"
_LAMBDA_USER = "993:990"  # sbx_user1051
_MAX_PROCESSES = 1024  # https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html


@dataclass(frozen=True)
class LocalFunction:
    """The settings of the local function. memory, tmp: MB. timeout: seconds. model: a file to mount, or None."""

    image: str
    project: str
    port: int
    memory: int
    tmp: int
    timeout: int
    environment: Mapping[str, str]
    model: Path | None = None
    fetched_bytes: int = 0  # size of a model downloaded to /tmp, which takes memory here but not in Lambda

    @property
    def url(self) -> str:
        """Return the URL for invocations."""
        return address(self.port) + INVOCATIONS


def make_function(config: Config, tag: str, s3_environment: Mapping[str, str] | None = None) -> LocalFunction:
    """Return the configured function, with its model mounted, in the container image, or downloaded.

    s3_environment: variables for downloading the model from S3, or None to mount it. Raises MlinferError.
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
    """Return the options of the container for docker-py. label: set to a hash of the image and all other options."""
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
    """Return a note for each limit that the machine cannot provide. memory: of the function, in MB."""
    notes = []
    share = memory / MB_PER_VCPU
    if share > machine.cores:
        notes.append(
            f"With {memory} MB Lambda gives {share:.1f} vCPUs, but this machine has {counted(machine.cores, 'core')}."
        )
    if memory * 2**20 > machine.memory:
        available = machine.memory // 2**20
        notes.append(f"The function has {memory} MB of memory, but the Docker Engine's machine has {available} MB.")
    return tuple(notes)


def _check_readable(model: Path) -> None:
    if not model.stat().st_mode & 0o004:
        message = f"{model} is readable only by you, but the container runs as another user"
        raise UsageError("model_unreadable", message, f"Make it readable with `chmod o+r {model}`.")
