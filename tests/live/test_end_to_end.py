"""The complete workflow: an emulated AWS whose Lambda runs the pushed image in real containers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest

from .. import models
from ..conftest import CAT, Run
from ..pictures import encoded, plain
from .local import Local

MlInfer = Callable[..., Run]
BUCKET = "end-to-end"


def answer(mlinfer: MlInfer, picture: Path, *more: str) -> list[Any]:
    """Return the model and the predictions of one image."""
    run = mlinfer("predict", picture, "--json", *more)
    assert run.code == 0, run.err
    document = json.loads(run.out)
    return [document["model"], document["predictions"]]


def same(there: list[Any], here: list[Any]) -> bool:
    """Tell whether two answers have the same model, classes and, within 1e-5, scores."""
    (model, predictions), (own, expected) = there, here
    return bool(
        model == own
        and [p["label"] for p in predictions] == [p["label"] for p in expected]
        and all(abs(p["score"] - q["score"]) <= 1e-5 for p, q in zip(predictions, expected, strict=True))
    )


def left(project: str) -> dict[str, list[str]]:
    """Return the names of the project's resources in AWS."""
    function = f"mlinfer-{project}"
    session = boto3.Session()  # not the default one, which keeps the keys of an earlier test
    clients = {name: session.client(name) for name in ("lambda", "iam", "logs", "ecr", "s3")}
    found = {
        "functions": [f["FunctionName"] for f in clients["lambda"].list_functions()["Functions"]],
        "roles": [role["RoleName"] for role in clients["iam"].list_roles()["Roles"] if role["RoleName"] == function],
        "logs": [g["logGroupName"] for g in clients["logs"].describe_log_groups()["logGroups"] if function in str(g)],
        "repositories": [r["repositoryName"] for r in clients["ecr"].describe_repositories()["repositories"]],
        "buckets": [bucket["Name"] for bucket in clients["s3"].list_buckets()["Buckets"]],
    }
    for client in clients.values():
        client.close()
    return {kind: names for kind, names in found.items() if names}


@pytest.mark.usefixtures("ministack")
def test_the_whole_way(mlinfer: MlInfer, local: Local) -> None:
    """From init to destroy, with two models and a rollback: each answer equals the embedded one."""
    red = Path("red.png")
    red.write_bytes(encoded(plain((255, 0, 0)), "PNG"))
    assert mlinfer("init").code == 0
    Path("mlinfer.toml").write_text(f'bucket = "{BUCKET}"\nmemory = 1024\n')
    assert mlinfer("upload", "--create-bucket").code == 0
    assert mlinfer("build").code == 0
    pushed = mlinfer("push")
    assert pushed.code == 0, pushed.err
    assert "@sha256:" in pushed.out

    plan = mlinfer("deploy", "--dry-run")
    assert plan.code == 0, plan.err
    assert list(left(local.project)) == ["repositories", "buckets"]
    first = mlinfer("deploy", "--json")
    assert first.code == 0, first.err
    made = json.loads(first.out)
    assert (made["version"], made["image"]) == ("1", pushed.out.strip())
    starter = answer(mlinfer, CAT)
    assert same(answer(mlinfer, CAT, "--target", "aws"), starter)
    again = json.loads(mlinfer("deploy", "--json").out)
    assert {step["outcome"] for step in again["steps"]} <= {"unchanged", "skipped"}
    assert json.loads(mlinfer("status", "--json").out)["as_here"] is True
    other_image = json.loads(
        mlinfer("status", "--image", f"{made['image'].partition('@')[0]}@sha256:{'0' * 64}", "--json").out
    )
    assert other_image["as_here"] is False

    other = models.mean_colour(Path("other.onnx"))
    # In the image, for ministack lets versions of one image share a container, and with it the environment.
    settings = f'bucket = "{BUCKET}"\nmemory = 1024\nmodel = "{other}"\nmodel_source = "image"\n'
    Path("mlinfer.toml").write_text(settings)
    second = mlinfer("deploy", "--json")
    assert second.code == 0, second.err
    assert json.loads(second.out)["version"] == "2"
    assert same(answer(mlinfer, red, "--target", "aws"), answer(mlinfer, red))
    status = json.loads(mlinfer("status", "--json").out)
    assert (status["live"], status["as_here"], status["image_compared"]) == ("2", True, True)
    assert str(json.loads(mlinfer("inspect", other, "--json").out)["sha256"]) in mlinfer("logs", "--since", "1h").out

    back = mlinfer("rollback")
    assert back.code == 0, back.err
    assert mlinfer("predict", CAT, "--target", "aws").code == 5  # mlinfer.toml names the other model
    Path("mlinfer.toml").write_text(f'bucket = "{BUCKET}"\nmemory = 1024\n')
    assert same(answer(mlinfer, CAT, "--target", "aws"), starter)

    large = Path("large.bmp")
    large.write_bytes(encoded(plain((0, 200, 0)).resize((1800, 1300)), "BMP"))
    assert large.stat().st_size > 6 * 2**20
    assert same(answer(mlinfer, large, "--target", "aws"), answer(mlinfer, large, "--model", str(_starter())))

    gone = mlinfer("destroy", "--yes")
    assert gone.code == 0, gone.err
    assert left(local.project) == {}
    assert mlinfer("destroy", "--yes").code == 0
    assert mlinfer("predict", CAT, "--target", "aws").code == 4


def _starter() -> Path:
    from mlinfer.model.path import STARTER

    return STARTER
