"""Small container images: with what Lambda needs and nothing else, or with one thing wrong."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from typing import Any

ENTRYPOINT = "lambda-entrypoint.sh"
HANDLER = "lambda_src.handler.lambda_handler"
SETTINGS = {"Entrypoint": [f"/{ENTRYPOINT}"], "Cmd": [HANDLER], "Env": ["HOME=/tmp"]}

Entry = tuple[tarfile.TarInfo, bytes]


def folder(name: str, mode: int = 0o755) -> Entry:
    """Return a folder of a layer."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    return entry, b""


def file(name: str, content: bytes = b"", mode: int = 0o644) -> Entry:
    """Return a file of a layer."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    return entry, content


def other(name: str, kind: bytes, target: str = "") -> Entry:
    """Return a link, device or pipe of a layer."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.mode = kind, target, 0o755
    return entry, b""


def shared_object(machine: int) -> bytes:
    """Return the start of a shared object for an ELF machine: 62 is x86_64, 183 is arm64."""
    return b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00" + machine.to_bytes(2, "little") + bytes(64)


BASE = (file(ENTRYPOINT, b"#!/bin/sh\n", 0o755), folder("root", 0o700))
CODE = (
    *(folder("var"), folder("var/task"), folder("var/task/lambda_src")),
    file("var/task/lambda_src/handler.py", b"def lambda_handler(event, context): ...\n"),
)


def tar_of(entries: Iterable[Entry]) -> bytes:
    """Return a tar file."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for entry, data in entries:
            tar.addfile(entry, io.BytesIO(data))
    return content.getvalue()


def saved_image(*layers: bytes, **settings: Any) -> bytes:
    """Return what `docker save` writes for an image. layers: tar files, lowest first; by default those of a valid image."""
    layers = layers or (tar_of(BASE), tar_of(CODE))
    digests = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": digests}}
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    described = {"Config": "config.json", "RepoTags": [], "Layers": names}
    files = [file(name, layer) for name, layer in zip(names, layers, strict=True)]
    files.append(file("config.json", json.dumps({**config, "config": {**SETTINGS, **settings}}).encode()))
    return tar_of([*files, file("manifest.json", json.dumps([described]).encode())])
