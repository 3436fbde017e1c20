"""Find a free port of this machine, or the program that uses a port."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

_LISTENING = "0A"  # the state in /proc/net/tcp: include/net/tcp_states.h of Linux


def find_free_port(host: str) -> int:
    """Return a port that is free at the moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def find_port_holder(host: str, port: int) -> str:
    """Return what uses the port ("another program" if unknown), or "" if it is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # or a recently closed connection would count
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EACCES:
                return "the system (ports below 1024 need root)"
            return _program(port) or "another program"
    return ""


def _program(port: int) -> str:
    """Return the process that listens on the port; "" if it is another user's, or if this is not Linux."""
    sockets = set()
    for table in ("tcp", "tcp6"):
        path = Path("/proc/net") / table
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                sockets.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(link.readlink()) in sockets for link in process.joinpath("fd").iterdir()):
                return f"{process.joinpath('comm').read_text().strip()} (process {process.name})"
        except OSError:  # it has exited, or belongs to another user
            continue
    return ""
