"""The GitHub Actions workflow is valid, and the starter can be trained again."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .conftest import ROOT, Run

WORKFLOW = (ROOT / "examples" / "github-actions.yml").read_text()


def test_the_workflows_commands_are_there(mlinfer: Callable[..., Run]) -> None:
    """Each command and option in the workflow exists."""
    commands = [
        shlex.split(line) for line in re.findall(r"^(?: {10}|      - run: | {8}run: )mlinfer ([^|\n]+)", WORKFLOW, re.M)
    ]
    assert {"build", "run-local", "predict", "doctor", "deploy", "status"} <= {command[0] for command in commands}
    for command in commands:
        assert mlinfer(*command, "--help").code == 0, command


def test_the_workflow_fails_where_a_command_fails() -> None:
    """The workflow's shell has pipefail, so that a pipe does not hide a failed deployment; nothing needs a terminal."""
    assert "| tee" in WORKFLOW
    assert re.search(r"^defaults:\n  run:\n    shell: bash\b", WORKFLOW, re.MULTILINE)
    assert "continue-on-error" not in WORKFLOW
    assert "cache: pip" not in WORKFLOW  # which fails where the repository has no requirements.txt or pyproject.toml


@pytest.mark.slow
@pytest.mark.usefixtures("torchvision")
def test_the_starter_can_be_trained_again(mlinfer: Callable[..., Run], tmp_path: Path) -> None:
    """Training and packaging on a small archive of plain images give a valid model file."""
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    noise = np.random.default_rng(0)
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for number, name in enumerate(classes):
            for index in range(12):
                pixels = noise.integers(0, 20, (32, 32, 3)) + np.array([number * 20, 200 - number * 20, 100])
                picture = io.BytesIO()
                Image.fromarray(pixels.astype(np.uint8)).save(picture, "JPEG")
                archive.writestr(f"{'test' if index < 2 else 'train'}/{name}/{index:04}.jpg", picture.getvalue())
    small = ["--epochs", "30", "--batch", "50", "--widths", "8", "8", "8", "8", "--report", "30"]
    starter = ROOT / "examples" / "starter"
    for program, *flags in (
        ["train.py", "--data", "data.zip", "--out", "starter.pt", *small],
        ["package.py", "--weights", "starter.pt", "--data", "data.zip", "--out", "starter.onnx"],
    ):
        command = [sys.executable, "-W", "ignore", str(starter / program), *flags]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
    facts = json.loads(mlinfer("inspect", tmp_path / "starter.onnx", "--json").out)
    assert facts["provenance"]["precision"] == "int8"
