"""`bench` and `tune` with the real image: each cold start is a new container, and none is left."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import boto3
import pytest

from ..conftest import CAT, Run
from .local import Local

MlInfer = Callable[..., Run]


def test_cold_starts_are_of_fresh_containers(mlinfer: MlInfer, local: Local) -> None:
    """Each cold start is the first request of a new container; a running container stays."""
    assert mlinfer("run-local", "--detach").code == 0
    before = [container.id for container in local.containers]
    run = mlinfer("bench", CAT, "--target", "local", "--cold", "2", "--warm", "3", "--csv", "a.csv", "--json")
    assert run.code == 0, run.err
    report = json.loads(run.out)
    found = report["figures"]
    assert (found["cold"]["count"], found["warm"]["count"]) == (2, 3)
    assert min(found["cold_parts"][part] for part in ("start_s", "imports_s", "session_s", "rest_s")) > 0
    assert sum(found["cold_parts"].values()) > 0.9 * found["cold"]["p50_s"]
    assert found["boot_s"] > 0
    assert 2**24 < found["peak_bytes"] <= 1769 * 2**20
    assert report["image_bytes"] > report["layer_bytes"] > 2**20
    assert found["model"]["name"] == "starter"
    assert [line.split(",")[0] for line in Path("a.csv").read_text().splitlines()[1:]] == ["cold"] * 2 + ["warm"] * 3
    assert [container.id for container in local.containers] == before


def test_tune_measures_each_size(mlinfer: MlInfer, local: Local) -> None:
    """Each size has a row; --apply writes the recommendation to mlinfer.toml and keeps its comments."""
    Path("mlinfer.toml").write_text("# The project.\n\n# memory = 1769\ntop_k = 3  # enough\n")
    flags = ("--cold", "1", "--warm", "3", "--apply")
    run = mlinfer("tune", CAT, "--memory", "512,1769", *flags, "--max-latency-ms", "0.001", "--plot", "a.svg")
    assert run.code == 5, (
        run.err
    )  # rounds agree that no size is quick enough; which is cheaper can change with the load
    rows = [line.split()[0] for line in run.out.splitlines() if " ms " in line]
    assert rows[:2] == ["512", "1,769"]
    run = mlinfer("tune", CAT, "--memory", "1769", *flags)
    assert run.code == 0, run.err
    assert "Recommended: " in run.out
    lines = Path("mlinfer.toml").read_text().splitlines()
    assert lines[:3] == ["# The project.", "", "# memory = 1769"]
    assert lines[3] == "memory = 1769"
    assert lines[4:] == ["top_k = 3  # enough"]
    assert "<svg" in Path("a.svg").read_text()
    assert local.containers == []


def test_a_size_that_is_too_small(mlinfer: MlInfer, local: Local) -> None:
    """A size at which the function times out has a row that says so, and the exit code is 5."""
    Path("mlinfer.toml").write_text("timeout = 1\n")
    run = mlinfer("tune", CAT, "--memory", "128", "--cold", "1", "--warm", "1", "--json")
    assert run.code == 5
    tuning = json.loads(run.out)
    assert tuning["recommended"] is None
    assert "timed out" in tuning["points"][0]["failure"]
    assert local.containers == []


def test_a_limit_that_no_size_meets(mlinfer: MlInfer, local: Local) -> None:
    """If no size is fast enough, the fastest is named, nothing is written, and the exit code is 5."""
    command = ("tune", CAT, "--memory", "1769", "--cold", "1", "--warm", "1", "--max-latency-ms", "0.001", "--apply")
    run = mlinfer(*command)
    assert run.code == 5
    assert "No recommendation" in run.out
    assert not Path("mlinfer.toml").exists()
    assert local.containers == []


def test_ctrl_c_leaves_no_container(local: Local) -> None:
    """Ctrl-C shows the results so far and removes the measured container."""
    flags = ["--target", "local", "--cold", "1", "--warm", "100000", "--json", "--verbose"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlinfer", "bench", str(CAT), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
    )
    assert process.stderr
    while b'"cold_start": false' not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate()
    assert process.returncode == 130, errors.decode()
    report = json.loads(output)
    assert report["complete"] is False
    assert report["figures"]["cold"]["count"] == 1
    assert local.containers == []


@pytest.mark.usefixtures("ministack")
def test_the_deployed_function(mlinfer: MlInfer, local: Local) -> None:
    """A deployed function is measured cold and warm, tuned, and restored."""
    Path("mlinfer.toml").write_text('bucket = "measured"\nmemory = 1024\ntarget = "aws"\n')
    deployed = mlinfer("deploy", "--create-bucket")
    assert deployed.code == 0, deployed.err
    run = mlinfer("bench", CAT, "--cold", "2", "--warm", "3", "--json")
    assert run.code == 0, run.err
    report = json.loads(run.out)
    assert (report["memory"], report["figures"]["cold"]["count"], report["figures"]["warm"]["count"]) == (1024, 2, 3)
    flags = ("--cold", "1", "--warm", "2", "--max-latency-ms", "0.001", "--json")
    run = mlinfer("tune", CAT, "--memory", "512,1769", *flags)
    assert run.code == 5, run.err
    assert [point["memory"] for point in json.loads(run.out)["points"]] == [512, 1769]
    with closing(boto3.Session().client("lambda")) as functions:  # the default session keeps another test's keys
        latest = functions.get_function_configuration(FunctionName=f"mlinfer-{local.project}")
    assert latest["MemorySize"] == 1024
    assert "MLINFER_BENCH" not in latest["Environment"]["Variables"]
    again = json.loads(mlinfer("deploy", "--json").out)
    assert {step["outcome"] for step in again["steps"]} <= {"unchanged", "skipped"}
