"""Describe this machine and its available memory."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lambda_src.settings import default_threads


@dataclass(frozen=True)
class Machine:
    """The machine of a measurement. cores: those that this process may use. memory_bytes, load: None if unknown.

    runtime: Python and onnxruntime of the function. load: the load average of the last minute.
    """

    cpu: str
    cores: int
    memory_bytes: int | None
    os: str
    runtime: str
    load: float | None


def describe(runtime: str = "") -> Machine:
    """Describe this machine. runtime: what the function runs on, if not this Python."""
    from importlib.metadata import version  # 10 ms, and `predict` asks for the memory only

    runtime = runtime or f"Python {platform.python_version()}, onnxruntime {version('onnxruntime')}"
    return Machine(_cpu(), default_threads({}), _memory(), _system(), runtime, _load())


def available_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes of memory available to this process, within its cgroup limits; None if unknown.

    root: the folder with /proc and /sys. Reclaimable page cache counts as available.
    """
    room = [*_free_memory(root), *_room_in_groups(root)]
    return min(room) if room else _memory()


def _free_memory(root: Path) -> Iterator[int]:
    with suppress(OSError):
        text = (root / "proc/meminfo").read_text()
        yield from (
            int(kilobytes) * 1024 for kilobytes in re.findall(r"^MemAvailable:\s*(\d+) kB$", text, re.MULTILINE)
        )


def _room_in_groups(root: Path) -> Iterator[int]:
    """Yield the memory left below the limit of each cgroup (v1 or v2) of this process.

    https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif controllers == "memory":
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            top = root / "sys/fs/cgroup/memory"
        else:
            continue
        group = top / path.strip("/")
        for folder in (group, *group.parents[: len(group.parts) - len(top.parts)]):
            with suppress(OSError, ValueError):  # the file is missing, or the limit is "max"
                limit, used = (int((folder / name).read_text()) for name in names[:2])
                droppable = re.search(rf"^{names[2]} (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE)
                yield max(0, limit - used + (int(droppable[1]) if droppable else 0))


def _cpu() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(errors="replace"), re.MULTILINE)
    except OSError:
        found = None
    name = found[1].strip() if found else platform.processor()
    return f"{name or 'unknown processor'} ({platform.machine()})"


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows
        return None


def _system() -> str:
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {platform.system()} {platform.release()}"
    except (AttributeError, OSError, KeyError):
        return platform.platform()


def _load() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None
