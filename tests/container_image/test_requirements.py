"""The image's dependencies are locked with hashes, in wheels that Lambda can load, for both architectures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import ROOT

NEWEST_GLIBC = 34  # Amazon Linux 2023, of Lambda's images for Python 3.12 and newer, has glibc 2.34
LOCKED = re.sub(r"^ *#.*\n", "", (ROOT / "docker" / "requirements.txt").read_text(), flags=re.MULTILINE)
REQUIREMENTS = {
    name: (version, set(re.findall(r"--hash=sha256:([0-9a-f]{64})", hashes)))
    for name, version, hashes in re.findall(r"^(\S+)==(\S+) ((?:\\\s*--hash=\S+\s*)+)", LOCKED, re.MULTILINE)
}


def test_every_requirement_has_its_hashes() -> None:
    """The lock has each requirement once, with exact version and hashes, and nothing else."""
    wanted = [line for line in (ROOT / "docker" / "requirements.in").read_text().splitlines() if line[:1] != "#"]
    assert sorted(REQUIREMENTS) == sorted(wanted)
    assert all(len(hashes) > 1 for _, hashes in REQUIREMENTS.values())
    rest = re.sub(r"^\S+==\S+ (\\\s*--hash=\S+\s*)+", "", LOCKED, flags=re.MULTILINE)
    assert rest.strip() == ""


@pytest.mark.parametrize(("machine", "oldest"), [("x86_64", 5), ("aarch64", 17)])
@pytest.mark.slow
def test_wheels_that_lambda_can_load(tmp_path: Path, machine: str, oldest: int) -> None:
    """pip finds a wheel of each requirement for Lambda's Python and glibc, and its hash is locked."""
    lines = [f"{name}=={version}" for name, (version, _) in REQUIREMENTS.items()]  # hashes would make pip load them all
    (tmp_path / "requirements.txt").write_text("\n".join(lines))
    tags = [f"manylinux_2_{glibc}_{machine}" for glibc in range(NEWEST_GLIBC, oldest - 1, -1)]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps"]
    command += ["--only-binary=:all:", "--implementation=cp", "--python-version=3.13", "--target", str(tmp_path / "t")]
    command += ["--ignore-requires-python"]  # which older versions of pip compare with their own Python
    command += [*(f"--platform={tag}" for tag in tags), "--report", str(tmp_path / "report.json")]
    subprocess.run([*command, "-r", str(tmp_path / "requirements.txt")], check=True)
    found = json.loads((tmp_path / "report.json").read_text())["install"]
    assert {item["metadata"]["name"] for item in found} == set(REQUIREMENTS)
    for item in found:
        assert item["download_info"]["url"].endswith(".whl")
        digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
        assert digest in REQUIREMENTS[item["metadata"]["name"]][1]
