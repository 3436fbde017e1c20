"""Lambda's entry point in its own process, configured by the environment only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lambda_src.errors import SettingsError
from lambda_src.inference.download import sha256_of
from lambda_src.inference.session import open_session
from lambda_src.settings import Settings, default_threads

from ..conftest import Bucket
from .test_service import IMAGE

INVOKE = """
import json, sys
from lambda_src.handler import lambda_handler
class Context:
    aws_request_id = "request-1"
for event in json.load(sys.stdin):
    try:
        print("ANSWER", json.dumps(lambda_handler(event, Context())), flush=True)
    except Exception as error:
        print("RAISED", type(error).__name__, error, flush=True)
"""


def invoke(*events: object, **environment: str) -> tuple[list[str], list[dict[str, object]], str]:
    """Invoke a new handler with each event; return its answers, log lines and stderr."""
    result = subprocess.run(
        [sys.executable, "-c", INVOKE],
        input=json.dumps(events),
        env={k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = result.stdout.splitlines()
    answers = [line for line in lines if line.startswith(("ANSWER", "RAISED"))]
    return answers, [json.loads(line) for line in lines if line not in answers], result.stderr


@pytest.mark.slow
def test_invocations(tiny_model: Path) -> None:
    """Two invocations give two answers and one log line each; only the first is cold, and stderr is empty."""
    answers, lines, errors = invoke({"image": IMAGE}, {"image": IMAGE}, MLINFER_MODEL_URI=str(tiny_model))
    bodies = [json.loads(answer.removeprefix("ANSWER "))["body"] for answer in answers]
    assert [body["label"] for body in bodies] == ["red", "red"]
    assert [body["cold_start"] for body in bodies] == [True, False]
    assert [body["timings"]["model_load_s"] > 0 for body in bodies] == [True, False]
    assert [(line["outcome"], line["request_id"]) for line in lines] == [("ok", "request-1")] * 2
    assert errors == ""


@pytest.mark.slow
def test_model_from_s3_with_lambdas_environment(bucket: Bucket, tiny_model: Path) -> None:
    """The handler downloads its model with the credentials, Region and endpoint of its environment."""
    sha256 = sha256_of(tiny_model)
    uri = bucket.put(f"models/tiny/{sha256}.onnx", tiny_model.read_bytes())
    answers, _, _ = invoke({"image": IMAGE}, MLINFER_MODEL_URI=uri, MLINFER_MODEL_SHA256=sha256)
    assert json.loads(answers[0].removeprefix("ANSWER "))["body"]["model"]["sha256"] == sha256


@pytest.mark.slow
def test_fault_at_start_is_raised_by_each_invocation(tmp_path: Path) -> None:
    """If the model is unavailable, the start succeeds, and each invocation raises and logs the error."""
    answers, lines, _ = invoke({"image": IMAGE}, {"image": IMAGE}, MLINFER_MODEL_URI=str(tmp_path / "none.onnx"))
    assert [answer.split()[:2] for answer in answers] == [["RAISED", "ModelError"]] * 2
    assert [line["outcome"] for line in lines] == ["init_failed", "fault", "fault"]


@pytest.mark.slow
def test_queued_event_is_raised(tiny_model: Path) -> None:
    """A message from SQS raises an exception, which keeps it in the queue; the next request is answered."""
    queued = json.loads((Path(__file__).parents[1] / "data" / "events" / "queued" / "sqs_with_s3.json").read_text())
    answers, lines, _ = invoke(queued, {"image": IMAGE}, MLINFER_MODEL_URI=str(tiny_model))
    assert answers[0].startswith("RAISED QueuedEventError")
    assert answers[1].startswith("ANSWER")
    assert [line["outcome"] for line in lines] == ["fault", "ok"]


def test_missing_configuration_is_raised_and_logged() -> None:
    """Without MLINFER_MODEL_URI, each invocation raises an error that says so, and logs one line."""
    answers, lines, _ = invoke({"image": IMAGE})
    assert answers[0].startswith("RAISED SettingsError MLINFER_MODEL_URI is not set")
    assert [line["outcome"] for line in lines] == ["init_failed", "fault"]
    assert lines[1]["request_id"] == "request-1"


@pytest.mark.slow
def test_telemetry_is_off(tiny_model: Path) -> None:
    """onnxruntime's telemetry is off before its import, whatever the environment says."""
    code = "import os, lambda_src.handler; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = os.environ | {"ORT_DISABLE_TELEMETRY": "", "MLINFER_MODEL_URI": str(tiny_model)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout == "1\n"


# Settings


def test_settings() -> None:
    """The function is configured by MLINFER_* variables only."""
    settings = Settings.from_environment(
        {
            "MLINFER_MODEL_URI": "s3://b/k.onnx",
            "MLINFER_MODEL_SHA256": "AB" * 32,
            "MLINFER_INPUT_PREFIXES": "s3://b/in/, s3://c",
            "MLINFER_MAX_PIXELS": "1000",
            "MLINFER_THREADS": "3",
        }
    )
    assert settings == Settings("s3://b/k.onnx", "ab" * 32, ("s3://b/in/", "s3://c"), 1000, 3)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MLINFER_MODEL_URI", ""),
        ("MLINFER_MODEL_SHA256", ""),
        ("MLINFER_MODEL_SHA256", "abc"),
        ("MLINFER_INPUT_PREFIXES", "bucket/prefix"),
        ("MLINFER_MAX_PIXELS", "many"),
        ("MLINFER_MAX_PIXELS", "-1"),
        ("MLINFER_THREADS", "0"),
        ("MLINFER_THREADS", "100000"),
    ],
)
def test_wrong_settings(variable: str, value: str) -> None:
    """A wrong variable is an error that names it."""
    good = {"MLINFER_MODEL_URI": "s3://b/k.onnx", "MLINFER_MODEL_SHA256": "0" * 64}
    with pytest.raises(SettingsError, match=variable):
        Settings.from_environment(good | {variable: value})


@pytest.mark.parametrize(("memory_mb", "threads"), [(128, 1), (1769, 1), (2654, 2), (3538, 2), (10240, 6)])
def test_threads_follow_the_memory(memory_mb: int, threads: int) -> None:
    """onnxruntime gets one thread per vCPU of the memory size: 1,769 MB each."""
    assert default_threads({"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory_mb)}) == threads


@pytest.mark.parametrize("threads", [1, 3])
def test_onnxruntime_is_told_its_threads(tiny_model: Path, threads: int) -> None:
    """The number of threads is always set: onnxruntime's default would pin threads to cores that Lambda does not give."""
    options = open_session(tiny_model, threads).get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (threads, 1)
