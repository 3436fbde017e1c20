"""A model that does not fit into the function's memory or /tmp is refused before anything changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ..conftest import Run
from ..models import sparse
from ..servers.aws import LoopbackAws

MlInfer = Callable[..., Run]


@pytest.mark.parametrize(
    ("megabytes", "flags", "code", "numbers"),
    [
        (60, ["--memory", "128"], "memory_too_small", ["60 MB", "150 MB", "128 MB"]),
        (600, ["--memory", "3008"], "tmp_too_small", ["600 MB", "512 MB"]),
        (6000, ["--memory", "10240", "--tmp", "10240"], "memory_too_small", ["6,000 MB", "10,240 MB"]),
    ],
)
def test_deploy_refuses_what_does_not_fit(
    mlinfer: MlInfer, cloud: LoopbackAws, megabytes: int, flags: list[str], code: str, numbers: list[str]
) -> None:
    """`deploy` says with numbers what is too small and what to set, before it calls AWS."""
    model = sparse(Path("large.onnx"), megabytes)
    run = mlinfer("deploy", "--model", model, "--bucket", "cloud-models", *flags, "--json")
    error = json.loads(run.out)["error"]
    assert (run.code, error["code"]) == (2, code)
    assert all(number in error["message"] for number in numbers), error["message"]
    assert error["hint"]
    assert cloud.calls == []


def test_a_close_fit_is_a_note(mlinfer: MlInfer, cloud: LoopbackAws, deploy_arguments: list[str]) -> None:
    """A model that barely fits is deployed, with a note that has the numbers."""
    assert cloud.calls == []
    model = sparse(Path("close.onnx"), 45)
    run = mlinfer("deploy", *deploy_arguments, "--model", model, "--memory", "128", "--dry-run")
    assert run.code == 0, run.err
    assert "45 MB" in run.err
    assert "Memory may be too small" in run.err
