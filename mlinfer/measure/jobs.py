"""How many images are asked about at once: what the target takes, and what the memory here is enough for."""

from __future__ import annotations

from collections.abc import Callable

from ..config import Config
from ..model.footprint import jobs_that_fit
from ..model.path import model_path
from ..targets.embedded import count_threads
from .machine import available_memory

CLOUD_JOBS = 8
MANY = 16  # images, from which on further sessions are worth their load


def choose_jobs(config: Config, images: int, given: int | None, note: Callable[[str], None]) -> int:
    """Return how many of the images are asked about at once: of the emulator one. given: by the user. Raises MissingError."""
    if given or config.target == "aws":
        jobs = given or CLOUD_JOBS
    else:
        jobs = count_threads(config) if config.target == "embedded" and images >= MANY else 1
    return _within_memory(config, min(jobs, images), note)


def _within_memory(config: Config, jobs: int, note: Callable[[str], None]) -> int:
    """Return how many of the jobs the memory here is enough for, and say so if these are fewer. Raises MissingError."""
    if jobs == 1:
        return 1
    size = model_path(config).stat().st_size if config.target == "embedded" else 0
    available = available_memory()
    if available is None or (fitting := jobs_that_fit(jobs, size, available)) == jobs:
        return jobs
    held = f" with a model file of {size / 2**20:,.0f} MB each" if size else ""
    note(f"{fitting} images at once instead of {jobs}{held}: {available / 2**20:,.0f} MB of memory are available.")
    return fitting
