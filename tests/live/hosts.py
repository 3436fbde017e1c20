"""ECR host names on loopback addresses, so that a push uses ECR's name and stays on this machine."""

from __future__ import annotations

import fcntl
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HOSTS = Path("/etc/hosts")
REGION = "us-east-1"
# Go's resolver, in dockerd, may have read the file just before: https://go.dev/src/net/hosts.go (cacheMaxAge). To ask
# dockerd instead, until it knows the name, could send a request to another host of that name.
SEEN_S = 5.1


@dataclass(frozen=True)
class EcrHost:
    """An account's ECR and its loopback address; dockerd speaks plain HTTP to 127/8."""

    account: str
    address: str

    @property
    def name(self) -> str:
        """Return the host name."""
        return f"{self.account}.dkr.ecr.{REGION}.amazonaws.com"


def unsupported() -> str | None:
    """Return why host names cannot be set here, or None."""
    if hasattr(os, "geteuid") and os.geteuid() == 0 and HOSTS.is_file():
        return None
    return f"only root may write {HOSTS} and listen on port 80"


def loopback_address() -> str:
    """Return an address of 127/8 that is probably free."""
    return "127." + ".".join(str(random.randint(1, 254)) for _ in range(3))


@contextmanager
def named(*hosts: EcrHost) -> Iterator[None]:
    """Set the host names, and return when the Docker Engine resolves them."""
    lines = "".join(f"{host.address} {host.name}\n" for host in hosts)
    with HOSTS.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        for host in hosts:
            if host.name in text.split():
                raise RuntimeError(f"{HOSTS} has a line for {host.name}: of another run, or of one that was killed")
        file.write(lines if text.endswith("\n") else f"\n{lines}")
    try:
        time.sleep(SEEN_S)
        yield
    finally:
        with HOSTS.open("r+") as file:  # in place: in a container the file is a mount, which nothing can replace
            fcntl.flock(file, fcntl.LOCK_EX)
            rest = [line for line in file if line not in lines.splitlines(keepends=True)]
            file.seek(0)
            file.writelines(rest)
            file.truncate()
