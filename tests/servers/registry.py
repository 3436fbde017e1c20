"""Debian's docker-registry with one user and password; it records each request."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import bcrypt

from devtools.ready import wait_until

USER = "AWS"  # ECR's, whose tokens are passwords


@dataclass(frozen=True)
class Request:
    """One request to the registry, and the status of its answer: 401 without the password."""

    method: str
    path: str
    status: int


@dataclass(frozen=True)
class Registry:
    """A registry at a host (with its port unless that is 80), and its password."""

    host: str
    password: str
    log: Path
    user: str = USER

    def requests(self) -> list[Request]:
        """Return the requests that came so far."""
        lines = re.findall(r'^\S+ - \S+ \[[^]]*\] "(\w+) (\S+) [^"]*" (\d+) ', self.log.read_text(), re.MULTILINE)
        return [Request(method, path, int(status)) for method, path, status in lines]


def unsupported() -> str | None:
    """Return why no registry can run here, or None."""
    return None if shutil.which("docker-registry") else "Debian's docker-registry is not installed: .ci/engine start"


@contextmanager
def serving(folder: Path, password: str, address: str = "127.0.0.1", port: int = 0) -> Iterator[Registry]:
    """Serve an empty registry, by default on a free port. password "": anyone may read and write."""
    secret = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
    (folder / "htpasswd").write_text(f"{USER}:{secret}\n")
    login = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    (folder / "registry.yml").write_text(  # JSON is YAML
        json.dumps(
            {
                "version": "0.1",
                "log": {"level": "info"},
                "storage": {"filesystem": {"rootdirectory": str(folder / "images")}, "delete": {"enabled": True}},
                "http": {"addr": f"{address}:{port}"},
                **({"auth": login} if password else {}),
            }
        )
    )
    log = folder / "registry.log"
    with log.open("wb") as file:
        command = ["docker-registry", "serve", str(folder / "registry.yml")]
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        listening = re.compile(r"listening on [\d.]+:(\d+)")
        wait_until(lambda: process.poll() is not None or bool(listening.search(log.read_text())), "the registry")
        found = listening.search(log.read_text())
        if not found:
            raise RuntimeError(f"the registry ended with status {process.returncode}:\n{log.read_text()}")
        yield Registry(f"{address}:{found.group(1)}" if found.group(1) != "80" else address, password, log)
    finally:
        process.terminate()
        process.wait(30)
