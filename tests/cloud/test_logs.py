"""`mlinfer logs` reads the function's log from CloudWatch, here moto's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import boto3
import pytest

from ..conftest import Run

MlInfer = Callable[..., Run]
GROUP = "/aws/lambda/mlinfer-work"


def write(*messages: str, ago_s: int = 0, stream: str = "instance") -> None:
    """Write lines to the function's log, and create the log if necessary."""
    client = boto3.client("logs", region_name="us-east-1")
    with suppress(client.exceptions.ResourceAlreadyExistsException):
        client.create_log_group(logGroupName=GROUP)
    with suppress(client.exceptions.ResourceAlreadyExistsException):
        client.create_log_stream(logGroupName=GROUP, logStreamName=stream)
    now = int(time.time() * 1000) - ago_s * 1000
    events = [{"timestamp": now + i, "message": message} for i, message in enumerate(messages)]
    client.put_log_events(logGroupName=GROUP, logStreamName=stream, logEvents=events)
    client.close()


@pytest.fixture(autouse=True)
def region(bucket: object, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001 - it sets the environment
    """Set the Region, and delete the log of an earlier test."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("logs", region_name="us-east-1")
    for group in client.describe_log_groups(logGroupNamePrefix=GROUP)["logGroups"]:
        client.delete_log_group(logGroupName=group["logGroupName"])
    client.close()


def test_lines_since(mlinfer: MlInfer) -> None:
    """Lines of all instances since that time are shown with their time, oldest first."""
    write("long ago", ago_s=7200)
    write("first", ago_s=60)
    write("second", stream="another")
    run = mlinfer("logs", "--since", "10m")
    assert [line.split()[-1] for line in run.out.splitlines()] == ["first", "second"]
    assert "ago" in mlinfer("logs", "--since", "3h").out


def test_a_log_does_not_steer_the_terminal(mlinfer: MlInfer) -> None:
    """Control characters in a log are escaped; tabs, as in Lambda's REPORT line, stay."""
    write("REPORT\tDuration: 4 ms \x1b]0;owned\x07")
    (line,) = mlinfer("logs").out.splitlines()
    assert line.endswith("REPORT\tDuration: 4 ms \\x1b]0;owned\\x07")


def test_json_lines(mlinfer: MlInfer) -> None:
    """With --json each line is a document."""
    write('{"outcome": "ok"}')
    (line,) = mlinfer("logs", "--json").out.splitlines()
    document = json.loads(line)
    assert (document["message"], document["stream"]) == ('{"outcome": "ok"}', "instance")


def test_nothing_and_no_log(mlinfer: MlInfer) -> None:
    """An empty log is not an error; a missing one is, with the command that creates it."""
    missing = mlinfer("logs", "--json")
    assert (missing.code, json.loads(missing.out)["error"]["code"]) == (4, "not_deployed")
    write("old", ago_s=7200)
    run = mlinfer("logs")
    assert (run.code, run.out) == (0, "")
    assert "has no lines" in run.err


def test_an_invalid_duration(mlinfer: MlInfer) -> None:
    """An invalid time is refused with examples."""
    run = mlinfer("logs", "--since", "yesterday")
    assert run.code == 2
    assert "10m" in run.err


def test_a_time_before_1970(mlinfer: MlInfer) -> None:
    """A time before 1970, which CloudWatch does not accept, is wrong usage."""
    run = mlinfer("logs", "--since", "999999d", "--json")
    assert (run.code, json.loads(run.out)["error"]["code"]) == (2, "invalid_value")


def test_follow_until_interrupted() -> None:
    """--follow shows each new line once, until Ctrl-C."""
    write("before")
    command = [sys.executable, "-m", "mlinfer", "logs", "--follow", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    assert process.stdout
    assert json.loads(process.stdout.readline())["message"] == "before"
    write("after")
    assert json.loads(process.stdout.readline())["message"] == "after"
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=30)
    assert (process.returncode, rest) == (130, "")
