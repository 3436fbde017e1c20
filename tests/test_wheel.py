"""The built wheel works in an empty environment."""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from pathlib import Path

from .conftest import CAT


def test_contents(wheel: Path) -> None:
    """The wheel has the tool, the handler package, the starter model and the image's files, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        starter = archive.getinfo("mlinfer/starter.onnx")
    assert {name.split("/")[0] for name in names} == {"mlinfer", "lambda_src"}
    assert {"mlinfer/cli/__init__.py", "lambda_src/handler.py", "mlinfer/_docker/requirements.txt"} <= set(names)
    assert starter.compress_size <= 3_000_000


def test_installed_in_an_empty_environment(installed: Path, tmp_path: Path) -> None:
    """Installed in an empty environment, `predict` classifies the cat."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
    (home / "cat.jpg").write_bytes(CAT.read_bytes())
    result = subprocess.run(
        [installed / "mlinfer", "predict", "cat.jpg", "--json"],
        cwd=home,
        env=environment,
        capture_output=True,
        check=True,
    )
    assert json.loads(result.stdout)["label"] == "cat"
    assert [p.name for p in home.iterdir()] == ["cat.jpg"]  # nothing is written, no telemetry either
