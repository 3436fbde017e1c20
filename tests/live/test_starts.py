"""A function that fails to start: a crash, too little memory, a failing init and a slow one have different errors."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from lambda_src.inference.metadata import Metadata
from mlinfer.container_image.contents import BuildSpec

from .. import models
from ..conftest import Run
from .local import Local

MlInfer = Callable[..., Run]


def failed(run: Run, local: Local) -> dict[str, str]:
    """Return the error of a failed start, and require that no container is left."""
    assert run.code == 4, run
    error: dict[str, str] = json.loads(run.out)["error"]
    assert error["hint"]
    assert "(rapid)" not in error["message"]
    assert local.containers == []
    return error


def broken_image(mlinfer: MlInfer, local: Local, monkeypatch: pytest.MonkeyPatch, name: str, *lines: str) -> None:
    """Build an image with these Dockerfile lines under the tag that `build` looks for."""
    good = json.loads(mlinfer("build", "--json").out)["tag"]
    text = "\n".join([f"FROM {good}", *lines]).encode()
    local.engine.images.build(fileobj=io.BytesIO(text), tag=BuildSpec(local.project, name, "x86_64").tag(), rm=True)
    monkeypatch.setenv("MLINFER_BASE_IMAGE", name)


def test_a_crash(mlinfer: MlInfer, local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that exits is reported with its exit code and its last lines."""
    entrypoint = 'ENTRYPOINT ["/bin/sh", "-c", "echo the disk is on fire; exit 3"]'
    broken_image(mlinfer, local, monkeypatch, "crash", entrypoint)
    error = failed(mlinfer("run-local", "--detach", "--json"), local)
    assert error["code"] == "container_crashed"
    assert "exit code 3" in error["message"]
    assert "the disk is on fire" in error["message"]


def test_a_missing_entrypoint(mlinfer: MlInfer, local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that is not made for Lambda cannot start; the Engine's reason is shown with a hint."""
    broken_image(mlinfer, local, monkeypatch, "none", 'ENTRYPOINT ["/nowhere.sh"]')
    error = failed(mlinfer("run-local", "--detach", "--json"), local)
    assert error["code"] == "docker_refused"
    assert "/nowhere.sh" in error["message"]
    assert "base_image" in error["hint"]


@pytest.mark.parametrize(
    ("end", "code", "told"),
    [
        ("exit 7", "function_crashed", "exit status 7"),
        ("kill -9 $$", "out_of_memory", "out of memory"),
        ("kill -11 $$", "function_crashed", "segmentation fault"),
    ],
)
def test_a_function_that_ends_while_it_is_loaded(
    mlinfer: MlInfer, local: Local, monkeypatch: pytest.MonkeyPatch, end: str, code: str, told: str
) -> None:
    """A process that exits before its first answer is reported with its status and last lines."""
    script = f"#!/bin/sh\\necho no such library\\n{end}\\n"
    broken_image(mlinfer, local, monkeypatch, code, f"RUN printf '{script}' > /var/runtime/bootstrap")
    error = failed(mlinfer("run-local", "--detach", "--json"), local)
    assert error["code"] == code
    assert told in error["message"]
    assert "no such library" in error["message"]


def test_too_little_memory(mlinfer: MlInfer, local: Local, tmp_path: Path) -> None:
    """A start killed for memory is reported as that, with the option to raise it."""
    model = models.heavy(tmp_path / "heavy.onnx", 100, np.float16)
    error = failed(mlinfer("run-local", "--detach", "--memory", "256", "--model", model, "--json"), local)
    assert error["code"] == "out_of_memory"
    assert "memory" in error["hint"]


def test_a_model_that_cannot_be_loaded(mlinfer: MlInfer, local: Local, tmp_path: Path) -> None:
    """An exception while the model loads is shown with its traceback."""
    metadata = Metadata("odd", models.LABELS, models.pre_processing(), "logits", {})
    nodes = [helper.make_node("NoSuchOperator", ["image"], ["logits"])]
    model = models.write(tmp_path / "odd.onnx", nodes, [], ["N", 3, 8, 8], metadata)
    error = failed(mlinfer("run-local", "--detach", "--model", model, "--json"), local)
    assert error["code"] == "function_failed"
    assert "ModelError: onnxruntime" in error["message"]
    assert "NoSuchOperator" in error["message"]


def test_a_model_without_metadata(mlinfer: MlInfer, local: Local, tmp_path: Path) -> None:
    """A model without metadata is refused before anything starts."""
    nodes = [helper.make_node("Flatten", ["image"], ["logits"])]
    model = models.write(tmp_path / "plain.onnx", nodes, [], ["N", 3, 8, 8], None)
    for source in ("s3", "image"):
        run = mlinfer("run-local", "--detach", "--model", model, "--model-source", source, "--json")
        assert (run.code, json.loads(run.out)["error"]["code"]) == (2, "no_metadata")
    assert local.containers == []


def test_a_slow_start(mlinfer: MlInfer, local: Local) -> None:
    """A start that exceeds the timeout is reported with the timeout and the option to change."""
    run = mlinfer("run-local", "--detach", "--memory", "128", "--timeout", "1", "--json")
    error = failed(run, local)
    assert error["code"] == "slow_start"
    assert "its timeout of 1 s" in error["message"]
    assert "timeout or memory" in error["hint"]


@pytest.mark.parametrize(
    ("words", "code"), [(["--model", "none.onnx"], "model_not_found"), (["--from-s3"], "several_missing")]
)
def test_missing_settings_are_reported_before_a_build(
    mlinfer: MlInfer, local: Local, words: list[str], code: str
) -> None:
    """A missing model, bucket or credentials are reported before the build."""
    run = mlinfer("run-local", "--detach", "--json", *words)
    assert json.loads(run.out)["error"]["code"] == code
    assert local.project not in run.err


def test_a_model_that_others_may_not_read(mlinfer: MlInfer, local: Local, tiny_model: Path, tmp_path: Path) -> None:
    """A model that only its owner can read is refused: the function runs as Lambda's user."""
    model = tmp_path / "private.onnx"
    model.write_bytes(tiny_model.read_bytes())
    model.chmod(0o600)
    run = mlinfer("run-local", "--detach", "--model", model, "--json")
    assert (run.code, json.loads(run.out)["error"]["code"]) == (2, "model_unreadable")
    assert local.containers == []
