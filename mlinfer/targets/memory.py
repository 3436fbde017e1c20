"""How much memory this machine has, and how much of it a process can still use."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def total_memory() -> int | None:
    """Return the bytes of memory of this machine; None if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows
        return None


def available_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes of memory available to this process, within its cgroup limits; None if unknown.

    root: the folder with /proc and /sys. Reclaimable page cache counts as available.
    """
    room = [*_free_memory(root), *_room_in_groups(root)]
    return min(room) if room else total_memory()


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
