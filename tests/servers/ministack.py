"""ministack: S3, ECR with a real registry, IAM, logs, and a Lambda that runs images in real containers.

It has its own environment, because it pins botocore. It differs from AWS:
- any password opens the registry, and no policy is enforced,
- a function's image and role are not checked before an invocation,
- DescribeImages of a missing tag is empty, and so is CodeSha256,
- GetPolicy does not report a missing policy,
- containers have no limits, and events over 6 MB are cut instead of refused,
- IAM roles and log groups are missing among the tagged resources.
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from devtools.ready import wait_until
from devtools.rie import CACHE

from ..live.hosts import REGION, EcrHost

VERSION = "1.5.33"
HEALTH = "/_ministack/health"
SERVICES = "s3,ecr,lambda,iam,sts,logs,monitoring,tagging,resource-groups"


@dataclass(frozen=True)
class Ministack:
    """An emulated AWS at the address of its ECR, on port 80."""

    ecr: EcrHost

    @property
    def account(self) -> str:
        """Return the account's twelve digits."""
        return self.ecr.account

    @property
    def url(self) -> str:
        """Return the endpoint of every service."""
        return f"http://{self.ecr.address}:80"

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables that point boto3 here. A key of twelve digits is an account."""
        return {
            "AWS_ACCESS_KEY_ID": self.account,
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.url,
        }

    def request(self, method: str, path: str) -> int:
        """Send a request and return the status of its answer."""
        connection = http.client.HTTPConnection(self.ecr.address, 80, timeout=60)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            response.read()
            return response.status
        finally:
            connection.close()

    def reset(self) -> None:
        """Delete everything, and stop the functions' containers."""
        status = self.request("POST", "/_ministack/reset")
        if status != 200:
            raise RuntimeError(f"ministack answered a reset with {status}")


def ensure_environment() -> Path:
    """Return the Python of ministack's own environment; create it the first time."""
    folder = CACHE / f"ministack-{VERSION}-py{sys.version_info.major}.{sys.version_info.minor}"
    python = folder / "bin" / "python"
    complete = folder / "complete"
    if not complete.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        CACHE.mkdir(mode=0o700, parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-qq", f"ministack=={VERSION}", "docker>=7.2"], check=True)
        complete.touch()
    return python


def free_port(address: str) -> str:
    """Return a free port of an address."""
    with socket.create_server((address, 0)) as server:
        return str(server.getsockname()[1])


@contextmanager
def serving(engine: Any, folder: Path, ecr: EcrHost) -> Iterator[Ministack]:
    """Serve an empty AWS to this machine, and to the containers of the Engine's default network."""
    python = ensure_environment()
    ministack = Ministack(ecr)
    subnet = engine.networks.get("bridge").attrs["IPAM"]["Config"][0]["Subnet"]
    gateway = str(ip_network(subnet)[1])  # the Engine names it after its second start only
    port = free_port(gateway)  # where the functions find it: http://host.docker.internal:port
    settings = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "GATEWAY_PORT": port,
        "SERVICES": SERVICES,
        "LAMBDA_DOCKER_FLAGS": "-e ORT_DISABLE_TELEMETRY=1",
        "MINISTACK_HOSTNAME": f"mlinfer-{ecr.account}",  # the label of its containers
        **{name: value for name, value in os.environ.items() if name.startswith("DOCKER_")},
    }
    # hypercorn's own command, because ministack's binds one address.
    binds = ["--bind", f"{ecr.address}:80", "--bind", f"{gateway}:{port}"]
    command = [str(python), "-m", "hypercorn", "ministack.app:app", "--workers", "0", *binds]
    with (folder / "ministack.log").open("wb") as log:
        process = subprocess.Popen(command, env=settings, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: process.poll() is not None or ministack.request("GET", HEALTH) == 200, "ministack")
        if process.poll() is not None:
            raise RuntimeError(f"ministack ended:\n{(folder / 'ministack.log').read_text()}")
        yield ministack
    finally:
        process.terminate()
        process.wait(60)
        remove_leftovers(engine, ministack, f"mlinfer-{ecr.account}:{port}")


def remove_leftovers(engine: Any, ministack: Ministack, instance: str) -> None:
    """Remove the containers that ministack left, and the images tagged for or pulled from its registry."""
    from docker.errors import ImageNotFound

    for container in engine.containers.list(all=True, filters={"label": f"ministack.instance={instance}"}):
        container.remove(force=True, v=True)
    for image in engine.api.images():
        for name in [*(image["RepoTags"] or []), *(image["RepoDigests"] or [])]:
            if name.startswith(f"{ministack.ecr.name}/"):
                with suppress(ImageNotFound):  # its digest goes with its last tag
                    engine.images.remove(name, force=True)
