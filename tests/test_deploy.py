"""Deploying, by the user's door, to an AWS on loopback that runs the real handler package."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Run
from .loopback_aws import LoopbackAws

MlInfer = Callable[..., Run]


def test_first(mlinfer: MlInfer, cloud: LoopbackAws, deploy_arguments: list[str]) -> None:
    """x."""
    import time

    t = time.perf_counter()
    run = mlinfer("deploy", *deploy_arguments)
    print(time.perf_counter() - t)
    print(run.err, run.out)
    print(cloud.calls)
    n = len(cloud.calls)
    run = mlinfer("deploy", *deploy_arguments, "--json")
    print(run.err, run.out)
    print(cloud.calls[n:])
    assert 0
