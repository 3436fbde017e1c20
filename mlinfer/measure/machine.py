"""Describe this machine."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from lambda_src.settings import default_threads

from ..targets.memory import total_memory


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
    return Machine(_cpu(), default_threads({}), total_memory(), _system(), runtime, _load())


def _cpu() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(errors="replace"), re.MULTILINE)
    except OSError:
        found = None
    name = found[1].strip() if found else platform.processor()
    return f"{name or 'unknown processor'} ({platform.machine()})"


def _system() -> str:
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {platform.system()} {platform.release()}"
    except (AttributeError, OSError, KeyError):
        return platform.platform()


def _load() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None
