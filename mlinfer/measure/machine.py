"""What machine this is, for figures that hold on it alone."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from lambda_src.settings import default_threads


@dataclass(frozen=True)
class Machine:
    """Where something was measured. runtime: Python and onnxruntime of the function. cores: that this process may use. memory_bytes, load: None where unknown.

    load: how many processes wanted a core in the minute before, on average.
    """

    cpu: str
    cores: int
    memory_bytes: int | None
    os: str
    runtime: str
    load: float | None


def describe(runtime: str = "") -> Machine:
    """Describe this machine. runtime: what the function runs on, if not on this very Python."""
    runtime = runtime or f"Python {platform.python_version()}, onnxruntime {version('onnxruntime')}"
    return Machine(_cpu(), default_threads({}), _memory(), _system(), runtime, _load())


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
