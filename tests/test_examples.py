"""The workflow for GitHub Actions asks for what there is, and fails where a command of it fails."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable

from .conftest import ROOT, Run

WORKFLOW = (ROOT / "examples" / "github-actions.yml").read_text()


def test_the_workflows_commands_are_there(mlinfer: Callable[..., Run]) -> None:
    """Each command of it is one of ours, with options that it has."""
    commands = [
        shlex.split(line) for line in re.findall(r"^(?: {10}|      - run: | {8}run: )mlinfer ([^|\n]+)", WORKFLOW, re.M)
    ]
    assert {"build", "run-local", "predict", "doctor", "deploy", "status"} <= {command[0] for command in commands}
    for command in commands:
        assert mlinfer(*command, "--help").code == 0, command


def test_the_workflow_fails_where_a_command_fails() -> None:
    """A pipe does not hide a failed deployment: the default shell would, the named one has pipefail; nothing needs a terminal."""
    assert "| tee" in WORKFLOW
    assert re.search(r"^defaults:\n  run:\n    shell: bash\b", WORKFLOW, re.MULTILINE)
    assert "continue-on-error" not in WORKFLOW
    assert "cache: pip" not in WORKFLOW  # which fails where the repository has no requirements.txt or pyproject.toml
