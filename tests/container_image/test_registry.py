"""Pushing to ECR: moto is ECR's API; Engine and registry are servers on loopback."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ..servers.engine import (
    DOCKER,
    DOCKER_LIST,
    GZIP,
    OCI,
    OCI_GZIP,
    OCI_INDEX,
    OCI_ZSTD,
)
from ..servers.engine import refusal as refused
from ..servers.http import Answer, Forward, Request
from .conftest import (
    ACCOUNT,
    AMD64,
    HASH,
    NAME,
    REGION,
    SECOND_TOKEN,
    SECRET,
    TOKEN,
    Cloud,
    MlInfer,
    encoded,
    error_of,
    error_report,
    success,
)

READS = {"DescribeRepositories", "ListTagsForResource", "GetLifecyclePolicy", "GetRepositoryPolicy"}
READS |= {"GetAuthorizationToken"}


# What it does


@pytest.mark.slow
def test_prints_the_image_by_its_digest(mlinfer: MlInfer, cloud: Cloud, golden_text: Callable[..., None]) -> None:
    """The image is in ECR under the local tag, and stdout is REPOSITORY@digest only."""
    run = mlinfer("push")
    assert run.code == 0, run.err
    assert run.out == f"{cloud.registry.host}/{NAME}@{cloud.registry.tags[HASH]}\n"
    golden_text("push", run)
    assert [(repository, tag) for repository, tag, _ in cloud.engine.pushes] == [
        (f"{cloud.registry.host}/{NAME}", HASH)
    ]


@pytest.mark.slow
def test_json(mlinfer: MlInfer, cloud: Cloud) -> None:
    """--json says what was pushed, and the outcome of each part of the repository."""
    digest = cloud.registry.put_image(AMD64)
    uri = f"{cloud.registry.host}/{NAME}"
    made = {"uri": uri, "repository": "created", "lifecycle": "created", "policy": "created"}
    image = {"uri": f"{uri}@{digest}", "digest": digest, "tag": HASH, "arch": "x86_64", "bytes": 100}
    assert json.loads(mlinfer("push", "--json").out) == {**image, "outcome": "pushed", "repository": made}


@pytest.mark.slow
def test_nothing_is_sent_twice(mlinfer: MlInfer, cloud: Cloud) -> None:
    """The second push finds the image by its id and sends nothing."""
    first = mlinfer("push")
    cloud.api.requests.clear()
    run = mlinfer("push")
    assert (run.code, run.out) == (0, first.out)
    assert "unchanged" in run.err
    assert len(cloud.engine.pushes) == 1
    assert set(cloud.api.operations) == READS


@pytest.mark.slow
def test_a_rebuilt_image_gets_another_tag(mlinfer: MlInfer, cloud: Cloud) -> None:
    """Tags are immutable: a rebuilt image of the same files gets its id added to the tag, and is found there next time."""
    first = mlinfer("push")
    rebuilt = AMD64 | {"created": "later"}
    cloud.engine.id = cloud.registry.put(rebuilt)
    cloud.engine.push = lambda tag, _: success(cloud.registry.put_image(rebuilt, tag=tag))
    second = mlinfer("push")
    tag = f"{HASH}-{cloud.engine.id[7:19]}"
    assert [pushed for _, pushed, _ in cloud.engine.pushes] == [HASH, tag]
    assert second.out == f"{cloud.registry.host}/{NAME}@{cloud.registry.tags[tag]}\n" != first.out
    third = mlinfer("push")
    assert third.out == second.out
    assert len(cloud.engine.pushes) == 2


def test_a_tag_that_holds_something_else(mlinfer: MlInfer, cloud: Cloud) -> None:
    """If our tag has an image that Lambda would not accept, it stays, and the new image gets another tag."""
    cloud.registry.put_image(AMD64, tag=HASH, media_type=OCI, layers=(OCI_ZSTD,))
    run = mlinfer("push")
    assert run.code == 0, run.err
    assert cloud.engine.pushes[0][1] == f"{HASH}-{cloud.engine.id[7:19]}"


@pytest.mark.parametrize("known", ["manifest", "index"])
def test_containerds_image_store(mlinfer: MlInfer, cloud: Cloud, known: str) -> None:
    """An image whose id is the digest of its manifest or index is found by that too."""
    digest = cloud.registry.put_image(AMD64, tag=HASH)
    if known == "index":
        entries = [{"digest": digest, "platform": {"architecture": "amd64", "os": "linux"}}]
        cloud.engine.id = cloud.registry.put({"manifests": entries}, OCI_INDEX, HASH)
    else:
        cloud.engine.id = digest
    run = mlinfer("push")
    assert run.out == f"{cloud.registry.host}/{NAME}@{digest}\n", run.err
    assert cloud.engine.pushes == []


def test_no_trace_in_the_engine(mlinfer: MlInfer, cloud: Cloud) -> None:
    """The ECR name is removed from the Engine's image again, also after a failed push."""
    removed = f"DELETE /images/{cloud.registry.host}/{NAME}:{HASH}"
    cloud.engine.push = lambda *_: error_report("EOF")
    assert mlinfer("push").code == 4
    assert cloud.engine.requests[-1] == removed


def read_terminal(leader: int) -> str:
    """Return all that was written to the other end of a pseudo-terminal, which is closed."""
    drawn = b""
    with open(leader, "rb", buffering=0) as terminal, suppress(OSError):  # Linux: EIO at the end
        while piece := terminal.read(4096):
            drawn += piece
    return drawn.decode()


@pytest.mark.slow
def test_a_bar_for_each_layer(cloud: Cloud, tmp_path: Path) -> None:
    """In a terminal, each layer has a progress bar."""
    assert cloud.engine.pushes == []
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "mlinfer", "push"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    subprocess.run(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=follower, check=True)
    os.close(follower)
    drawn = read_terminal(leader)
    assert "c9a1d2b3e4f5" in drawn
    assert "2.0/2.0 kB" in drawn
    assert "5f70bf18a086" not in drawn


# The repository


def test_a_new_repository(mlinfer: MlInfer, cloud: Cloud) -> None:
    """A new repository has immutable tags, scan on push and the project's tag."""
    assert mlinfer("push").code == 0
    assert cloud.repository["imageTagMutability"] == "IMMUTABLE"
    assert cloud.repository["imageScanningConfiguration"] == {"scanOnPush": True}
    tags = cloud.moto.list_tags_for_resource(resourceArn=cloud.repository["repositoryArn"])["tags"]
    assert tags == [{"Key": "mlinfer:project", "Value": "shop"}]


def test_the_lifecycle_spares_every_tag(mlinfer: MlInfer, cloud: Cloud) -> None:
    """The lifecycle policy selects no tagged image, because a function may use it."""
    assert mlinfer("push").code == 0
    assert [rule["selection"]["tagStatus"] for rule in cloud.lifecycle["rules"]] == ["untagged"]
    assert cloud.lifecycle["rules"][0]["selection"]["countType"] == "sinceImagePushed"
    assert cloud.lifecycle["rules"][0]["selection"]["countNumber"] >= 1


def test_only_lambda_may_pull_and_for_this_function(mlinfer: MlInfer, cloud: Cloud) -> None:
    """The repository's policy is one statement: Lambda may pull the image for the project's function."""
    assert mlinfer("push").code == 0
    source = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:mlinfer-shop"
    assert cloud.policy["Statement"] == [
        {
            "Sid": "MlinferLambdaPull",
            "Effect": "Allow",
            "Principal": {"Service": "lambda.amazonaws.com"},
            "Action": ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            "Condition": {"StringLike": {"aws:sourceArn": [source, f"{source}:*"]}},
        }
    ]


@pytest.mark.slow
def test_drift_is_repaired(mlinfer: MlInfer, cloud: Cloud) -> None:
    """Each setting that differs from a new repository's is restored, and only that."""
    assert mlinfer("push").code == 0
    cloud.moto.put_image_tag_mutability(repositoryName=NAME, imageTagMutability="MUTABLE")
    cloud.moto.put_image_scanning_configuration(repositoryName=NAME, imageScanningConfiguration={"scanOnPush": False})
    cloud.moto.delete_lifecycle_policy(repositoryName=NAME)
    cloud.api.requests.clear()
    outcomes = json.loads(mlinfer("push", "--json").out)["repository"]
    assert (outcomes["repository"], outcomes["lifecycle"], outcomes["policy"]) == ("changed", "created", "unchanged")
    written = {"PutImageTagMutability", "PutImageScanningConfiguration", "PutLifecyclePolicy"}
    assert set(cloud.api.operations) - READS == written
    assert cloud.repository["imageTagMutability"] == "IMMUTABLE"
    assert cloud.repository["imageScanningConfiguration"] == {"scanOnPush": True}


def test_a_foreign_repository_is_rejected(mlinfer: MlInfer, cloud: Cloud) -> None:
    """A repository without the project's tag is refused: `destroy` would delete it."""
    cloud.moto.create_repository(repositoryName=NAME)
    cloud.api.requests.clear()
    run = mlinfer("push", "--json")
    assert (run.code, json.loads(run.out)["error"]["code"]) == (4, "not_ours")
    assert set(cloud.api.operations) <= READS


def test_foreign_settings_are_kept(mlinfer: MlInfer, cloud: Cloud) -> None:
    """Foreign statements stay next to ours; a foreign lifecycle policy stays, with a note."""
    cloud.moto.create_repository(
        repositoryName=NAME, tags=[{"Key": "mlinfer:project", "Value": NAME.removeprefix("mlinfer/")}]
    )
    theirs = {
        "Sid": "LambdaECRImageRetrievalPolicy",
        "Effect": "Allow",
        "Principal": {"Service": "lambda.amazonaws.com"},
    }
    theirs |= {"Action": "ecr:BatchGetImage"}
    text = json.dumps({"Version": "2008-10-17", "Statement": theirs})
    cloud.moto.set_repository_policy(repositoryName=NAME, policyText=text)
    rule = {"rulePriority": 7, "selection": {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 900}}
    rules = {"rules": [rule | {"action": {"type": "expire"}}]}
    cloud.moto.put_lifecycle_policy(repositoryName=NAME, lifecyclePolicyText=json.dumps(rules))
    run = mlinfer("push")
    assert run.code == 0, run.err
    assert cloud.lifecycle == rules
    assert "is kept" in run.err
    assert cloud.policy["Version"] == "2008-10-17"
    assert [statement["Sid"] for statement in cloud.policy["Statement"]] == [theirs["Sid"], "MlinferLambdaPull"]


@pytest.mark.slow
def test_another_functions_statement_is_replaced(mlinfer: MlInfer, cloud: Cloud) -> None:
    """There is one statement of ours, whatever it said before; the order of its lists does not matter."""
    assert mlinfer("push").code == 0
    changed = cloud.policy
    changed["Statement"][0]["Action"].reverse()
    cloud.moto.set_repository_policy(repositoryName=NAME, policyText=json.dumps(changed))
    assert json.loads(mlinfer("push", "--json").out)["repository"]["policy"] == "unchanged"
    changed["Statement"][0]["Condition"] = {}
    cloud.moto.set_repository_policy(repositoryName=NAME, policyText=json.dumps(changed))
    assert json.loads(mlinfer("push", "--json").out)["repository"]["policy"] == "changed"
    assert len(cloud.policy["Statement"]) == 1
    assert "StringLike" in cloud.policy["Statement"][0]["Condition"]


@pytest.mark.slow
def test_two_runs_at_once_create_one_repository(mlinfer: MlInfer, cloud: Cloud) -> None:
    """A repository that another run creates at the same time is used."""

    def race(request: Request, forward: Forward) -> Answer:
        forward(request)
        return forward(request)

    cloud.api.fail("CreateRepository", race, times=1)
    run = mlinfer("push")
    assert run.code == 0, run.err


# What lies there then


def index_of(*entries: tuple[str, str, str]) -> dict[str, Any]:
    """Return an index of (digest, os, architecture)."""
    listed = [{"digest": digest, "platform": {"os": os, "architecture": arch}} for digest, os, arch in entries]
    return {"schemaVersion": 2, "manifests": listed}


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST])
def test_an_index_is_resolved(mlinfer: MlInfer, cloud: Cloud, media_type: str) -> None:
    """From an index, Lambda gets the image for its architecture, not an attestation or another image."""
    arm = cloud.registry.put_image({"architecture": "arm64", "os": "linux"}, media_type=OCI, layers=(OCI_GZIP,))
    wanted = cloud.registry.put_image(AMD64, media_type=OCI, layers=(OCI_GZIP, OCI_GZIP))
    proof = cloud.registry.put_image({}, media_type=OCI, layers=("application/vnd.in-toto+json",))
    index = index_of((proof, "unknown", "unknown"), (arm, "linux", "arm64"), (wanted, "linux", "amd64"))
    cloud.engine.push = lambda tag, _: success(cloud.registry.put(index, media_type, tag))
    run = mlinfer("push")
    assert run.out == f"{cloud.registry.host}/{NAME}@{wanted}\n", run.err


def test_an_index_without_the_architecture(mlinfer: MlInfer, cloud: Cloud) -> None:
    """An index without an image for the architecture is refused; the error lists what it has."""
    arm = cloud.registry.put_image({"architecture": "arm64", "os": "linux"}, media_type=OCI, layers=(OCI_GZIP,))
    index = index_of((arm, "linux", "arm64"), (arm, "unknown", "unknown"))
    cloud.engine.push = lambda tag, _: success(cloud.registry.put(index, OCI_INDEX, tag))
    run = mlinfer("push", "--json")
    assert (run.code, error_of(run)["code"]) == (5, "wrong_architecture")
    assert "found: arm64" in error_of(run)["message"]


@pytest.mark.parametrize(
    ("config", "media_type", "layers", "code"),
    [
        ({"architecture": "arm64", "os": "linux"}, DOCKER, (GZIP,), "wrong_architecture"),
        ({"architecture": "amd64", "os": "windows"}, DOCKER, (GZIP,), "wrong_architecture"),
        (AMD64, OCI, (OCI_GZIP, OCI_ZSTD), "unsupported_layer"),
        (AMD64, "application/vnd.docker.distribution.manifest.v1+prettyjws", (GZIP,), "unsupported_manifest"),
        (AMD64, "", (GZIP,), "unsupported_manifest"),
    ],
)
def test_images_that_lambda_rejects(
    mlinfer: MlInfer, cloud: Cloud, config: dict[str, Any], media_type: str, layers: tuple[str, ...], code: str
) -> None:
    """After the push, an image for another architecture, zstd layers and other manifests exit with 5."""
    image = {"media_type": media_type, "layers": layers}
    cloud.engine.push = lambda tag, _: success(cloud.registry.put_image(config, tag=tag, **image))  # type: ignore[arg-type]
    run = mlinfer("push", "--json")
    assert (run.code, error_of(run)["code"]) == (5, code), run.err
    assert error_of(run)["hint"]


def test_a_manifest_of_nothing(mlinfer: MlInfer, cloud: Cloud) -> None:
    """A manifest without an image is an error, not a crash."""
    cloud.engine.push = lambda tag, _: success(cloud.registry.put({"mediaType": OCI, "layers": 1}, OCI, tag))
    run = mlinfer("push", "--json")
    assert (run.code, error_of(run)["code"]) == (5, "unsupported_manifest")


@pytest.mark.parametrize("arch", ["x86_64", "arm64"])
def test_arm64_is_arm64_everywhere(mlinfer: MlInfer, cloud: Cloud, arch: str) -> None:
    """With arm64, the image must be arm64 in the Engine and in the registry."""
    config = {"architecture": "arm64", "os": "linux"}
    cloud.engine.id, cloud.engine.architecture = cloud.registry.put(config), "arm64"
    cloud.engine.push = lambda tag, _: success(cloud.registry.put_image(config, tag=tag))
    run = mlinfer("push", "--arch", arch)
    assert run.code == (0 if arch == "arm64" else 5), run.err
    assert bool(cloud.engine.pushes) == (arch == "arm64")


def test_too_large_for_lambda(mlinfer: MlInfer, cloud: Cloud) -> None:
    """An image over 10 GB is refused before anything is created or sent."""
    cloud.engine.layer_bytes = 10 * 2**30 + 1
    run = mlinfer("push", "--json")
    assert (run.code, error_of(run)["code"]) == (2, "image_too_large")
    assert cloud.api.requests == []
    assert cloud.engine.pushes == []


def test_a_registry_that_lost_it(mlinfer: MlInfer, cloud: Cloud) -> None:
    """A push counts only if the registry has the image."""
    cloud.engine.push = lambda *_: success("sha256:" + "0" * 64)
    run = mlinfer("push", "--json")
    assert (run.code, error_of(run)["code"]) == (4, "not_confirmed")


def test_a_registry_that_gives_something_else(mlinfer: MlInfer, cloud: Cloud) -> None:
    """Content that does not match its digest is an error."""

    def push(tag: str, _: str) -> list[dict[str, Any]]:
        digest = cloud.registry.put_image(AMD64, tag=tag)
        cloud.registry.content[digest] = (DOCKER, b"{}")
        return success(digest)

    cloud.engine.push = push
    run = mlinfer("push", "--json")
    assert (run.code, error_of(run)["code"]) == (4, "not_confirmed")


# What goes wrong on the way


def test_an_engines_error_without_the_old_field(mlinfer: MlInfer, cloud: Cloud) -> None:
    """A failed push that only errorDetail reports is a failure."""
    cloud.engine.push = lambda *_: [{"status": "The push refers to repository"}, {"errorDetail": {"message": "EOF"}}]
    run = mlinfer("push", "--json")
    assert (run.code, error_of(run)["code"]) == (4, "connection_failed")


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("denied: requested access to the resource is denied", "access_denied"),
        (f"denied: User: arn:aws:iam::{ACCOUNT}:user/eve is not authorized to perform: ecr:PutImage", "access_denied"),
        ("no basic auth credentials", "registry_login"),
        ("unauthorized: authentication required", "registry_login"),
        (f"name unknown: The repository with name '{NAME}' does not exist in the registry", "no_repository"),
        (
            f"tag invalid: The image tag 'x' already exists in the '{NAME}' repository and cannot be overwritten "
            "because the repository is immutable.",
            "tag_taken",
        ),
        ("toomanyrequests: Rate exceeded", "throttled"),
        ('Get "https://r/v2/": dial tcp: lookup r: no such host', "connection_failed"),
        ('Put "https://r/v2/": write tcp 10.0.0.1:1->10.0.0.2:443: write: connection reset by peer', "connection_failed"),
        ("unexpected EOF", "connection_failed"),
        ('Get "https://r/v2/": x509: certificate signed by unknown authority', "connection_failed"),
        ("received unexpected HTTP status: 500 Internal Server Error", "service_failed"),
        ("something new", "push_failed"),
    ],
)  # fmt: skip
def test_the_engines_errors(mlinfer: MlInfer, cloud: Cloud, said: str, code: str) -> None:
    """Each error in the Engine's reports is an error with its reason and exit code 4."""
    cloud.engine.push = lambda *_: error_report(said)
    run = mlinfer("push", "--json")
    assert (run.code, error_of(run)["code"]) == (4, code)
    assert said in error_of(run)["message"]
    assert len(cloud.engine.pushes) == 1


def test_a_full_disk(mlinfer: MlInfer, cloud: Cloud) -> None:
    """A full disk is a local problem, exit code 3."""
    cloud.engine.push = lambda *_: error_report("write /var/lib/docker/tmp/x: no space left on device")
    run = mlinfer("push", "--json")
    assert (run.code, error_of(run)["code"]) == (3, "disk_full")


EXPIRED = "denied: Your authorization token has expired. Reauthenticate and try again."


def test_a_token_that_expires(mlinfer: MlInfer, cloud: Cloud) -> None:
    """If the token expires during the push, the push continues with a new one."""

    def push(tag: str, password: str) -> list[dict[str, Any]]:
        if password == TOKEN:
            cloud.registry.password = SECOND_TOKEN
            return error_report(EXPIRED)
        return success(cloud.registry.put_image(AMD64, tag=tag))

    cloud.engine.push = push
    run = mlinfer("push")
    assert run.code == 0, run.err
    assert [credentials["password"] for _, _, credentials in cloud.engine.pushes] == [TOKEN, SECOND_TOKEN]


def test_a_token_that_expires_twice(mlinfer: MlInfer, cloud: Cloud) -> None:
    """A second new token is not requested."""
    cloud.engine.push = lambda *_: error_report(EXPIRED)
    run = mlinfer("push", "--json")
    assert (run.code, error_of(run)["code"]) == (4, "expired_token")
    assert len(cloud.engine.pushes) == 2


@pytest.mark.slow
def test_the_token_goes_to_the_engine_alone(
    mlinfer: MlInfer, cloud: Cloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The token goes only to the Engine: no keychain, file, message or traceback gets it."""
    folder = tmp_path / "docker"
    folder.mkdir()
    settings = json.dumps({"credsStore": "a-helper-that-is-not-there"})
    (folder / "config.json").write_text(settings)
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    assert mlinfer("push").code == 0
    assert cloud.engine.pushes[0][2] == {"username": "AWS", "password": TOKEN}
    cloud.engine.id = "sha256:" + "7" * 64
    cloud.engine.push = lambda *_: error_report("denied: no")
    run = mlinfer("push", "--verbose")
    assert run.code == 4
    assert "Traceback" in run.err
    for secret in (TOKEN, encoded(f"AWS:{TOKEN}"), SECRET):
        assert secret not in run.out + run.err
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert (folder / "config.json").read_text() == settings


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (refused(401, "UNAUTHORIZED", "authentication required"), "access_denied"),
        (refused(403, "DENIED", "no"), "access_denied"),
        (Answer(400, {}, b"<html>"), "registry_failed"),
        (Answer(200, {"content-type": "text/html"}, b"<html>"), "registry_failed"),
    ],
)
def test_a_registry_that_cannot_be_read(mlinfer: MlInfer, cloud: Cloud, answer: Answer, code: str) -> None:
    """An error of the registry on reading exits with 4."""
    cloud.registry.faults = [answer]
    run = mlinfer("push", "--json")
    assert (run.code, error_of(run)["code"]) == (4, code)
    assert cloud.engine.pushes == []


def test_a_registry_with_a_temporary_error(mlinfer: MlInfer, cloud: Cloud) -> None:
    """A temporary failure or a broken connection is retried."""
    cloud.registry.faults = [refused(503, "UNAVAILABLE", "later"), None]
    run = mlinfer("push")
    assert run.code == 0, run.err


def test_a_registry_that_is_gone(mlinfer: MlInfer, cloud: Cloud) -> None:
    """Without a connection to the registry, the error names its host."""
    cloud.registry.faults = [None] * 10
    run = mlinfer("push", "--json")
    assert (run.code, error_of(run)["code"]) == (4, "connection_failed")
    assert cloud.registry.host in error_of(run)["message"]


@pytest.mark.parametrize(
    "operation", ["CreateRepository", "GetLifecyclePolicy", "SetRepositoryPolicy", "GetAuthorizationToken"]
)
def test_a_permission_that_is_missing(mlinfer: MlInfer, cloud: Cloud, operation: str) -> None:
    """The error names the permissions that the step needs."""
    said = {"__type": "AccessDeniedException", "message": f"not authorized to perform: ecr:{operation}"}
    cloud.api.fail(operation, lambda *_: Answer(400, {}, json.dumps(said).encode()))
    run = mlinfer("push", "--json")
    assert (run.code, error_of(run)["code"]) == (4, "access_denied")
    assert f"ecr:{operation}" in error_of(run)["hint"]


@pytest.mark.parametrize("operation", ["CreateRepository", "PutLifecyclePolicy", "SetRepositoryPolicy"])
@pytest.mark.slow
def test_an_interrupted_push_is_finished_by_the_next(mlinfer: MlInfer, cloud: Cloud, operation: str) -> None:
    """If creating the repository was interrupted, the next run completes it."""
    cloud.api.fail(operation, lambda *_: None, times=2)
    assert mlinfer("push").code == 4
    run = mlinfer("push")
    assert run.code == 0, run.err
    assert cloud.repository["imageTagMutability"] == "IMMUTABLE"
    assert cloud.lifecycle["rules"]
    assert cloud.policy["Statement"]


def test_without_a_region(mlinfer: MlInfer, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a Region, only the Engine is called, and the error says how to set one."""
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    run = mlinfer("push", "--builder", "docker", "--json")
    assert (run.code, error_of(run)["code"]) == (3, "no_region")
    assert set(cloud.engine.requests) == {"GET /version", "GET /_ping"}
