"""`bench` and `tune` of the deployed function change $LATEST for each cold start and restore it."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from lambda_src.service import Service
from lambda_src.settings import Settings
from mlinfer.model.path import STARTER

from ..conftest import CAT, Bucket, Run
from ..servers.functions import LoopbackLambda, answered, error, serving
from ..servers.http import Answer, Request

MlInfer = Callable[..., Run]
KEPT = {"MLINFER_MODEL_URI": "s3://models/starter.onnx"}


class ConfigurableLambda(LoopbackLambda):
    """A function whose $LATEST starts cold after each change, which takes a moment, as in Lambda."""

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self.log: list[str] = []
        self.live = {"MemorySize": 1769, "Environment": {"Variables": KEPT}}
        self.configuration: dict[str, Any] = dict(self.live)
        self.changes: list[dict[str, Any]] = []
        self.updating = False
        self.latest = Service(Settings(str(STARTER)), self.log.append)
        self.largest = 10240

    def answer(self, request: Request) -> Answer | None:
        """Answer GetFunction, UpdateFunctionConfiguration and Invoke; the rest as a simpler API does."""
        path, qualifier = urlsplit(request.target).path, request.query.get("Qualifier", "$LATEST")
        if request.method == "PUT" and path.endswith("/configuration"):
            return self._update(json.loads(request.body))
        if request.method == "GET" and path.endswith("/functions/mlinfer-work"):
            return self._function(qualifier)
        if path.endswith("/invocations") and qualifier == "$LATEST":
            return self._run(request.body)
        return super().answer(request)

    def _update(self, wanted: dict[str, Any]) -> Answer:
        if wanted["MemorySize"] > self.largest:
            return error(400, "InvalidParameterValueException", f"at most {self.largest} MB")
        self.configuration = wanted
        self.changes.append(wanted)
        self.updating = True
        self.latest = Service(Settings(str(STARTER)), self.log.append)
        return answered({})

    def _function(self, qualifier: str) -> Answer:
        status = "InProgress" if self.updating else "Successful"
        self.updating = False
        configuration = {"Version": qualifier, "Role": "r", "Timeout": 30, "PackageType": "Image", "State": "Active"}
        configuration |= {"Architectures": ["arm64"], "LastUpdateStatus": status}
        configuration |= self.configuration if qualifier == "$LATEST" else self.live
        document = {"Configuration": configuration, "Tags": {"mlinfer:project": "work"}}
        return answered(document)

    def _run(self, body: bytes) -> Answer:
        answer = self.latest.answer(json.loads(body))
        init = "Init Duration: 2500.00 ms\t" if answer["body"]["cold_start"] else ""
        billed = 2600 if init else 100
        report = (
            f"REPORT RequestId: 1b\tDuration: 99.50 ms\tBilled Duration: {billed} ms\tMax Memory Used: 90 MB\t{init}"
        )
        tail = base64.b64encode(f"START RequestId: 1b\n{self.log[-1]}\n{report}\n".encode()).decode()
        return answered(answer, headers={"X-Amz-Log-Result": tail})


@pytest.fixture
def api(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[ConfigurableLambda]:
    """Return a deployed function that the environment points to."""
    assert bucket
    with serving(Service(Settings(str(STARTER)), log=lambda _: None), ConfigurableLambda) as (api, address):
        assert isinstance(api, ConfigurableLambda)
        monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", address)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield api


@pytest.mark.parametrize("command", ["bench", "tune"])
def test_another_model_is_not_measured(
    mlinfer: MlInfer, api: ConfigurableLambda, tiny_model: Path, command: str
) -> None:
    """A function with another model than the named one is not measured and not changed."""
    words = ["--memory", "512"] if command == "tune" else []
    run = mlinfer(command, CAT, "--target", "aws", "--model", tiny_model, "--json", *words)
    assert (run.code, json.loads(run.out)["error"]["code"]) == (5, "another_model")
    assert api.configuration["Environment"] == {"Variables": KEPT}
    assert api.configuration["MemorySize"] == 1769


@pytest.mark.slow
def test_golden_text(
    mlinfer: MlInfer, api: ConfigurableLambda, golden_text: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """tune shows what each size took and costs, and which it recommends."""
    assert api
    monkeypatch.setenv("COLUMNS", "200")
    # One size, so that the recommendation is the same on any machine.
    run = mlinfer("tune", CAT, "--target", "aws", "--memory", "512", "--cold", "1", "--warm", "3")
    golden_text("tune", run, figures=True)


def test_cold_starts_of_the_function(mlinfer: MlInfer, api: ConfigurableLambda) -> None:
    """Each cold start changes $LATEST, which is restored; the cost uses Lambda's billed time."""
    run = mlinfer("bench", CAT, "--target", "aws", "--cold", "2", "--warm", "4", "--cold-share", "0.5", "--json")
    assert run.code == 0
    report = json.loads(run.out)
    found = report["figures"]
    assert (report["memory"], report["arch"]) == (1769, "arm64")
    assert (found["cold"]["count"], found["warm"]["count"]) == (2, 4)
    assert found["cold_parts"]["start_s"] + found["cold_parts"]["imports_s"] > 2
    seconds = (2.6 + 0.1) / 2
    assert found["per_million"] == pytest.approx(0.20 + 1e6 * seconds * 1769 / 1024 * 0.0000133334)
    assert found["peak_bytes"] == 90 * 2**20
    assert len({change["Environment"]["Variables"].get("MLINFER_BENCH") for change in api.changes}) == 3
    assert all(KEPT.items() <= change["Environment"]["Variables"].items() for change in api.changes)
    assert api.configuration == api.live
    assert api.invocations() == []  # what is live was not asked


def test_warm_requests_change_nothing(mlinfer: MlInfer, api: ConfigurableLambda) -> None:
    """With --cold 0, the alias is called in parallel, and no configuration changes."""
    command = ("bench", CAT, "--target", "aws", "--cold", "0", "--warm", "12", "--concurrency", "3", "--json")
    run = mlinfer(*command)
    assert run.code == 0
    assert json.loads(run.out)["figures"]["warm"]["count"] >= 11
    assert {request.query["Qualifier"] for request in api.invocations()} == {"live"}
    assert 1 <= api.most_at_once <= 3
    assert api.changes == []


@pytest.mark.slow
def test_tune_restores_the_memory_size(mlinfer: MlInfer, api: ConfigurableLambda) -> None:
    """tune measures each size on $LATEST in two rounds and restores it; --apply changes mlinfer.toml, not the function."""
    Path("mlinfer.toml").write_text('# ours\ntarget = "aws"  # always\nmemory = 1769  # as ever\n')
    command = (
        "tune",
        CAT,
        "--memory",
        "512,1024",
        "--cold",
        "1",
        "--warm",
        "2",
        "--max-latency-ms",
        "60000",
        "--apply",
        "--plot",
        "a.svg",
        "--json",
    )
    run = mlinfer(*command)
    assert run.code == 0
    tuning = json.loads(run.out)
    assert [point["memory"] for point in tuning["points"]] == [512, 1024]
    assert (tuning["rounds"], tuning["decided"], tuning["recommended"]["memory"]) == (2, True, 512)
    assert [change["MemorySize"] for change in api.changes] == [512, 1024, 512, 1024, 1769]
    assert api.configuration == api.live
    assert Path("a.svg").is_file()
    memory = tuning["recommended"]["memory"]
    assert Path("mlinfer.toml").read_text() == f'# ours\ntarget = "aws"  # always\nmemory = {memory}  # as ever\n'


@pytest.mark.slow
def test_an_interrupted_tune_shows_its_results_so_far(api: ConfigurableLambda) -> None:
    """Ctrl-C exits with 130, shows the sizes so far, marked incomplete, and restores the function."""
    flags = ["--target", "aws", "--memory", "512,1024,1769", "--cold", "1", "--warm", "20", "--json", "--verbose"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlinfer", "tune", str(CAT), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
        env=os.environ,
    )
    assert process.stderr
    cold_starts = 0
    while cold_starts < 2:
        cold_starts += b'"cold_start": true' in process.stderr.readline()
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate()
    assert process.returncode == 130, errors.decode()
    tuning = json.loads(output)
    assert (tuning["complete"], tuning["decided"], tuning["recommended"]) == (False, False, None)
    assert tuning["sentence"].startswith("Incomplete")
    assert (tuning["points"][0]["memory"], tuning["points"][0]["requests"]) == (512, 21)
    assert api.configuration == api.live


def test_a_size_over_the_limit_of_the_account(mlinfer: MlInfer, api: ConfigurableLambda) -> None:
    """A size that Lambda refuses exits with 4 and the results so far, and restores the function."""
    api.largest = 3008
    run = mlinfer("tune", CAT, "--target", "aws", "--memory", "512,4000", "--cold", "1", "--warm", "1")
    assert run.code == 4
    assert "at most 3008 MB" in run.err
    assert any(line.split()[0] == "512" for line in run.out.splitlines() if " ms " in line)
    assert api.configuration == api.live


@pytest.mark.slow
def test_ctrl_c_restores_the_function(api: ConfigurableLambda) -> None:
    """After Ctrl-C, the function is restored, and the results so far are shown."""
    flags = ["--target", "aws", "--cold", "1", "--warm", "100000", "--json", "--verbose"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlinfer", "bench", str(CAT), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
        env=os.environ,
    )
    assert process.stderr
    while b'"cold_start": false' not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate()
    assert process.returncode == 130, errors.decode()
    assert json.loads(output)["complete"] is False
    assert "MLINFER_BENCH" in api.changes[0]["Environment"]["Variables"]
    assert api.configuration == api.live


@pytest.mark.slow
def test_without_a_function(mlinfer: MlInfer, bucket: Bucket) -> None:
    """If nothing is deployed, the hint names the command."""
    assert bucket
    run = mlinfer("bench", "--target", "aws", "--region", "us-east-1")
    assert (run.code, run.out) == (4, "")
    assert "mlinfer deploy" in run.err
