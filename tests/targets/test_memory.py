"""`predict --jobs` uses only the memory that the machine, or its control group, has left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mlinfer.model.footprint import jobs_that_fit
from mlinfer.targets.memory import available_memory

from ..conftest import CAT, Run

MB = 2**20
MACHINE = {"proc/meminfo": "MemTotal:       9000000 kB\nMemAvailable:    4194304 kB\n"}
VERSION_2 = {"proc/self/cgroup": "0::/all/one\n"}
VERSION_1 = {"proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/job\n0::/\n"}


def group(path: str, limit: object, used: int, droppable: int) -> dict[str, str]:
    """Return the files of a version 2 control group."""
    stat = f"anon 1\ninactive_file {droppable}\n"
    return {f"{path}/memory.max": f"{limit}\n", f"{path}/memory.current": f"{used}\n", f"{path}/memory.stat": stat}


def group_1(path: str, limit: int, used: int, droppable: int) -> dict[str, str]:
    """Return the files of a version 1 control group."""
    stat = f"inactive_file 7\ntotal_inactive_file {droppable}\n"
    named = {"limit_in_bytes": limit, "usage_in_bytes": used, "stat": stat}
    return {f"{path}/memory.{name}": f"{value}\n" for name, value in named.items()}


@pytest.mark.parametrize(
    ("files", "available"),
    [
        (MACHINE, 4096),
        (MACHINE | VERSION_2, 4096),
        (MACHINE | VERSION_2 | group("sys/fs/cgroup/all/one", "max", 1, 1), 4096),
        (MACHINE | VERSION_2 | group("sys/fs/cgroup/all/one", 900 * MB, 500 * MB, 100 * MB), 500),
        (MACHINE | VERSION_2 | group("sys/fs/cgroup/all", 900 * MB, 500 * MB, 0), 400),
        (MACHINE | VERSION_2 | group("sys/fs/cgroup", 900 * MB, 900 * MB, 0), 0),
        (MACHINE | VERSION_1 | group_1("sys/fs/cgroup/memory/job", 900 * MB, 500 * MB, 50 * MB), 450),
        (MACHINE | VERSION_1 | group_1("sys/fs/cgroup/memory", 2**63 - 4096, 500 * MB, 0), 4096),
    ],
)
def test_available_memory_is_read(tmp_path: Path, files: dict[str, str], available: int) -> None:
    """The available memory is the least of the machine's and each control group's."""
    for name, text in files.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert available_memory(tmp_path / "root") == available * MB


def test_a_machine_that_says_nothing(tmp_path: Path) -> None:
    """Without these files, the machine's total memory counts."""
    assert (available_memory(tmp_path) or 0) >= (available_memory() or 0) > 0


@pytest.mark.parametrize(
    ("jobs", "size", "available", "fitting"),
    [
        (64, 400 * MB, 2080 * MB, 20),
        (64, 10 * MB, 64_000 * MB, 64),
        (8, 4000 * MB, 1000 * MB, 1),
        (64, 0, 640 * MB, 10),
    ],
)
def test_jobs_that_fit(jobs: int, size: int, available: int, fitting: int) -> None:
    """The jobs share the model, and each needs an image; at least one job runs."""
    assert jobs_that_fit(jobs, size, available) == fitting


def test_jobs_that_fit_write_no_note(mlinfer: Callable[..., Run]) -> None:
    """If all jobs fit, they run without a note."""
    run = mlinfer("predict", *[CAT] * 3, "--jobs", "3")
    assert run.code == 0
    assert "memory" not in run.err
