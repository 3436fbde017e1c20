"""The benchmarks run with their smallest settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import CAT, PHOTOS, ROOT

pytestmark = pytest.mark.slow


def run(module: str, *argv: str | Path) -> str:
    """Run a benchmark, and return its output."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, argv)]
    found = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize("module", ["container", "compare", "upload", "models"])
def test_what_it_takes(module: str) -> None:
    """Benchmarks that need an Engine, weights or the AWS CLI can be imported and show their options."""
    assert "--help" in run(module, "--help")


def test_first_answer() -> None:
    """One turn of first_answer, as JSON."""
    assert json.loads(run("first_answer", "--runs", "1", "--json"))


def test_start() -> None:
    """One turn of start: `mlinfer --help` and the empty program that it is compared with."""
    first, *others = json.loads(run("start", "--runs", "1", "--json"))["programs"]
    assert first["cpu_ratio"] == 1
    assert {"mlinfer --help", "mlinfer --version"} <= {row["program"] for row in others}


def test_many_images(tmp_path: Path) -> None:
    """Twenty images in one turn of many_images."""
    (tmp_path / "cat.jpeg").write_bytes(CAT.read_bytes())
    assert "20" in run("many_images", tmp_path, "--count", "20", "--turns", "1")


@pytest.mark.usefixtures("photos")
def test_fast_decode() -> None:
    """fast_decode with two photographs."""
    assert run("fast_decode", *sorted(PHOTOS.glob("*.JPEG"))[:2])


@pytest.mark.usefixtures("torchvision")
def test_compare(photos: list[Path], tmp_path: Path) -> None:
    """The parts of compare that need no Engine, with two photographs and one turn."""
    for photo in photos[:2]:
        (tmp_path / photo.name).symlink_to(photo)
    run("compare", "--photos", tmp_path, "--turns", "1", "--only", "program", "--json", tmp_path / "figures.json")
    assert json.loads((tmp_path / "figures.json").read_text())["lines"]
