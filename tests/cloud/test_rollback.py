"""status, and rollback to an earlier version."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lambda_src.inference.download import sha256_of
from lambda_src.service import Service
from lambda_src.settings import Settings

from .. import models
from ..conftest import IMAGE, OTHER_IMAGE, Run
from ..servers.aws import LoopbackAws, moto_function
from ..servers.http import Answer, Forward, Request

MlInfer = Callable[..., Run]
Past = Callable[[str], Any]
BUCKET = "cloud-models"


@pytest.fixture
def other_model(tmp_path: Path) -> Path:
    """Return a model that classifies differently: red as blue."""
    return models.mean_colour(tmp_path / "other.onnx", name="other", color="BGR")


@pytest.fixture
def once(mlinfer: MlInfer, cloud: LoopbackAws, past: Past, deploy_arguments: list[str]) -> LoopbackAws:
    """Return an AWS in which version 1 with the tiny model is deployed."""
    tags = [{"Key": "mlinfer:project", "Value": "cats"}]
    past("ecr").create_repository(repositoryName="mlinfer/cats", tags=tags)
    run = mlinfer("deploy", *deploy_arguments)
    assert run.code == 0, run.err
    cloud.calls.clear()
    return cloud


@pytest.fixture
def twice(mlinfer: MlInfer, once: LoopbackAws, deploy_arguments: list[str], other_model: Path) -> LoopbackAws:
    """Return an AWS in which version 2 with the other model is deployed after version 1 with the tiny one."""
    run = mlinfer("deploy", "--model", other_model, *deploy_arguments[2:])
    assert run.code == 0, run.err
    once.calls.clear()
    once.forget_downloads()
    return once


def live_version(past: Past) -> str:
    """Return the version that the alias points to."""
    return str(past("lambda").get_alias(FunctionName="mlinfer-cats", Name="live")["FunctionVersion"])


def error_of(run: Run) -> dict[str, str]:
    """Return the error from --json."""
    found: dict[str, str] = json.loads(run.out)["error"]
    return found


# Rollback


def test_the_version_before_goes_live(mlinfer: MlInfer, twice: LoopbackAws, past: Past, other_model: Path) -> None:
    """The earlier version is verified with its own model from S3; only the alias changes."""
    run = mlinfer("rollback", "--model", other_model)
    assert run.code == 0, run.err
    assert live_version(past) == "1"
    assert twice.changes == ["lambda:UpdateAlias"]
    assert twice.calls.count("lambda:Invoke") == 3
    assert live_version(past) == "1"


def test_another_architecture(mlinfer: MlInfer, once: LoopbackAws, past: Past, deploy_arguments: list[str]) -> None:
    """`deploy --arch arm64` sends the architecture with the image, `rollback` returns to x86_64; the alias moves last."""
    verified = 3 * ["lambda:Invoke"]
    run = mlinfer("deploy", *deploy_arguments[:-1], OTHER_IMAGE, "--arch", "arm64")
    assert run.code == 0, run.err
    changes = [request for request in once.requests if request.target.endswith("/code")]
    (sent,) = (request for request in changes if b"DryRun" not in request.body)
    body = json.loads(sent.body)
    assert (body["ImageUri"], body["Architectures"]) == (OTHER_IMAGE, ["arm64"])
    made = ["lambda:UpdateFunctionCode", "lambda:PublishVersion", *verified, "lambda:UpdateAlias"]
    assert [call for call in once.calls if call in made] == made
    assert architecture(past) == ["arm64"]

    once.reset_calls()
    assert mlinfer("rollback").code == 0
    assert [call for call in once.calls if call in made] == [*verified, "lambda:UpdateAlias"]
    assert architecture(past) == ["x86_64"]


def architecture(past: Past) -> list[str]:
    """Return the architecture of the version that the alias points to."""
    told = past("lambda").get_function(FunctionName="mlinfer-cats", Qualifier="live")["Configuration"]
    return list(told["Architectures"])


def test_the_configured_model_is_not_fetched(
    mlinfer: MlInfer, twice: LoopbackAws, past: Past, tiny_model: Path, other_model: Path
) -> None:
    """If the version's model is the configured one, it is not downloaded; rolling forward works too."""
    run = mlinfer("rollback", "1", "--model", tiny_model, "--json")
    assert run.code == 0, run.err
    document = json.loads(run.out)
    assert (document["version"], document["before"]) == ("1", "2")
    assert [step["name"] for step in document["steps"]] == ["role", "proof", "alias"]
    assert twice.calls.count("s3:GET") == 1
    assert mlinfer("rollback", "2", "--model", other_model).code == 0
    assert live_version(past) == "2"


def test_a_role_without_access_to_the_model(mlinfer: MlInfer, twice: LoopbackAws, past: Past, tiny_model: Path) -> None:
    """If the role can no longer read the older model, rollback restores that first."""
    iam, name = past("iam"), {"RoleName": "mlinfer-cats", "PolicyName": "mlinfer"}
    policy = iam.get_role_policy(**name)["PolicyDocument"]
    policy["Statement"][-1]["Resource"] = [arn for arn in policy["Statement"][-1]["Resource"] if "tiny" not in arn]
    iam.put_role_policy(**name, PolicyDocument=json.dumps(policy))
    assert mlinfer("rollback", "--model", tiny_model).code == 0
    assert twice.changes == ["iam:PutRolePolicy", "lambda:UpdateAlias"]
    assert f"{sha256_of(tiny_model)}.onnx" in json.dumps(iam.get_role_policy(**name)["PolicyDocument"])


def test_an_older_version_that_fails_does_not_go_live(
    mlinfer: MlInfer, twice: LoopbackAws, past: Past, tiny_model: Path
) -> None:
    """If the old model is missing in S3, the exit code is 5, and the deployed version stays."""
    key = f"models/tiny/{sha256_of(tiny_model)}.onnx"
    held = past("s3").list_object_versions(Bucket=BUCKET, Prefix=key)["Versions"]
    past("s3").delete_object(Bucket=BUCKET, Key=key, VersionId=held[0]["VersionId"])
    run = mlinfer("rollback", "--model", tiny_model, "--json")
    assert (run.code, error_of(run)["code"]) == (5, "not_proved")
    assert "does not exist" in error_of(run)["message"]
    run = mlinfer("rollback", "--json")  # with the starter configured, it is this program that misses the model
    assert (run.code, error_of(run)["code"]) == (5, "model_gone")
    assert live_version(past) == "2"
    assert twice.changes == []


def serves_schema_1(
    cloud: LoopbackAws, past: Past, tmp_path: Path, *, answers: Path
) -> Callable[[Request, Forward], Answer]:
    """Let version 1 serve a model file of schema 1 from S3, as an old image does; `answers` predicts in its place."""
    old = models.schema_1(tmp_path / "old.onnx")
    key = f"models/tiny/{sha256_of(old)}.onnx"
    past("s3").put_object(Bucket=BUCKET, Key=key, Body=old.read_bytes())
    environment = moto_function("mlinfer-cats", "1").environment_vars
    environment |= {"MLINFER_MODEL_URI": f"s3://{BUCKET}/{key}", "MLINFER_MODEL_SHA256": sha256_of(old)}
    service = Service(Settings(str(answers)), lambda _: None)

    def answer(request: Request, _: Forward) -> Answer:
        document = json.dumps(service.answer(json.loads(request.body)))
        body = document.replace(sha256_of(answers), sha256_of(old)).encode()
        return Answer(200, {"content-type": "application/json"}, body)

    cloud.calls.clear()
    return answer


def test_a_version_with_a_model_of_schema_1(
    mlinfer: MlInfer, twice: LoopbackAws, past: Past, tiny_model: Path, other_model: Path, tmp_path: Path
) -> None:
    """A version that serves a model file of schema 1 is verified against a copy in schema 2."""
    twice.fail("lambda:Invoke", serves_schema_1(twice, past, tmp_path, answers=tiny_model))
    run = mlinfer("rollback", "--model", other_model)
    assert run.code == 0, run.err
    assert live_version(past) == "1"
    assert twice.calls.count("lambda:Invoke") == 3


def test_a_version_with_a_model_of_schema_1_that_answers_otherwise(
    mlinfer: MlInfer, twice: LoopbackAws, past: Past, other_model: Path, tmp_path: Path
) -> None:
    """If its answers are not those of the copy, it does not go live."""
    twice.fail("lambda:Invoke", serves_schema_1(twice, past, tmp_path, answers=other_model))
    run = mlinfer("rollback", "--model", other_model, "--json")
    assert (run.code, error_of(run)["code"]) == (5, "not_proved")
    assert live_version(past) == "2"


@pytest.mark.slow
def test_a_model_that_is_only_in_the_container_image(
    mlinfer: MlInfer, cloud: LoopbackAws, past: Past, tiny_model: Path, other_model: Path
) -> None:
    """A model that is only in the image cannot be compared locally; the note says what was verified instead."""
    for model, image in ((tiny_model, IMAGE), (other_model, OTHER_IMAGE)):
        cloud.image_model = model
        run = mlinfer("deploy", "--model", model, "--image", image, "--model-source", "image")
        assert run.code == 0, run.err
    cloud.image_model = tiny_model
    run = mlinfer("rollback", "--model", other_model)
    assert run.code == 0, run.err
    assert "two calls" in run.err
    assert live_version(past) == "1"


@pytest.mark.slow
def test_a_model_in_the_image_that_is_another(
    mlinfer: MlInfer, cloud: LoopbackAws, past: Past, tiny_model: Path, other_model: Path
) -> None:
    """A version that answers with a model other than configured is not deployed."""
    for model, image in ((tiny_model, IMAGE), (other_model, OTHER_IMAGE)):
        cloud.image_model = model
        assert mlinfer("deploy", "--model", model, "--image", image, "--model-source", "image").code == 0

    def another(request: Request, forward: Forward) -> Answer:
        answer = forward(request)
        return replace(answer, body=answer.body.replace(sha256_of(tiny_model).encode(), b"0" * 64))

    cloud.image_model = tiny_model
    cloud.fail("lambda:Invoke", another)
    run = mlinfer("rollback", "--model", other_model, "--json")
    assert (run.code, error_of(run)["code"]) == (5, "not_proved")
    assert live_version(past) == "2"


def test_a_missing_version(mlinfer: MlInfer, once: LoopbackAws) -> None:
    """An unknown version is refused with the list of versions; so is going back from the first one."""
    for version in (["7"], ["$LATEST"], ["live"], ["-1"], []):
        run = mlinfer("rollback", "--json", "--", *version)
        assert (run.code, error_of(run)["code"]) == (2, "no_such_version")
        assert "Published versions: 1." in error_of(run)["hint"]
    assert once.changes == []


def test_the_live_version_is_already_live(mlinfer: MlInfer, once: LoopbackAws) -> None:
    """Rolling back to the deployed version changes nothing and succeeds."""
    run = mlinfer("rollback", "1")
    assert (run.code, "already" in run.err) == (0, True)
    assert once.changes == []


@pytest.mark.parametrize("command", ["rollback", "status"])
def test_nothing_is_deployed(mlinfer: MlInfer, cloud: LoopbackAws, command: str) -> None:
    """Without a function, status and rollback fail with a hint on how to start."""
    run = mlinfer(command, "--json")
    assert (run.code, error_of(run)["code"]) == (4, "not_deployed")
    assert "mlinfer deploy" in error_of(run)["hint"]
    assert cloud.changes == []


# Status


def test_the_live_version_is_shown(mlinfer: MlInfer, once: LoopbackAws, tiny_model: Path) -> None:
    """status shows version, image, model, configuration, URL and state, and changes nothing."""
    run = mlinfer("status", "--model", tiny_model, "--json")
    assert run.code == 0, run.err
    told = json.loads(run.out)
    assert (told["live"], told["newest"], told["state"], told["image"]) == ("1", "1", "ready", IMAGE)
    assert told["model_sha256"] == sha256_of(tiny_model)
    assert told["model"] == f"s3://{BUCKET}/models/tiny/{sha256_of(tiny_model)}.onnx"
    assert (told["memory"], told["timeout"], told["tmp"], told["concurrency"], told["url"]) == (
        1769,
        30,
        512,
        None,
        None,
    )
    assert (told["as_here"], told["difference"]) == (True, "")
    assert once.changes == []
    assert re.search(r"^up to date +yes$", mlinfer("status", "--model", tiny_model).out, re.MULTILINE)


@pytest.mark.usefixtures("once")
def test_a_local_difference_is_shown(mlinfer: MlInfer, other_model: Path) -> None:
    """A different local model, memory size or image is shown as a diff."""
    Path("mlinfer.toml").write_text("memory = 512\n")
    run = mlinfer("status", "--model", other_model, "--image", OTHER_IMAGE, "--json")
    told = json.loads(run.out)
    changed = [line[:1] for line in told["difference"].splitlines() if line[:2] in ("- ", "+ ")]
    assert told["as_here"] is False
    assert f'+    "MLINFER_MODEL_SHA256": "{sha256_of(other_model)}"' in told["difference"]
    assert '+  "memory": 512,' in told["difference"]
    assert f'+  "image": "{OTHER_IMAGE}"' in told["difference"]
    assert sorted(changed) == ["+"] * 4 + ["-"] * 4


def test_status_of_what_no_version_keeps(mlinfer: MlInfer, once: LoopbackAws, tiny_model: Path) -> None:
    """A different URL or concurrency is a difference too; an image that is not built locally is left out, with a note."""
    same = mlinfer("status", "--model", tiny_model)
    assert "not compared" in same.err
    Path("mlinfer.toml").write_text('concurrency = 3\nurl = "iam"\n')
    told = json.loads(mlinfer("status", "--model", tiny_model, "--image", IMAGE, "--json").out)
    assert (told["as_here"], told["image_compared"]) == (False, True)
    assert {'+  "concurrency": 3,', '+  "url": "iam"'} <= set(told["difference"].splitlines())
    assert once.changes == []


def test_status_without_the_model_file(mlinfer: MlInfer, once: LoopbackAws) -> None:
    """Without the local model file, the deployed state is still shown."""
    run = mlinfer("status", "--model", "nowhere.onnx")
    assert run.code == 0, run.err
    assert "Not compared" in run.err
    assert "(none)" in run.out
    assert once.changes == []


@pytest.mark.slow
def test_status_without_a_bucket(mlinfer: MlInfer, cloud: LoopbackAws, tiny_model: Path) -> None:
    """With the model in the image and no bucket configured, a bucket is reported missing instead of an invented address."""
    cloud.image_model = tiny_model
    arguments = ("--model", tiny_model)
    assert mlinfer("deploy", *arguments, "--image", IMAGE, "--model-source", "image").code == 0
    run = mlinfer("status", *arguments)
    assert run.code == 0, run.err
    assert "no S3 bucket" in run.err
    assert "s3:///" not in run.out + run.err
    run = mlinfer("status", *arguments, "--exit-code", "--json")
    assert (run.code, json.loads(run.out.splitlines()[-1])["error"]["code"]) == (2, "no_bucket")
    Path("mlinfer.toml").write_text("model_source = 'image'\n")
    assert not json.loads(mlinfer("status", *arguments, "--image", IMAGE, "--json").out)["difference"]


def test_the_state_in_words(mlinfer: MlInfer, once: LoopbackAws) -> None:
    """Lambda's states and reasons are shown in words."""
    for states, words in (
        ({"State": "Inactive", "StateReason": "The function is idle."}, "inactive"),
        ({"State": "Failed", "StateReason": "The image was deleted."}, "failed: The image was deleted."),
        ({"LastUpdateStatus": "Failed", "LastUpdateStatusReason": "No access."}, "the last update failed: No access."),
        ({"LastUpdateStatus": "InProgress"}, "update in progress"),
    ):
        once.states = states
        assert words in json.loads(mlinfer("status", "--json").out)["state"]
