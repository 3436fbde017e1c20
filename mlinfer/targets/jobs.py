"""Choose how many images to process in parallel, from the target and the available memory."""

from __future__ import annotations

from collections.abc import Callable

from ..config import Config
from ..model.footprint import jobs_that_fit
from ..model.path import model_path
from ..targets.embedded import count_threads
from .machine import available_memory

CLOUD_JOBS = 8
MANY = 16  # with at least this many images, loading more sessions pays off


def choose_jobs(config: Config, images: int, given: int | None, note: Callable[[str], None]) -> int:
    """Return how many images to process in parallel; 1 for the emulator. given: by the user, or None. Raises MissingError."""
    if given or config.target == "aws":
        jobs = given or CLOUD_JOBS
    else:
        jobs = count_threads(config) if config.target == "embedded" and images >= MANY else 1
    return _within_memory(config, min(jobs, images), note)


def _within_memory(config: Config, jobs: int, note: Callable[[str], None]) -> int:
    """Reduce the jobs to what fits in memory, with a note to the user. Raises MissingError."""
    if jobs == 1:
        return 1
    size = model_path(config).stat().st_size if config.target == "embedded" else 0
    available = available_memory()
    if available is None or (fitting := jobs_that_fit(jobs, size, available)) == jobs:
        return jobs
    held = f"; each job loads the model of {size / 2**20:,.0f} MB" if size else ""
    note(f"Running {fitting} jobs instead of {jobs} ({available / 2**20:,.0f} MB of memory available{held}).")
    return fitting
