"""The configuration and manifest of an image that is built without an Engine, from the base image's and the Dockerfile.

https://github.com/opencontainers/image-spec/blob/main/config.md
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from .. import __version__
from ..names import PROJECT_LABEL
from .base_image import BaseImage
from .contents import MODEL_PATH, BuildSpec, docker_folder
from .layers import Layer

LAYERS = ("dependencies", "model", "code")  # above the base image, lowest first

_CREATED = "1970-01-01T00:00:00Z"  # the time of the build would make each image another one
_DOCKER_TYPES = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.container.image.v1+json",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
)
_OCI_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.oci.image.layer.v1.tar+gzip",
)
_BASE_LABEL = "org.opencontainers.image.base"  # https://github.com/opencontainers/image-spec/blob/main/annotations.md


def make_config(spec: BuildSpec, base: BaseImage, own: Sequence[Layer]) -> bytes:
    """Return the image's configuration: the base image's with the settings of the Dockerfile."""
    settings = dict(base.config.get("config") or {})
    arguments = {"MODEL_URI": MODEL_PATH if spec.model else "", "MODEL_SHA256": spec.model.sha256 if spec.model else ""}
    wanted = read_dockerfile(docker_folder() / "Dockerfile", arguments)
    environment = dict(str(entry).partition("=")[::2] for entry in settings.get("Env") or [])
    settings["Env"] = [f"{name}={value}" for name, value in {**environment, **wanted.environment}.items()]
    settings["Cmd"] = wanted.command
    labels = {PROJECT_LABEL: spec.project, f"{_BASE_LABEL}.name": spec.base, f"{_BASE_LABEL}.digest": base.digest}
    labels |= {**wanted.labels, "org.opencontainers.image.version": __version__}
    settings["Labels"] = {**(settings.get("Labels") or {}), **labels}
    settings.pop("Image", None)  # the id of an image that an old Engine made on the way
    history = [entry for entry in base.config.get("history") or [] if not entry.get("empty_layer")]
    history = history if len(history) == len(base.layers) else [{"created": _CREATED} for _ in base.layers]
    made = [{"created": _CREATED, "created_by": f"mlinfer build: {name}"} for name in LAYERS]
    document = {
        **{name: base.config[name] for name in ("architecture", "os", "variant") if name in base.config},
        "created": _CREATED,
        "config": settings,
        "history": history + made,
        "rootfs": {
            "type": "layers",
            "diff_ids": [*base.config["rootfs"]["diff_ids"], *(layer.diff_id for layer in own)],
        },
    }
    return _as_bytes(document)


def make_manifest(base: BaseImage, config: bytes, own: Sequence[Layer]) -> bytes:
    """Return the manifest, of the same kind as the base image's."""
    manifest_type, config_type, layer_type = _OCI_TYPES if base.media_type == _OCI_TYPES[0] else _DOCKER_TYPES
    digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
    layers = [{name: layer[name] for name in ("mediaType", "size", "digest")} for layer in base.layers]
    layers += [{"mediaType": layer_type, "size": layer.size, "digest": layer.digest} for layer in own]
    document = {"schemaVersion": 2, "mediaType": manifest_type, "layers": layers}
    return _as_bytes(document | {"config": {"mediaType": config_type, "size": len(config), "digest": digest}})


def _as_bytes(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


@dataclass(frozen=True)
class ImageSettings:
    """What the last stage of the Dockerfile sets."""

    environment: Mapping[str, str]
    labels: Mapping[str, str]
    command: Sequence[str]


def read_dockerfile(path: Path, arguments: Mapping[str, str]) -> ImageSettings:
    """Return the ENV, LABEL and CMD of the last stage. arguments: the build arguments that they refer to."""
    text = re.sub(r"\\\s*\n", " ", re.sub(r"(?m)^\s*#.*\n", "", path.read_text()))
    stage = re.split(r"(?m)^FROM ", text)[-1]
    found: dict[str, dict[str, str]] = {"ENV": {}, "LABEL": {}}
    command: list[str] = []
    for line in stage.splitlines()[1:]:
        instruction, _, rest = line.partition(" ")
        if instruction in found:
            entries = shlex.split(Template(rest).safe_substitute(arguments))
            found[instruction] |= dict(entry.partition("=")[::2] for entry in entries)
        elif instruction == "CMD":
            command = json.loads(rest)
        elif instruction not in ("", "ARG", "COPY"):
            raise ValueError(f"{path.name}: the last stage has the unknown instruction {instruction}")
    return ImageSettings(found["ENV"], found["LABEL"], command)
