"""Predict in this process, with the same handler package that runs in Lambda."""

from __future__ import annotations

from collections.abc import Callable

from lambda_src.errors import FaultError
from lambda_src.service import Service
from lambda_src.settings import Settings, default_threads

from ..config import Config
from ..errors import UsageError
from ..model.path import model_path
from . import Target, make_event


def make_service(config: Config, log: Callable[[str], None], threads: int = 0) -> Service:
    """Return the handler's service with the model loaded. threads: 0 means as configured. Raises MlinferError."""
    path = model_path(config)
    made = Service(Settings(str(path), threads=threads or count_threads(config), max_pixels=config.max_pixels), log)
    try:
        made.load()
    except FaultError as error:
        from ..model.modelfile import read_model_file, require_metadata

        require_metadata(read_model_file(path))  # the better error for a file of another kind or without labels
        raise UsageError(
            "unusable_model", f"cannot use model file {path}", "Export the model again.", reason=error
        ) from error
    return made


def count_threads(config: Config) -> int:
    """Return the number of onnxruntime threads: as configured, else one per core that this process may use."""
    return config.threads or default_threads({})


def count_cores(config: Config) -> int:
    """Return the number of images to process at once: one per thread, but no more than cores that can work on them."""
    return min(count_threads(config), default_threads({}))


def make_target(config: Config, log: Callable[[str], None], jobs: int = 1) -> Target:
    """Return the target that predicts in this process, for up to `jobs` callers at once. Raises MlinferError.

    The callers share one model and its threads: two images on one core each are faster than one after the other on two
    cores, because decoding uses only one.
    """
    threads = max(1, count_cores(config) // jobs) if jobs > 1 else count_threads(config)
    service = make_service(config, log, threads)
    return lambda _, data, top_k: service.answer(make_event(data, top_k))
