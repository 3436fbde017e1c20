"""Credentials that need a person, a program or a login: each failure names the command to run."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ..conftest import ROOT, Run
from ..servers.aws import LoopbackAws
from ..servers.engine import LoopbackEngine
from ..servers.http import serve

MlInfer = Callable[..., Run]
SECRET = "wJalrXUtnFEMI-of-a-test"  # noqa: S105
CODE = "123456"
PROFILES = {
    "mfa": """
        [profile mfa]
        role_arn = arn:aws:iam::123456789012:role/deployer
        source_profile = person
        mfa_serial = arn:aws:iam::123456789012:mfa/person
        [profile person]
        aws_access_key_id = AKIATESTS
        aws_secret_access_key = testing
        """,
    "gone": "[profile gone]\ncredential_process = /nowhere/credentials --for me\n",
    "no-json": f"[profile no-json]\ncredential_process = echo {SECRET}\n",
    "fails": f"[profile fails]\ncredential_process = sh -c 'echo {SECRET} >&2; exit 1'\n",
    "login": "[profile login]\nlogin_session = arn:aws:iam::123456789012:user/person\n",
    "sso": """
        [profile sso]
        sso_session = us
        sso_account_id = 123456789012
        sso_role_name = dev
        [sso-session us]
        sso_region = us-east-1
        sso_start_url = http://127.0.0.1:1/start
        """,
}
NEEDS = {  # profile: exit code, error code, the command of the hint
    "mfa": (3, "mfa_needed", "aws configure export-credentials --profile mfa"),
    "gone": (3, "no_credentials", "aws configure get credential_process --profile gone"),
    "no-json": (3, "no_credentials", "aws configure get credential_process --profile no-json"),
    "fails": (3, "no_credentials", "aws configure get credential_process --profile fails"),
    "login": (3, "missing_library", 'pip install "botocore[crt]"'),
    "sso": (4, "expired_credentials", "aws sso login --profile sso"),
}
COMMANDS = {
    "predict": ["predict", "cat.jpg", "--target", "aws"],
    "upload": ["upload", "--bucket", "pictures"],
    "status": ["status"],
    "logs": ["logs"],
    "from S3": ["run-local", "--from-s3"],
    "deploy": ["deploy", "--image", f"123456789012.dkr.ecr.us-east-1.amazonaws.com/x@sha256:{'1' * 64}"],
}


@pytest.fixture
def profiles(cloud: LoopbackAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoopbackAws:
    """Write the profiles and return an AWS; the environment has no credentials."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MLINFER_BUCKET", "pictures")
    text = "\n".join(PROFILES.values())
    Path(os.environ["AWS_CONFIG_FILE"]).write_text("\n".join(line.strip() for line in text.splitlines()))
    return cloud


@pytest.mark.parametrize("name", PROFILES)
def test_each_profile_has_its_command(mlinfer: MlInfer, profiles: LoopbackAws, name: str) -> None:
    """A profile that gives no credentials is an error with the command to run, and shows no secret."""
    run = mlinfer("status", "--profile", name, "--json")
    exit_code, code, command = NEEDS[name]
    assert run.code == exit_code, run.err
    error = json.loads(run.out)["error"]
    assert error["code"] == code
    assert command in error["hint"]
    assert SECRET not in run.out + run.err
    assert "Traceback" not in run.err
    assert profiles.calls == []


def test_a_login_that_has_expired(mlinfer: MlInfer, profiles: LoopbackAws, tmp_path: Path) -> None:
    """An expired login is reported like a missing one."""
    cache = tmp_path / ".aws" / "sso" / "cache"
    cache.mkdir(parents=True)
    token = {"startUrl": "http://127.0.0.1:1/start", "region": "us-east-1", "accessToken": SECRET}
    name = hashlib.sha1(b"us", usedforsecurity=False).hexdigest()
    (cache / f"{name}.json").write_text(json.dumps(token | {"expiresAt": "2020-01-01T00:00:00Z"}))
    run = mlinfer("status", "--profile", "sso", "--json")
    assert (run.code, json.loads(run.out)["error"]["code"]) == NEEDS["sso"][:2]
    assert NEEDS["sso"][2] in run.err
    assert SECRET not in run.out + run.err
    assert profiles.calls == []


@pytest.mark.usefixtures("profiles")
def test_a_token_file_that_is_missing(mlinfer: MlInfer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A web identity whose token file is missing, as in CI, is an error that names the file."""
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/ci")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/nowhere/token")
    run = mlinfer("status", "--json")
    assert (run.code, json.loads(run.out)["error"]["code"]) == (3, "no_credentials")
    assert "/nowhere/token" in run.err
    assert "aws configure list" in run.err


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["mfa", "gone"])
@pytest.mark.usefixtures("profiles")
def test_every_command_says_it(mlinfer: MlInfer, name: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each AWS command reports it before it does anything; without a terminal, it asks for no code."""
    with serve(LoopbackEngine(push=lambda *_: []).answer) as port:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
        run = mlinfer(*COMMANDS[command], "--profile", name, "--json")
    assert (run.code, json.loads(run.out)["error"]["code"]) == NEEDS[name][:2]


@pytest.mark.usefixtures("profiles")
def test_doctor_reports_it_once(mlinfer: MlInfer) -> None:
    """doctor reports it once, and reports what depends on credentials as unknown."""
    run = mlinfer("doctor", "--profile", "mfa", "--json")
    findings = {finding["check"]: finding for finding in json.loads(run.out)["findings"]}
    assert "export-credentials" in findings["credentials"]["remedy"]
    assert run.out.count("MFA") == 1


@pytest.mark.parametrize("command", [["status"], ["doctor"]])
@pytest.mark.slow
def test_a_code_is_asked_for_once(profiles: LoopbackAws, command: list[str]) -> None:
    """In a terminal, the MFA code is asked for once per command, and stdout stays JSON."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "mlinfer", *command, "--profile", "mfa", "--json"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "DOCKER_HOST": "unix:///nowhere/docker.sock"},
        stdin=theirs,
        stderr=theirs,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    os.close(theirs)
    said = b""
    while b"mfa/person" not in said:
        said += os.read(ours, 4096)
    os.write(ours, f"{CODE}\n".encode())
    out, _ = process.communicate(timeout=60)
    rest = b""
    try:
        while piece := os.read(ours, 4096):
            rest += piece
    except OSError:  # the other end is closed
        os.close(ours)
    json.loads(out)
    assert b"MFA code" not in rest
    assert CODE.encode() not in rest
    assert profiles.calls.count("sts:AssumeRole") == 1
    assert len(profiles.calls) > 1
