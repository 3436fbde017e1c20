"""deploy, rollback and status against an AWS on loopback that runs the handler."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pytest

from lambda_src.inference.download import sha256_of
from mlinfer.clients.aws import Session
from mlinfer.clients.waiter import Waiter
from mlinfer.cloud.deploy import (
    DeploymentClients,
    DeploymentSpec,
    DeploymentTools,
    ImageSource,
    deploy,
    plan_deployment,
)
from mlinfer.cloud.plan import Outcome, StepResult
from mlinfer.config import load_config
from mlinfer.errors import MlinferError, RemoteError
from mlinfer.model.modelfile import read_model_file
from mlinfer.names import Account
from mlinfer.targets import embedded

from .. import models
from ..conftest import IMAGE, OTHER_IMAGE, ROOT, Run
from ..pictures import encoded, plain
from ..servers.aws import ACCOUNT, REGION, LoopbackAws, failed, hides_tags, refused, with_body
from ..servers.engine import LoopbackEngine
from ..servers.http import Answer, Forward, Request, serve

MlInfer = Callable[..., Run]
Past = Callable[[str], Any]
BUCKET = "cloud-models"
pytestmark = pytest.mark.usefixtures("cloud")
STEPS = [
    "role",
    "bucket",
    "model",
    "staging",
    "image",
    "log group",
    "function",
    "version",
    "proof",
    "alias",
    "url",
]


@pytest.fixture
def live(mlinfer: MlInfer, cloud: LoopbackAws, deploy_arguments: list[str]) -> LoopbackAws:
    """Return an AWS in which version 1 is deployed."""
    run = mlinfer("deploy", *deploy_arguments)
    assert run.code == 0, run.err
    cloud.calls.clear()
    return cloud


@pytest.fixture
def other_model(tmp_path: Path) -> Path:
    """Return a model that classifies differently: red as blue."""
    return models.mean_colour(tmp_path / "other.onnx", name="other", color="BGR")


def outcomes(run: Run) -> dict[str, str]:
    """Return the outcome of each step from the --json document."""
    return {step["name"]: step["outcome"] for step in json.loads(run.out)["steps"]}


def live_version(past: Past) -> str:
    """Return the version that the alias points to."""
    return str(past("lambda").get_alias(FunctionName="mlinfer-cats", Name="live")["FunctionVersion"])


def error_of(run: Run) -> dict[str, str]:
    """Return the error from --json."""
    found: dict[str, str] = json.loads(run.out)["error"]
    return found


def in_aws(past: Past) -> dict[str, Any]:
    """Return everything that a deployment created, without times, addresses and random names."""
    functions, iam, logs, s3 = (past(service) for service in ("lambda", "iam", "logs", "s3"))
    name = {"FunctionName": "mlinfer-cats"}
    numbers = [v["Version"] for v in functions.list_versions_by_function(**name)["Versions"]]
    found: dict[str, Any] = {number: functions.get_function(**name, Qualifier=number) for number in numbers}
    kept = ("Role", "MemorySize", "Timeout", "EphemeralStorage", "Environment", "Architectures")
    state: dict[str, Any] = {
        n: [told["Code"]["ImageUri"], {k: told["Configuration"][k] for k in kept}] for n, told in found.items()
    }
    state |= {"live": functions.get_alias(**name, Name="live")["FunctionVersion"]}
    state |= {"url": functions.get_function_url_config(**name)["AuthType"]}
    policy = json.loads(functions.get_policy(**name)["Policy"])["Statement"]
    state |= {"permissions": sorted(statement["Sid"] for statement in policy)}
    role = {"RoleName": "mlinfer-cats"}
    state |= {"role": iam.get_role_policy(**role, PolicyName="mlinfer")["PolicyDocument"]}
    state |= {"policies": iam.list_role_policies(**role)["PolicyNames"], "roles": len(iam.list_roles()["Roles"])}
    groups = logs.describe_log_groups()["logGroups"]
    state |= {"logs": [(group["logGroupName"], group["retentionInDays"]) for group in groups]}
    state |= {"objects": [item["Key"] for item in s3.list_objects_v2(Bucket=BUCKET)["Contents"]]}
    return {**state, "rules": s3.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]}


# The chain


def test_a_deployment_from_nothing(mlinfer: MlInfer, past: Past, deploy_arguments: list[str]) -> None:
    """Each step creates what it should, in this order, and the last lines show how to call the function."""
    run = mlinfer(
        "deploy", *deploy_arguments, "--memory", "512", "--timeout", "7", "--tmp", "1024", "--concurrency", "3"
    )
    assert run.code == 0, run.err
    told = run.err.splitlines()
    shown = ["verify" if name == "proof" else name for name in STEPS]
    assert [line.partition("unchanged: ")[2] or line[2:12].strip() for line in told[: len(STEPS)]] == shown
    assert "Deployed: version 1 of function mlinfer-cats, verified." in run.err
    assert "mlinfer predict cat.jpg --target aws" in run.err
    function = past("lambda").get_function(FunctionName="mlinfer-cats", Qualifier="live")["Configuration"]
    key = f"s3://{BUCKET}/models/tiny/{sha256_of(Path(deploy_arguments[1]))}.onnx"
    assert function["Environment"]["Variables"] == {
        "MLINFER_MODEL_URI": key,
        "MLINFER_MODEL_SHA256": sha256_of(Path(deploy_arguments[1])),
        "MLINFER_INPUT_PREFIXES": f"s3://{BUCKET}/mlinfer-staging/cats/",
    }
    assert (function["MemorySize"], function["Timeout"], function["EphemeralStorage"]["Size"]) == (512, 7, 1024)
    assert function["Role"] == f"arn:aws:iam::{ACCOUNT}:role/mlinfer/mlinfer-cats"


def test_traffic_moves_only_after_the_verification(
    mlinfer: MlInfer, cloud: LoopbackAws, deploy_arguments: list[str]
) -> None:
    """The version is called three times by its number before the alias moves."""
    assert mlinfer("deploy", *deploy_arguments).code == 0
    asked = [r for r, call in zip(cloud.requests, cloud.calls, strict=True) if call == "lambda:Invoke"]
    assert [(r.query["Qualifier"], r.headers["x-amz-log-type"]) for r in asked] == [("1", "Tail")] * 3
    assert "lambda:Invoke" not in cloud.calls[cloud.calls.index("lambda:CreateAlias") :]


def test_a_second_deployment_changes_nothing(mlinfer: MlInfer, live: LoopbackAws, deploy_arguments: list[str]) -> None:
    """Without changes, no call changes anything, the function is not called, and each step is `unchanged`."""
    run = mlinfer("deploy", *deploy_arguments, "--json")
    assert run.code == 0, run.err
    assert outcomes(run) == {**dict.fromkeys(STEPS, "unchanged"), "proof": "skipped"}
    assert live.changes == []
    assert "lambda:Invoke" not in live.calls


def test_json_is_one_document(mlinfer: MlInfer, deploy_arguments: list[str]) -> None:
    """The document has the deployed version, and each step with outcome and duration."""
    run = mlinfer("deploy", *deploy_arguments, "--json", "--quiet")
    document = json.loads(run.out)
    assert run.err == ""
    assert (document["function"], document["alias"], document["version"]) == ("mlinfer-cats", "live", "1")
    assert (document["image"], document["url"], document["dry_run"]) == (IMAGE, None, False)
    assert [step["name"] for step in document["steps"]] == STEPS
    assert all(step["seconds"] >= 0 for step in document["steps"])


def test_a_change_of_configuration(
    mlinfer: MlInfer, live: LoopbackAws, past: Past, deploy_arguments: list[str]
) -> None:
    """Another memory size becomes a new version, verified and then deployed; the rest stays unchanged."""
    run = mlinfer("deploy", *deploy_arguments, "--memory", "512")
    assert run.code == 0, run.err
    assert live.changes == ["lambda:UpdateFunctionConfiguration", "lambda:PublishVersion", "lambda:UpdateAlias"]
    assert live_version(past) == "2"


def test_another_image(mlinfer: MlInfer, live: LoopbackAws, past: Past, deploy_arguments: list[str]) -> None:
    """Another digest becomes a new version."""
    run = mlinfer("deploy", *deploy_arguments[:-1], OTHER_IMAGE)
    assert run.code == 0, run.err
    assert live.changes == ["lambda:UpdateFunctionCode", "lambda:PublishVersion", "lambda:UpdateAlias"]
    assert live_version(past) == "2"


def test_an_image_of_another_region(mlinfer: MlInfer, cloud: LoopbackAws, deploy_arguments: list[str]) -> None:
    """An image in another Region is refused before anything changes."""
    elsewhere = IMAGE.replace(REGION, "ap-southeast-2")
    for flags in ([], ["--dry-run"]):
        run = mlinfer("deploy", *deploy_arguments[:-1], elsewhere, *flags, "--json")
        assert (run.code, json.loads(run.out)["error"]["code"]) == (2, "wrong_image_region")
    assert cloud.changes == []


def test_an_image_of_another_account(
    mlinfer: MlInfer, cloud: LoopbackAws, deploy_arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an image in another account, the plan leaves this account's repository out, and build variables have no effect."""
    for name, value in (("BASE_IMAGE", "python:3.13"), ("CA_BUNDLE", "nowhere.pem")):
        monkeypatch.setenv(f"MLINFER_{name}", value)
    staging = IMAGE.replace(ACCOUNT, "210987654321")
    run = mlinfer("deploy", *deploy_arguments[:-1], staging, "--dry-run", "--json")
    assert run.code == 0, run.err
    assert "repository" not in [step["name"] for step in json.loads(run.out)["steps"]]
    assert not [call for call in cloud.calls if call.startswith("ecr:")]
    assert run.err.count("has no effect") == 2


def test_a_new_model_does_not_lock_out_the_old_one(
    mlinfer: MlInfer, live: LoopbackAws, past: Past, deploy_arguments: list[str], tiny_model: Path, other_model: Path
) -> None:
    """While the new version is verified, the role can read both models, so that the old version still works."""
    run = mlinfer("deploy", "--model", other_model, *deploy_arguments[2:])
    assert run.code == 0, run.err
    policy = past("iam").get_role_policy(RoleName="mlinfer-cats", PolicyName="mlinfer")["PolicyDocument"]
    (readable,) = (s["Resource"] for s in policy["Statement"] if s["Sid"] == "ReadModels")
    keys = [f"models/tiny/{sha256_of(tiny_model)}.onnx", f"models/other/{sha256_of(other_model)}.onnx"]
    assert sorted(readable) == sorted(f"arn:aws:s3:::{BUCKET}/{key}" for key in keys)
    assert live.calls.index("iam:PutRolePolicy") < live.calls.index("lambda:UpdateFunctionConfiguration")


@pytest.mark.slow
def test_a_model_inside_the_image(mlinfer: MlInfer, cloud: LoopbackAws, past: Past, tiny_model: Path) -> None:
    """With --model-source image, no bucket is needed, and the role reads nothing from S3."""
    cloud.image_model = tiny_model
    run = mlinfer("deploy", "--model", tiny_model, "--image", IMAGE, "--model-source", "image", "--json")
    assert run.code == 0, run.err
    assert json.loads(run.out)["model"] == "/var/task/model/model.onnx"
    assert not [call for call in cloud.calls if call.startswith("s3:")]
    policy = past("iam").get_role_policy(RoleName="mlinfer-cats", PolicyName="mlinfer")["PolicyDocument"]
    assert [statement["Sid"] for statement in policy["Statement"]] == ["WriteItsLog"]


@pytest.mark.usefixtures("live")
def test_the_function_reads_what_it_was_given(past: Past) -> None:
    """An image under the staging prefix is classified; the handler refuses the model's own key."""
    staged = f"s3://{BUCKET}/mlinfer-staging/cats/red.png"
    past("s3").put_object(Bucket=BUCKET, Key="mlinfer-staging/cats/red.png", Body=encoded(plain((255, 0, 0)), "PNG"))
    key = next(k["Key"] for k in past("s3").list_objects_v2(Bucket=BUCKET)["Contents"] if k["Key"].endswith("onnx"))
    answers = []
    with closing(boto3.client("lambda")) as client:
        for uri in (staged, f"s3://{BUCKET}/{key}", f"s3://{BUCKET}/mlinfer-staging/dogs/red.png"):
            answer = client.invoke(FunctionName="mlinfer-cats", Qualifier="live", Payload=json.dumps({"s3": uri}))
            answers.append(json.loads(answer["Payload"].read()))
    assert [answer["statusCode"] for answer in answers] == [200, 403, 403]
    assert answers[0]["body"]["label"] == "red"
    assert answers[1]["body"]["error"]["code"] == "s3_forbidden"


def test_a_picture_whose_key_the_role_may_not_use(live: LoopbackAws) -> None:
    """The caller learns that kms:Decrypt is missing, but not the names of role and key."""
    said = "User: arn:aws:sts::1:assumed-role/x is not authorized to perform: kms:Decrypt on resource: arn:aws:kms:y"
    live.fail("s3:GET", lambda *_: failed("s3:GET", 403, "AccessDenied", said))
    with closing(boto3.client("lambda")) as client:
        event = json.dumps({"s3": f"s3://{BUCKET}/mlinfer-staging/cats/red.png"})
        answer = client.invoke(FunctionName="mlinfer-cats", Qualifier="live", Payload=event)
        document = json.loads(answer["Payload"].read())
    error = document["body"]["error"]
    assert (document["statusCode"], error["code"]) == (403, "s3_forbidden")
    assert "kms:Decrypt" in error["message"]
    assert "arn:" not in error["message"]


def test_the_buckets_own_rules_stay(mlinfer: MlInfer, past: Past, deploy_arguments: list[str]) -> None:
    """The expiry rule is added to the bucket's existing rules, also to those of the old form."""
    s3 = past("s3")
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    theirs = {"ID": "theirs", "Status": "Enabled", "Prefix": "tmp/", "Expiration": {"Days": 7}}
    s3.put_bucket_lifecycle_configuration(Bucket=BUCKET, LifecycleConfiguration={"Rules": [theirs]})
    assert mlinfer("deploy", *deploy_arguments).code == 0
    rules = {rule["ID"]: rule for rule in s3.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]}
    assert set(rules) == {"theirs", "mlinfer-staging-cats"}
    assert (rules["theirs"]["Filter"], rules["theirs"]["Expiration"]) == ({"Prefix": "tmp/"}, {"Days": 7})
    ours = rules["mlinfer-staging-cats"]
    assert (ours["Filter"], ours["Expiration"]) == ({"Prefix": "mlinfer-staging/cats/"}, {"Days": 1})


# The verification


def altered(change: Callable[[dict[str, Any]], None]) -> Callable[[Request, Forward], Answer]:
    """Return a fault that lets the function answer and changes the body of the answer."""

    def fault(request: Request, forward: Forward) -> Answer:
        answer = forward(request)
        document = json.loads(answer.body)
        change(document["body"])
        return replace(answer, body=json.dumps(document).encode())

    return fault


def swap(body: dict[str, Any]) -> None:
    """Swap the two best classes."""
    best = body["predictions"]
    best[0], best[1] = best[1], best[0]


def shift(by: float) -> Callable[[dict[str, Any]], None]:
    """Return a change of the best score."""

    def change(body: dict[str, Any]) -> None:
        body["predictions"][0]["score"] += by

    return change


def rename(body: dict[str, Any]) -> None:
    """Rename the best class."""
    body["predictions"][0]["label"] = "dog"


def another(body: dict[str, Any]) -> None:
    """Name another model."""
    body["model"]["sha256"] = "0" * 64


def test_a_version_with_other_answers_does_not_go_live(
    mlinfer: MlInfer, live: LoopbackAws, past: Past, deploy_arguments: list[str]
) -> None:
    """Different answers exit with 5, with both answers and the log; the old version stays deployed."""
    for change in (swap, shift(-0.002), rename, another):
        live.fail("lambda:Invoke", altered(change))
        run = mlinfer("deploy", *deploy_arguments, "--memory", "512", "--json")
        assert (run.code, error_of(run)["code"]) == (5, "not_proved")
        assert live_version(past) == "1"
        message = error_of(run)["message"]
        assert '"outcome": "ok"' in message  # the function's log line
        assert "model 000000000000" in message if change is another else ", got " in message
    live.fail("lambda:Invoke", altered(lambda _: None))
    run = mlinfer("deploy", *deploy_arguments, "--memory", "512", "--json")
    assert (run.code, outcomes(run)["version"], outcomes(run)["proof"]) == (0, "unchanged", "created")
    assert live_version(past) == "2"


def test_a_score_may_differ_by_what_processors_differ(
    mlinfer: MlInfer, live: LoopbackAws, past: Past, deploy_arguments: list[str]
) -> None:
    """A difference of 0.001 is within the tolerance."""
    live.fail("lambda:Invoke", altered(shift(-0.0009)))
    assert mlinfer("deploy", *deploy_arguments, "--memory", "512").code == 0
    assert live_version(past) == "2"


@pytest.mark.slow
def test_classes_that_tie_may_change_places(mlinfer: MlInfer, cloud: LoopbackAws, tmp_path: Path) -> None:
    """Two classes whose scores are closer than the tolerance may swap."""
    from onnx import numpy_helper

    weights = numpy_helper.from_array(models._COLOURS[:1].repeat(5, 1)[:, :5] * 0, "logits")
    even = models.write(tmp_path / "even.onnx", [], [weights], ["N", 3, 8, 8], models.tiny_metadata())
    cloud.fail("lambda:Invoke", altered(swap))
    run = mlinfer("deploy", "--model", even, "--bucket", BUCKET, "--create-bucket", "--image", IMAGE)
    assert run.code == 0, run.err


@pytest.mark.parametrize("answer", [{"statusCode": 200, "body": "Hello"}, {"statusCode": 500, "body": {"error": "x"}}])
def test_another_handler_does_not_go_live(
    mlinfer: MlInfer, live: LoopbackAws, past: Past, deploy_arguments: list[str], answer: dict[str, Any]
) -> None:
    """An image with another handler is not deployed, and `bench` reports that it is not mlinfer's."""
    foreign = Answer(200, {"content-type": "application/json"}, json.dumps(answer).encode())
    live.fail("lambda:Invoke", lambda *_: foreign)
    run = mlinfer("deploy", *deploy_arguments, "--memory", "512", "--json")
    assert (run.code, error_of(run)["code"]) == (5, "not_proved")
    assert live_version(past) == "1"
    run = mlinfer("bench", "--target", "aws", "--cold", "0", "--warm", "1", "--json")
    assert (run.code, error_of(run)["code"]) == (4, "not_mlinfer")


def test_a_function_that_fails_does_not_go_live(
    mlinfer: MlInfer, cloud: LoopbackAws, past: Past, tiny_model: Path, other_model: Path
) -> None:
    """If the image has a model other than configured, the function's error is shown and nothing is deployed."""
    cloud.image_model = other_model
    run = mlinfer("deploy", "--model", tiny_model, "--image", IMAGE, "--model-source", "image", "--json")
    assert (run.code, error_of(run)["code"]) == (5, "not_proved")
    assert "ModelError" in error_of(run)["message"]
    assert '"outcome": "fault"' in error_of(run)["message"]
    assert past("lambda").list_aliases(FunctionName="mlinfer-cats")["Aliases"] == []


def test_an_invocation_is_never_repeated(
    mlinfer: MlInfer, cloud: LoopbackAws, deploy_arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a 500, the invocation may have run: it is an error and not repeated."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    cloud.fail("lambda:Invoke", lambda *_: refused(500, "ServiceException", "Sorry"))
    run = mlinfer("deploy", *deploy_arguments, "--json")
    assert (run.code, error_of(run)["code"]) == (4, "service_failed")
    assert cloud.calls.count("lambda:Invoke") == 1


def test_permissions_that_spread_slowly_are_waited_for(
    mlinfer: MlInfer, cloud: LoopbackAws, deploy_arguments: list[str]
) -> None:
    """Until S3 accepts the new role, the version is called again, with a note."""
    cloud.fail("s3:GET", lambda *_: failed("s3:GET", 403, "AccessDenied", "Access Denied"), times=2)
    run = mlinfer("deploy", *deploy_arguments)
    assert run.code == 0, run.err
    assert len([line for line in run.err.splitlines() if line.startswith("Waiting: ") and "permissions" in line]) == 1
    assert cloud.calls.count("lambda:Invoke") == 5


def test_an_inactive_version_is_waited_for(mlinfer: MlInfer, cloud: LoopbackAws, deploy_arguments: list[str]) -> None:
    """A version that Lambda still prepares has not run, so it is called again, with a note."""
    pending = (
        "The operation cannot be performed at this time. The function is currently in the following state: Pending"
    )
    cloud.fail("lambda:Invoke", lambda *_: refused(409, "ResourceConflictException", pending), times=1)
    run = mlinfer("deploy", *deploy_arguments)
    assert run.code == 0, run.err
    assert [line for line in run.err.splitlines() if line.startswith("Waiting: ") and "activating" in line]
    assert cloud.calls.count("lambda:Invoke") == 4


# The plan


def test_a_plan_from_nothing(mlinfer: MlInfer, cloud: LoopbackAws, deploy_arguments: list[str]) -> None:
    """--dry-run prints each step, policy and configuration to stdout, and changes nothing."""
    run = mlinfer("deploy", *deploy_arguments, "--dry-run", "--quiet")
    assert run.code == 0, run.err
    assert (
        run.out.count("would create") == len(STEPS) - 3
    )  # the image exists, no URL is set, and the version is verified
    assert run.out.count("would run") == 1
    assert '+        "Action": [' in run.out
    assert '+  "memory": 1769' in run.out
    assert cloud.changes == []
    assert "lambda:Invoke" not in cloud.calls


def test_a_plan_of_a_change(mlinfer: MlInfer, live: LoopbackAws, deploy_arguments: list[str]) -> None:
    """The diff has only what differs, each outcome says "would", and the plan names the version's number."""
    run = mlinfer("deploy", *deploy_arguments, "--memory", "512", "--dry-run", "--json")
    steps = {step["name"]: step for step in json.loads(run.out)["steps"]}
    planned = {name: step["outcome"] for name, step in steps.items() if step["outcome"] != "unchanged"}
    assert planned == {
        "function": "would_change",
        "version": "would_create",
        "proof": "would_create",
        "alias": "would_change",
    }
    changed = [line for line in steps["function"]["difference"].splitlines() if line[:2] in ("- ", "+ ")]
    assert changed == ['-  "memory": 1769,', '+  "memory": 512,']
    assert steps["alias"]["detail"] == "live -> 2 (was 1)"
    assert live.changes == []


# Faults


def once(kind: str, call: str, request: Request, forward: Forward) -> Answer | None:
    """Return a fault that applies to one request."""
    if kind == "throttled":
        return failed(call, 429, "Throttling", "Rate exceeded")
    if kind.startswith("acts"):
        forward(request)
    return failed(call, 500, "InternalFailure", "Sorry") if kind == "acts, then fails" else None


@cache  # per session, like the address: creating five clients takes longer than a deployment
def _clients() -> DeploymentClients:
    session = Session(region=REGION, profile=None, ask=lambda _: "")
    invoker = session.client("lambda", read_timeout=30)
    return DeploymentClients(
        functions=session.client("lambda"),
        iam=session.client("iam"),
        logs=session.client("logs"),
        s3=session.client("s3"),
        invoker=lambda _: invoker,
    )


class Pushed:
    """An image that is already in the registry."""

    uri = IMAGE
    outcome: Outcome = "unchanged"


@pytest.fixture
def by_hand(past: Past, tiny_model: Path) -> Callable[[], list[StepResult]]:
    """Return a function that deploys with a public URL into an existing bucket."""
    past("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    flags = {"model": str(tiny_model), "bucket": BUCKET, "url": "public"}
    config = load_config(Path(), os.environ, flags)
    here = embedded.make_target(config, lambda _: None)
    spec = DeploymentSpec(config, read_model_file(tiny_model), Account(ACCOUNT, REGION))

    def run() -> list[StepResult]:
        done: list[StepResult] = []
        waiter = Waiter(lambda _: None, lambda _: None)
        image = ImageSource(lambda _: Pushed(), Pushed)
        tools = DeploymentTools(image, here, waiter, lambda *_: nullcontext(lambda _: None))
        deploy(plan_deployment(spec, _clients(), tools), done.append)
        return done

    return run


@pytest.mark.slow
def test_a_key_that_the_role_may_not_use(by_hand: Callable[[], list[StepResult]], cloud: LoopbackAws) -> None:
    """If S3 refuses the model because of its KMS key, the verification waits, then fails with S3's reason and a hint."""
    said = (
        "not authorized to perform: kms:Decrypt on resource: arn:aws:kms:x because no identity-based policy allows it"
    )
    cloud.fail("s3:GET", lambda *_: failed("s3:GET", 403, "AccessDenied", said))
    with pytest.raises(MlinferError) as raised:
        by_hand()
    assert said in str(raised.value)
    assert "kms_key" in str(raised.value)
    assert cloud.calls.count("lambda:Invoke") > 2


@pytest.mark.slow
def test_killed_after_any_change_and_run_again(
    by_hand: Callable[[], list[StepResult]], cloud: LoopbackAws, past: Past, moto_endpoint: str
) -> None:
    """Killed after any change, the next run has the same result as an undisturbed one."""
    by_hand()
    whole, total = in_aws(past), len(cloud.changes)
    assert total >= 10
    for last in range(1, total + 1):
        _empty(moto_endpoint, past)
        cloud.reset_calls()

        def dies(call: str, request: Request, forward: Forward) -> Answer | None:
            if len(cloud.changes) < last:  # noqa: B023 - called within this turn
                return forward(request)
            if len(cloud.changes) == last and cloud.is_change(call):  # noqa: B023
                forward(request)
            return None

        cloud.before = dies
        with pytest.raises(RemoteError):
            by_hand()
        cloud.before = None
        by_hand()
        assert in_aws(past) == whole, last


def _empty(moto_endpoint: str, past: Past) -> None:
    import urllib.request

    urllib.request.urlopen(f"{moto_endpoint}/moto-api/reset", data=b"").close()  # noqa: S310
    past("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})


@pytest.mark.slow
def test_any_call_that_fails_is_an_error_that_says_so(
    by_hand: Callable[[], list[StepResult]], cloud: LoopbackAws, past: Past, moto_endpoint: str
) -> None:
    """A throttle, a 500 or a cut connection in any call is an error with a hint, not an internal error."""
    by_hand()  # for once with the handler's download of the model
    _empty(moto_endpoint, past)
    cloud.reset_calls()
    by_hand()
    calls, total = list(cloud.calls), len(cloud.calls)
    kinds = ["throttled", "acts, then fails", "acts, then cut", "cut"]
    codes = {"throttled": "throttled", "acts, then fails": "service_failed"}
    for place in [place for place in range(total) if not calls[place].startswith("s3:")]:  # S3: test_model_object.py
        _empty(moto_endpoint, past)
        cloud.reset_calls()
        kind = kinds[place % len(kinds)]

        def fails(call: str, request: Request, forward: Forward) -> Answer | None:
            return once(kind, call, request, forward) if len(cloud.calls) == place + 1 else forward(request)  # noqa: B023

        cloud.before = fails
        with pytest.raises(RemoteError) as raised:
            by_hand()
        assert raised.value.hint, (place, kind)
        broken = "answer_lost" if calls[place] == "lambda:Invoke" else "connection_failed"
        assert raised.value.code == codes.get(kind, broken), calls[place]
        cloud.before = None


def test_lost_answers_are_requested_again(
    mlinfer: MlInfer, cloud: LoopbackAws, past: Past, deploy_arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the answer to each change is lost once, boto3 repeats the request, and the deployment succeeds."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    lost: set[bytes] = set()

    def forgets(call: str, request: Request, forward: Forward) -> Answer | None:
        answer, mark = forward(request), call.encode() + request.body
        if cloud.is_change(call) and not call.startswith("s3:") and mark not in lost:
            lost.add(mark)
            return None
        return answer

    cloud.before = forgets
    run = mlinfer("deploy", *deploy_arguments, "--url", "public", "--yes")
    assert run.code == 0, run.err
    assert len(lost) == 11
    state = in_aws(past)
    assert (state["live"], set(state) & {"1", "2", "3"}) == ("1", {"1"})
    assert state["permissions"] == ["mlinfer-url", "mlinfer-url-invoke"]


@pytest.mark.parametrize("call", ["lambda:CreateFunction", "lambda:PublishVersion"])
def test_a_process_that_is_killed(
    mlinfer: MlInfer, cloud: LoopbackAws, past: Past, deploy_arguments: list[str], call: str
) -> None:
    """After SIGKILL, the next run completes the deployment."""
    command = [sys.executable, "-c", "import sys; from mlinfer.cli import main; sys.exit(main(sys.argv[1:]))"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([*command, "deploy", *deploy_arguments, "--quiet"], env=environment)

    def kills(name: str, request: Request, forward: Forward) -> Answer | None:
        answer = forward(request)
        if name == call:
            process.kill()
        return answer

    cloud.before = kills
    assert process.wait(timeout=60) == -signal.SIGKILL
    cloud.before = None
    run = mlinfer("deploy", *deploy_arguments)
    assert run.code == 0, run.err
    numbers = past("lambda").list_versions_by_function(FunctionName="mlinfer-cats")["Versions"]
    assert ([v["Version"] for v in numbers], live_version(past)) == (["$LATEST", "1"], "1")


def test_missing_permissions_are_named(mlinfer: MlInfer, cloud: LoopbackAws, deploy_arguments: list[str]) -> None:
    """A missing permission is reported in AWS's words, with the command that lists all of them; no secret is shown."""
    said = (
        "User: arn:aws:iam::123456789012:user/me is not authorized to perform: iam:CreateRole on resource: mlinfer-cats"
    )
    cloud.fail("iam:CreateRole", lambda *_: failed("iam:CreateRole", 403, "AccessDenied", said))
    run = mlinfer("deploy", *deploy_arguments, "--verbose", "--json")
    assert (run.code, error_of(run)["code"]) == (4, "access_denied")
    assert "iam:CreateRole" in error_of(run)["message"]
    assert "mlinfer doctor --policy" in error_of(run)["hint"]
    for secret in (os.environ["AWS_SECRET_ACCESS_KEY"], os.environ["AWS_SESSION_TOKEN"], "Signature="):
        assert secret not in run.out + run.err


def test_a_response_that_is_not_from_aws(mlinfer: MlInfer, cloud: LoopbackAws, deploy_arguments: list[str]) -> None:
    """HTML from a proxy is an error, not an internal error."""
    cloud.fail("iam:GetRole", lambda *_: Answer(403, {"content-type": "text/html"}, b"<html>Blocked<br></html>"))
    run = mlinfer("deploy", *deploy_arguments, "--json")
    assert (run.code, error_of(run)["code"]) == (4, "aws_failed")


# Checks before the first change


@pytest.mark.parametrize(
    ("arguments", "code", "name"),
    [
        (["--image", IMAGE], 2, "no_bucket"),
        (["--bucket", BUCKET, "--image", "repository:latest"], 2, "invalid_value"),
        (["--bucket", BUCKET, "--image", IMAGE, "--url", "public"], 2, "not_confirmed"),
        (["--bucket", BUCKET, "--image", IMAGE, "--memory", "64"], 2, "invalid_value"),
        (["--bucket", BUCKET, "--image", IMAGE], 4, "no_such_bucket"),
        (["--bucket", BUCKET, "--image", IMAGE, "--dry-run"], 4, "no_such_bucket"),
        (["--bucket", BUCKET, "--image", IMAGE, "--model", "nowhere.onnx"], 3, "model_not_found"),
    ],
)
@pytest.mark.slow
def test_wrong_usage(mlinfer: MlInfer, cloud: LoopbackAws, arguments: list[str], code: int, name: str) -> None:
    """Wrong usage is reported before anything changes; a public URL needs a yes."""
    run = mlinfer("deploy", *arguments, "--json")
    assert (run.code, error_of(run)["code"]) == (code, name)
    assert cloud.changes == []


def test_all_missing_settings_are_reported_at_once(mlinfer: MlInfer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing Region, credentials, bucket, model file and Docker Engine are one error, each with its hint."""
    for name in ("AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    run = mlinfer("deploy", "--builder", "docker", "--model", "nowhere.onnx", "--json")
    assert (run.code, error_of(run)["code"]) == (3, "several_missing")
    for text in ("Region", "credentials", "bucket", "nowhere.onnx", "Docker", "--region", "aws configure", "--bucket"):
        assert text in error_of(run)["message"], text


@pytest.mark.usefixtures("live")
def test_the_starter_replaces_a_model_only_when_it_is_named(
    mlinfer: MlInfer, past: Past, deploy_arguments: list[str]
) -> None:
    """The starter replaces another deployed model only with --model starter."""
    run = mlinfer("deploy", *deploy_arguments[2:], "--json")
    assert (run.code, error_of(run)["code"]) == (2, "starter_not_named")
    assert live_version(past) == "1"
    run = mlinfer("deploy", "--model", "starter", *deploy_arguments[2:], "--json")
    assert run.code == 0, run.err
    assert live_version(past) == "2"
    assert mlinfer("deploy", *deploy_arguments[2:]).code == 0  # the function serves the starter now


@pytest.mark.usefixtures("live")
def test_the_exit_code_says_whether_deployed_and_local_differ(
    mlinfer: MlInfer, past: Past, deploy_arguments: list[str], tiny_model: Path, other_model: Path
) -> None:
    """`status --exit-code` exits with 0 if equal, 6 if different, 3 without the model file."""
    tags = [{"Key": "mlinfer:project", "Value": "cats"}]
    past("ecr").create_repository(repositoryName="mlinfer/cats", tags=tags)
    assert mlinfer("deploy", *deploy_arguments).code == 0
    same = ("status", "--exit-code", "--image", IMAGE, "--model", tiny_model)
    assert mlinfer(*same).code == 0
    assert mlinfer(*same[:-1], other_model).code == 6
    assert mlinfer(*same[:-1], "nowhere.onnx").code == 3
    assert mlinfer("status", "--image", IMAGE, "--model", other_model).code == 0


def test_a_project_by_its_flag(mlinfer: MlInfer, past: Past, deploy_arguments: list[str]) -> None:
    """--project names the resources and takes precedence over the variable."""
    run = mlinfer("deploy", *deploy_arguments, "--project", "dogs", "--json")
    assert run.code == 0, run.err
    assert [item["FunctionName"] for item in past("lambda").list_functions()["Functions"]] == ["mlinfer-dogs"]
    assert json.loads(mlinfer("status", "--project", "dogs", "--json").out)["function"] == "mlinfer-dogs"


def test_a_foreign_function_stops_it_first(
    mlinfer: MlInfer, cloud: LoopbackAws, past: Past, deploy_arguments: list[str]
) -> None:
    """If another project has the function's name, nothing is created, not even the bucket."""
    trust = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "sts:AssumeRole"}]}
    role = past("iam").create_role(RoleName="theirs", AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
    code = {"ImageUri": IMAGE}
    past("lambda").create_function(FunctionName="mlinfer-cats", Role=role, Code=code, PackageType="Image")
    run = mlinfer("deploy", *deploy_arguments, "--json")
    assert (run.code, error_of(run)["code"]) == (4, "not_ours")
    assert cloud.changes == []


def test_a_foreign_role_stops_it_first(
    mlinfer: MlInfer, cloud: LoopbackAws, past: Past, deploy_arguments: list[str]
) -> None:
    """A role without the project's tag is refused before anything is created."""
    past("iam").create_role(RoleName="mlinfer-cats", AssumeRolePolicyDocument="{}")
    run = mlinfer("deploy", *deploy_arguments, "--json")
    assert (run.code, error_of(run)["code"]) == (4, "not_ours")
    assert cloud.changes == []


def test_a_bucket_of_another_account_stops_it_first(
    mlinfer: MlInfer, cloud: LoopbackAws, deploy_arguments: list[str]
) -> None:
    """A bucket of another account is refused before anything is created."""
    for call in ("s3:HeadBucket", "s3:GET tagging"):
        cloud.fail(call, lambda *_: failed("s3:GET", 403, "AccessDenied", "Access Denied"))
    run = mlinfer("deploy", *deploy_arguments, "--json")
    assert (run.code, error_of(run)["code"]) == (4, "bucket_taken")
    assert cloud.changes == []


def test_a_foreign_log_group_stops_it_first(
    mlinfer: MlInfer, cloud: LoopbackAws, past: Past, deploy_arguments: list[str]
) -> None:
    """A log group without the project's tag is refused before anything is created, and keeps its retention."""
    past("logs").create_log_group(logGroupName="/aws/lambda/mlinfer-cats")
    for more in ([], ["--dry-run"]):
        run = mlinfer("deploy", *deploy_arguments, "--json", *more)
        assert (run.code, error_of(run)["code"]) == (4, "not_ours")
    assert cloud.changes == []


def test_a_foreign_repository_stops_it_first(
    mlinfer: MlInfer, cloud: LoopbackAws, past: Past, deploy_arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repository without the project's tag is refused before anything is built, pushed or created."""
    past("ecr").create_repository(repositoryName="mlinfer/cats")
    engine = LoopbackEngine(lambda *_: [])
    with serve(engine.answer) as port:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
        for more in ([], ["--dry-run"]):
            run = mlinfer("deploy", *deploy_arguments[:-2], "--json", *more)
            assert (run.code, error_of(run)["code"]) == (4, "not_ours")
    assert cloud.changes == []
    assert not [request for request in engine.requests if request.startswith("POST")]


@pytest.mark.parametrize(
    ("call", "permission"),
    [("lambda:GetFunction", "lambda:ListTags"), ("logs:ListTagsForResource", "logs:ListTagsForResource")],
)
def test_unknown_tags_are_not_foreign(
    mlinfer: MlInfer, live: LoopbackAws, deploy_arguments: list[str], call: str, permission: str
) -> None:
    """If AWS hides the tags, nothing changes, and the error names the missing permission."""
    live.before = hides_tags(call)
    run = mlinfer("deploy", *deploy_arguments, "--memory", "512", "--json")
    assert (run.code, error_of(run)["code"]) == (4, "owner_unknown")
    assert permission in error_of(run)["hint"]
    assert live.changes == []


def test_tags_that_lambda_leaves_out_are_asked_for(
    mlinfer: MlInfer, live: LoopbackAws, deploy_arguments: list[str]
) -> None:
    """If GetFunction returns no tags, ListTags decides."""

    def bare(_: str, request: Request, forward: Forward) -> Answer:
        answer = forward(request)
        told = json.loads(answer.body) if answer.body[:1] == b"{" else {}
        return with_body(answer, {k: v for k, v in told.items() if k != "Tags"}) if "Code" in told else answer

    live.before = bare
    assert mlinfer("deploy", *deploy_arguments).code == 0
    assert "lambda:ListTags" in live.calls
    assert live.changes == []


def test_a_role_at_another_path_is_used(
    mlinfer: MlInfer, cloud: LoopbackAws, past: Past, deploy_arguments: list[str], tiny_model: Path
) -> None:
    """Our role at another path is found and used, and a second run changes nothing."""
    tags = [{"Key": "mlinfer:project", "Value": "cats"}]
    made = past("iam").create_role(RoleName="mlinfer-cats", Path="/team/", AssumeRolePolicyDocument="{}", Tags=tags)
    assert mlinfer("deploy", *deploy_arguments).code == 0
    told = past("lambda").get_function(FunctionName="mlinfer-cats")["Configuration"]
    assert told["Role"] == made["Role"]["Arn"]
    cloud.calls.clear()
    assert mlinfer("deploy", *deploy_arguments).code == 0
    assert cloud.changes == []
    status = json.loads(mlinfer("status", "--model", tiny_model, "--json").out)
    assert "role" not in (status["difference"] or "")


def test_a_foreign_function_is_not_rolled_back(mlinfer: MlInfer, live: LoopbackAws, past: Past) -> None:
    """rollback refuses a function without the project's tag before it changes anything."""
    arn = past("lambda").get_function(FunctionName="mlinfer-cats")["Configuration"]["FunctionArn"]
    past("lambda").untag_resource(Resource=arn, TagKeys=["mlinfer:project"])
    run = mlinfer("rollback", "1", "--json")
    assert (run.code, error_of(run)["code"]) == (4, "not_ours")
    assert live.changes == []


def test_a_public_url_says_how_to_call_it(mlinfer: MlInfer, deploy_arguments: list[str]) -> None:
    """With --yes, the URL is created without a question; stdout is the URL only, stderr has the curl command."""
    run = mlinfer("deploy", *deploy_arguments, "--url", "public", "--yes")
    assert run.code == 0, run.err
    assert run.out.startswith("https://")
    assert f"curl --data-binary @cat.jpg -H 'Content-Type: image/jpeg' {run.out.strip()}" in run.err
