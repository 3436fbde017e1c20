"""The function, its versions and its URL, in an AWS on loopback that can be slow or busy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import boto3
import pytest

from mlinfer.clients.waiter import Waiter
from mlinfer.cloud.resources.alias import apply_alias, read_alias
from mlinfer.cloud.resources.function import FunctionConfig, apply_function, plan_function, read_function, try_image
from mlinfer.cloud.resources.function_url import apply_url
from mlinfer.cloud.resources.policies import role_policy
from mlinfer.cloud.resources.role import apply_role
from mlinfer.cloud.resources.version import apply_version, versions
from mlinfer.errors import RemoteError
from mlinfer.names import Account, Names

from ...conftest import IMAGE, OTHER_IMAGE
from ...servers.aws import ACCOUNT, REGION, LoopbackAws, refused
from ...servers.http import Answer, Forward, Request

NAMES, HERE = Names("cats"), Account(ACCOUNT, REGION)
WANTED = FunctionConfig(
    image=IMAGE,
    arch="x86_64",
    role=HERE.role(NAMES),
    memory=1769,
    timeout=30,
    tmp=512,
    environment={"MLINFER_MODEL_URI": "s3://b/k"},
)


class Waits(Waiter):
    """A waiter that takes no time and records what it waited for."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.pauses_s: list[float] = []
        super().__init__(self.pauses_s.append, self.reasons.append)


@pytest.fixture
def waits() -> Waits:
    """Return a waiter that takes no time."""
    return Waits()


@pytest.fixture
def client(cloud: LoopbackAws, past: Callable[[str], Any]) -> Iterator[Any]:
    """Return a Lambda client; the function's role exists."""
    apply_role(past("iam"), NAMES, role_policy(HERE, NAMES, models=[], prefixes=[]))
    cloud.calls.clear()
    with closing(boto3.client("lambda")) as made:
        yield made


@pytest.fixture
def made(client: Any, cloud: LoopbackAws, waits: Waits) -> Any:
    """Return the client of a Lambda that has the function and version 1."""
    apply_function(client, NAMES, WANTED, waiter=waits)
    apply_version(client, NAMES, WANTED, waiter=waits)
    cloud.calls.clear()
    return client


def always(answer: Answer) -> Callable[[Request, Forward], Answer]:
    """Return a fault that always gives this answer."""
    return lambda *_: answer


NOT_YET = refused(
    400, "InvalidParameterValueException", "The role defined for the function cannot be assumed by Lambda."
)
NO_KEY = refused(
    400,
    "InvalidParameterValueException",
    "Lambda was unable to configure access to your environment variables because the KMS key is invalid for CreateGrant.",
)


def test_a_function_is_created_as_configured(client: Any, waits: Waits) -> None:
    """A new function has the configured image, architecture, role, sizes, environment, concurrency and tag."""
    wanted = replace(WANTED, arch="arm64", memory=512, timeout=7, tmp=1024, concurrency=3)
    assert apply_function(client, NAMES, wanted, waiter=waits).outcome == "created"
    there = read_function(client, NAMES)
    assert there is not None
    assert there.settings == wanted
    told = client.get_function(FunctionName="mlinfer-cats")
    assert told["Configuration"]["PackageType"] == "Image"
    assert told["Tags"] == {"mlinfer:project": "cats"}


@pytest.mark.parametrize(
    ("change", "calls"),
    [
        ({"image": OTHER_IMAGE}, ["lambda:UpdateFunctionCode"]),
        ({"arch": "arm64"}, ["lambda:UpdateFunctionCode"]),
        ({"memory": 512}, ["lambda:UpdateFunctionConfiguration"]),
        ({"timeout": 7}, ["lambda:UpdateFunctionConfiguration"]),
        ({"tmp": 1024}, ["lambda:UpdateFunctionConfiguration"]),
        ({"environment": {"MLINFER_MODEL_URI": "s3://b/other"}}, ["lambda:UpdateFunctionConfiguration"]),
        ({"image": OTHER_IMAGE, "memory": 512}, ["lambda:UpdateFunctionCode", "lambda:UpdateFunctionConfiguration"]),
        ({"concurrency": 4}, ["lambda:PutFunctionConcurrency"]),
        ({}, []),
    ],
)
def test_only_what_differs_is_changed(
    made: Any, cloud: LoopbackAws, waits: Waits, change: dict[str, Any], calls: list[str]
) -> None:
    """Code, configuration and concurrency change in this order, each only if it differs."""
    wanted = replace(WANTED, **change)
    assert apply_function(made, NAMES, wanted, waiter=waits).outcome == ("changed" if calls else "unchanged")
    assert cloud.changes == calls
    there = read_function(made, NAMES)
    assert there is not None
    assert there.settings == wanted


def test_a_reserved_concurrency_is_given_back(made: Any, cloud: LoopbackAws, waits: Waits) -> None:
    """A concurrency that is no longer configured is removed."""
    apply_function(made, NAMES, replace(WANTED, concurrency=4), waiter=waits)
    cloud.calls.clear()
    assert apply_function(made, NAMES, WANTED, waiter=waits).outcome == "changed"
    assert cloud.changes == ["lambda:DeleteFunctionConcurrency"]


@pytest.mark.parametrize("answer", [NOT_YET, NO_KEY], ids=["role", "key"])
def test_a_new_role_is_waited_for(client: Any, cloud: LoopbackAws, waits: Waits, answer: Answer) -> None:
    """Until IAM has propagated the new role, creating the function is retried, with one note."""
    cloud.fail("lambda:CreateFunction", always(answer), times=3)
    assert apply_function(client, NAMES, WANTED, waiter=waits).outcome == "created"
    assert len(waits.reasons) == 1
    assert all(most / 2 <= pause <= most for pause, most in zip(waits.pauses_s, (0.25, 0.5, 1.0), strict=True))


def test_a_role_that_never_becomes_active(client: Any, cloud: LoopbackAws, waits: Waits) -> None:
    """After a minute of waiting, it is an error with Lambda's reason."""
    cloud.fail("lambda:CreateFunction", always(NOT_YET))
    with pytest.raises(RemoteError, match="cannot be assumed"):
        apply_function(client, NAMES, WANTED, waiter=waits)
    assert 60 <= sum(waits.pauses_s) <= 65


@pytest.mark.parametrize(
    ("code", "message", "told"),
    [
        ("InvalidParameterValueException", "Source image is not valid", "invalid_value"),
        ("ResourceConflictException", "The function is in the following state: Failed", "conflict"),
        ("CodeStorageExceededException", "Code storage limit exceeded", "quota_reached"),
        ("AccessDeniedException", "not authorized to perform: lambda:CreateFunction", "access_denied"),
    ],
)
def test_permanent_errors_are_reported_at_once(
    client: Any, cloud: LoopbackAws, waits: Waits, code: str, message: str, told: str
) -> None:
    """Any other refusal is an error at once, with Lambda's words and a hint."""
    cloud.fail("lambda:CreateFunction", always(refused(400, code, message)))
    with pytest.raises(RemoteError) as raised:
        apply_function(client, NAMES, WANTED, waiter=waits)
    assert raised.value.code == told
    assert message in str(raised.value)
    assert raised.value.hint
    assert waits.pauses_s == []


def test_each_change_waits_for_the_one_before(made: Any, cloud: LoopbackAws, waits: Waits) -> None:
    """While Lambda applies a change, mlinfer waits with a note before the next one."""
    cloud.busy_for = 2
    wanted = replace(WANTED, image=OTHER_IMAGE, memory=512)
    apply_function(made, NAMES, wanted, waiter=waits)
    _, version = apply_version(made, NAMES, wanted, waiter=waits)
    assert version == "2"
    assert [call for call in cloud.calls if call != "lambda:ListVersionsByFunction"] == [
        "lambda:GetFunction",
        "lambda:UpdateFunctionCode",
        *["lambda:GetFunction"] * 3,
        "lambda:UpdateFunctionConfiguration",
        *["lambda:GetFunction"] * 5,
        "lambda:PublishVersion",
        *["lambda:GetFunction"] * 3,
    ]
    (reason,) = set(waits.reasons)
    assert "mlinfer-cats" in reason
    assert "It is being made." in reason  # what Lambda says


def test_a_concurrent_change_is_waited_for(made: Any, cloud: LoopbackAws, waits: Waits) -> None:
    """A conflict with another update in progress is retried."""
    busy = "The operation cannot be performed at this time. An update is in progress for resource: it"
    conflict = always(refused(409, "ResourceConflictException", busy))
    cloud.fail("lambda:UpdateFunctionConfiguration", conflict, times=2)
    assert apply_function(made, NAMES, replace(WANTED, memory=512), waiter=waits).outcome == "changed"
    assert len(waits.pauses_s) == 2


@pytest.mark.slow
def test_a_function_that_never_becomes_ready(made: Any, cloud: LoopbackAws, waits: Waits) -> None:
    """After five minutes, it is an error with the function's state and a hint."""
    cloud.states = {"State": "Pending", "StateReason": "The function is being created."}
    with pytest.raises(RemoteError, match="being created") as raised:
        apply_function(made, NAMES, WANTED, waiter=waits)
    assert raised.value.code == "not_ready"
    assert 300 <= sum(waits.pauses_s) <= 305


def test_a_failed_function_is_reported_with_its_reason(made: Any, cloud: LoopbackAws, waits: Waits) -> None:
    """A failed function is an error with Lambda's reason and a hint."""
    cloud.states = {"State": "Failed", "StateReason": "Lambda cannot pull the image."}
    with pytest.raises(RemoteError, match="Lambda cannot pull the image") as raised:
        apply_function(made, NAMES, WANTED, waiter=waits)
    assert (raised.value.code, "mlinfer destroy" in raised.value.hint) == ("function_failed", True)


def test_a_failed_update_is_reported_and_retried(made: Any, cloud: LoopbackAws, waits: Waits) -> None:
    """A failed update is an error; the next run repeats it although nothing seems to differ."""
    cloud.states = {"LastUpdateStatus": "Failed", "LastUpdateStatusReason": "The image is gone."}
    with pytest.raises(RemoteError, match=r"The image is gone\.") as raised:
        apply_function(made, NAMES, WANTED, waiter=waits)
    assert raised.value.code == "update_failed"
    assert cloud.changes == ["lambda:UpdateFunctionCode"]


def test_a_zip_function_is_refused(client: Any, cloud: LoopbackAws, waits: Waits) -> None:
    """A ZIP function cannot become an image function: it is refused and left unchanged."""
    tags = {"mlinfer:project": "cats"}
    client.create_function(
        FunctionName="mlinfer-cats",
        Runtime="python3.13",
        Handler="a.b",
        Role=WANTED.role,
        Code={"ZipFile": b"PK"},
        Tags=tags,
    )
    cloud.calls.clear()
    with pytest.raises(RemoteError) as raised:
        apply_function(client, NAMES, WANTED, waiter=waits)
    assert (raised.value.code, cloud.changes) == ("wrong_package_type", [])


def test_a_foreign_function_is_rejected(client: Any, cloud: LoopbackAws, waits: Waits) -> None:
    """A function without our tag is refused and left unchanged."""
    client.create_function(
        FunctionName="mlinfer-cats", Role=WANTED.role, Code={"ImageUri": IMAGE}, PackageType="Image", Tags={"a": "b"}
    )
    cloud.calls.clear()
    with pytest.raises(RemoteError) as raised:
        apply_function(client, NAMES, WANTED, waiter=waits)
    assert (raised.value.code, cloud.changes) == ("not_ours", [])


def test_lambda_itself_judges_a_plan(made: Any, cloud: LoopbackAws) -> None:
    """The plan checks the image with Lambda's DryRun, and changes nothing."""
    wanted = replace(WANTED, image=OTHER_IMAGE)
    try_image(made, NAMES, wanted)
    assert cloud.calls == ["lambda:GetFunction", "lambda:UpdateFunctionCode DryRun"]
    there = read_function(made, NAMES)
    assert there is not None
    assert there.settings == WANTED
    change = plan_function(there, wanted, names=NAMES)
    assert change.outcome == "changed"
    assert f'+  "image": "{OTHER_IMAGE}"' in change.difference


# Versions and the alias


def test_a_version_is_published_only_after_a_change(made: Any, waits: Waits) -> None:
    """An equal version is reused; one with another image is not."""
    other = replace(WANTED, image=OTHER_IMAGE)
    assert apply_version(made, NAMES, WANTED, waiter=waits)[0].outcome == "unchanged"
    apply_function(made, NAMES, other, waiter=waits)
    assert apply_version(made, NAMES, other, waiter=waits)[1] == "2"
    apply_function(made, NAMES, WANTED, waiter=waits)
    assert apply_version(made, NAMES, WANTED, waiter=waits)[1] == "3"
    assert [version["Version"] for version in versions(made, NAMES)] == ["1", "2", "3"]


def test_a_change_of_another_deployment_is_not_published(made: Any, cloud: LoopbackAws, waits: Waits) -> None:
    """If another deployment replaced the configuration, this one fails and publishes nothing."""
    mine = replace(WANTED, memory=512)
    apply_function(made, NAMES, mine, waiter=waits)
    apply_function(made, NAMES, replace(WANTED, memory=640), waiter=waits)
    with pytest.raises(RemoteError) as raised:
        apply_version(made, NAMES, mine, waiter=waits)
    assert raised.value.code == "conflict"
    assert "lambda:PublishVersion" not in cloud.changes


def test_a_version_published_by_a_lost_answer_is_found(made: Any, cloud: LoopbackAws, waits: Waits) -> None:
    """After a lost answer, the newest version is used if it is equal."""
    wanted = replace(WANTED, memory=512)
    apply_function(made, NAMES, wanted, waiter=waits)

    def publish_and_forget(request: Request, forward: Forward) -> Answer:
        forward(request)
        return refused(412, "PreconditionFailedException", "The RevisionId provided does not match")

    cloud.fail("lambda:PublishVersion", publish_and_forget, times=1)
    assert apply_version(made, NAMES, wanted, waiter=waits)[1] == "2"


def test_a_concurrent_change_of_the_alias_is_kept(made: Any, waits: Waits) -> None:
    """An alias that someone moved since it was read is left there."""
    apply_alias(made, NAMES, there=None, version="1")
    there = read_alias(made, NAMES)
    wanted = replace(WANTED, memory=512)
    apply_function(made, NAMES, wanted, waiter=waits)
    apply_version(made, NAMES, wanted, waiter=waits)
    made.update_alias(FunctionName="mlinfer-cats", Name="live", FunctionVersion="$LATEST")
    with pytest.raises(RemoteError) as raised:
        apply_alias(made, NAMES, there=there, version="2")
    assert raised.value.code == "alias_moved"
    assert made.get_alias(FunctionName="mlinfer-cats", Name="live")["FunctionVersion"] == "$LATEST"


def test_shared_traffic_goes_to_one_version(made: Any, waits: Waits) -> None:
    """Weighted routing of the alias is removed, even if it names the right version."""
    wanted = replace(WANTED, memory=512)
    apply_function(made, NAMES, wanted, waiter=waits)
    apply_version(made, NAMES, wanted, waiter=waits)
    weights = {"AdditionalVersionWeights": {"2": 0.5}}
    made.create_alias(FunctionName="mlinfer-cats", Name="live", FunctionVersion="1", RoutingConfig=weights)
    assert apply_alias(made, NAMES, there=read_alias(made, NAMES), version="1").outcome == "changed"
    there = read_alias(made, NAMES)
    assert there is not None
    assert (there.version, there.weights) == ("1", {})


# The URL


def permissions(client: Any) -> dict[str, dict[str, Any]]:
    """Return the statements of the alias's policy by their names."""
    try:
        policy = client.get_policy(FunctionName="mlinfer-cats", Qualifier="live")["Policy"]
    except client.exceptions.ResourceNotFoundException:
        return {}
    return {statement["Sid"]: statement for statement in json.loads(policy)["Statement"]}


def test_a_public_url_needs_both_permissions(made: Any, cloud: LoopbackAws) -> None:
    """A public URL gets two permissions; a second run changes nothing."""
    apply_alias(made, NAMES, there=None, version="1")
    change, url = apply_url(made, NAMES, "public")
    assert (change.outcome, url[:8]) == ("created", "https://")
    held = permissions(made)
    assert {sid: (s["Action"], s["Principal"]) for sid, s in held.items()} == {
        "mlinfer-url": ("lambda:InvokeFunctionUrl", "*"),
        "mlinfer-url-invoke": ("lambda:InvokeFunction", "*"),
    }
    assert held["mlinfer-url"]["FunctionUrlAuthType"] == "NONE"
    assert held["mlinfer-url-invoke"]["InvokedViaFunctionUrl"] is True
    assert all(statement["Resource"].endswith(":live") for statement in held.values())
    cloud.calls.clear()
    assert apply_url(made, NAMES, "public")[0].outcome == "unchanged"
    assert cloud.changes == []


@pytest.mark.parametrize(("kind", "auth"), [("iam", "AWS_IAM"), ("none", None)])
def test_a_url_that_is_no_longer_public(made: Any, cloud: LoopbackAws, kind: str, auth: str | None) -> None:
    """The public permissions are removed before the URL; permissions of others stay."""
    apply_alias(made, NAMES, there=None, version="1")
    apply_url(made, NAMES, "public")
    other = {"StatementId": "theirs", "Action": "lambda:InvokeFunction", "Principal": "events.amazonaws.com"}
    made.add_permission(FunctionName="mlinfer-cats", Qualifier="live", **other)
    cloud.calls.clear()
    change, url = apply_url(made, NAMES, kind)
    assert (change.outcome, bool(url)) == ("changed", auth is not None)
    assert cloud.changes[:2] == ["lambda:RemovePermission"] * 2
    assert list(permissions(made)) == ["theirs"]
    if auth:
        assert made.get_function_url_config(FunctionName="mlinfer-cats", Qualifier="live")["AuthType"] == auth


def test_a_url_for_signed_calls_grants_no_public_access(made: Any) -> None:
    """With iam, the callers' own policies decide: no permission is added."""
    apply_alias(made, NAMES, there=None, version="1")
    assert apply_url(made, NAMES, "iam")[0].outcome == "created"
    assert permissions(made) == {}
