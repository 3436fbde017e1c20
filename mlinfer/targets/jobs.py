"""Choose how many images to process in parallel, from the target and the available memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from ..config import Config
from ..model.footprint import jobs_that_fit
from ..model.path import model_path
from ..terminal import counted
from .embedded import count_cores
from .memory import available_memory

CLOUD_JOBS = 8
MANY = 16  # with at least this many images, starting threads pays off


def choose_jobs(config: Config, images: int, given: int | None, note: Callable[[str], None]) -> int:
    """Return how many images to process in parallel; 1 for the emulator. given: by the user, or None. Raises MissingError."""
    return _within_memory(config, min(given or _default_jobs(config, images), images), note)


def _default_jobs(config: Config, images: int) -> int:
    if config.target == "embedded":
        return count_cores(config) if images >= MANY else 1
    if config.target == "local":
        return 1
    if config.target == "aws":
        return CLOUD_JOBS
    assert_never(config.target)


def _within_memory(config: Config, jobs: int, note: Callable[[str], None]) -> int:
    """Reduce the jobs to what fits in memory, with a note to the user. Raises MissingError."""
    if jobs == 1:
        return 1
    size = model_path(config).stat().st_size if config.target == "embedded" else 0
    available = available_memory()
    if available is None or (fitting := jobs_that_fit(jobs, size, available)) == jobs:
        return jobs
    note(f"Running {counted(fitting, 'job')} instead of {jobs} ({available / 2**20:,.0f} MB of memory available).")
    return fitting
