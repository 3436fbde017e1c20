"""The complete output of each command as a golden text in tests/data/golden_text.

Write them again after a change of the output (`pytest --write-golden -k golden`), and review the diff.
Other tests check codes, exit statuses and facts, not sentences.
"""

from __future__ import annotations

import html
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from devtools.pictures import draw, run_in_a_terminal

from ..conftest import OTHER_IMAGE, ROOT, Run
from ..foreign import colour_model, labels_file
from ..servers.aws import ACCOUNT, REGION

MlInfer = Callable[..., Run]
Golden = Callable[..., None]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a wide screen, so that lines do not wrap."""
    monkeypatch.setenv("COLUMNS", "200")


def test_init(mlinfer: MlInfer, golden_text: Golden) -> None:
    """init names the file that it created."""
    golden_text("init", mlinfer("init"))


def test_predict(mlinfer: MlInfer, golden_text: Golden, tiny_model: Path, red: Path) -> None:
    """predict shows the classes and their scores."""
    golden_text("predict", mlinfer("predict", red, "--model", tiny_model))


def test_export(mlinfer: MlInfer, golden_text: Golden) -> None:
    """export shows the created file and the result of its verification."""
    run = mlinfer("export", colour_model(Path("net.onnx")), "--labels", labels_file(), "--preprocess", "none")
    golden_text("export", run)


def test_inspect(mlinfer: MlInfer, golden_text: Golden, tiny_model: Path) -> None:
    """inspect shows the metadata of a model file."""
    golden_text("inspect", mlinfer("inspect", tiny_model))


def test_bench(mlinfer: MlInfer, golden_text: Golden, tiny_model: Path, red: Path) -> None:
    """bench shows its table and the cost of a million requests."""
    run = mlinfer("bench", red, "--model", tiny_model, "--cold", "1", "--warm", "3")
    golden_text("bench", run, figures=True)


def test_build_without_an_engine(mlinfer: MlInfer, golden_text: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    """build reports that no Docker Engine answers, and what to do."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    golden_text("build-without-an-engine", mlinfer("build", "--builder", "docker"))


@pytest.mark.usefixtures("cloud")
def test_upload(mlinfer: MlInfer, golden_text: Golden, tiny_model: Path) -> None:
    """upload shows where the model is stored."""
    golden_text("upload", mlinfer("upload", tiny_model, "--bucket", "cloud-models", "--create-bucket"))


@pytest.mark.usefixtures("cloud")
def test_the_life_of_a_function(
    mlinfer: MlInfer, golden_text: Golden, deploy_arguments: list[str], past: Callable[[str], Any]
) -> None:
    """deploy (planned, new, unchanged), status, rollback, logs and destroy."""
    golden_text("deploy-dry-run", mlinfer("deploy", *deploy_arguments, "--dry-run"))
    golden_text("deploy", mlinfer("deploy", *deploy_arguments))
    golden_text("deploy-again", mlinfer("deploy", *deploy_arguments))
    changed = [*deploy_arguments[:-1], OTHER_IMAGE]
    assert mlinfer("deploy", *changed).code == 0
    golden_text("status", mlinfer("status"))
    golden_text("rollback", mlinfer("rollback", "1"))
    logs = past("logs")
    group = {"logGroupName": "/aws/lambda/mlinfer-cats", "logStreamName": "instance"}
    logs.create_log_stream(**group)
    logs.put_log_events(**group, logEvents=[{"timestamp": int(time.time() * 1000), "message": "the function's line"}])
    golden_text("logs", mlinfer("logs"))
    golden_text("destroy", mlinfer("destroy", "--yes"))


@pytest.mark.slow
@pytest.mark.usefixtures("cloud")
@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("predict", "mlinfer predict examples/cat.jpg"),
        ("deploy", "mlinfer deploy --create-bucket --image $IMAGE"),
    ],
)
def test_the_pictures_of_the_documents(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, name: str, command: str
) -> None:
    """The pictures show what the commands write to a terminal today, but for times."""
    monkeypatch.setenv("MLINFER_BUCKET", "my-models")
    image = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/mlinfer/cats@sha256:{'5f' * 32}"
    folder = ROOT if name == "predict" else Path()
    drawn = draw(name, command, run_in_a_terminal(command.replace("$IMAGE", image), folder))
    picture = ROOT / "docs" / "pictures" / f"{name}.svg"
    if request.config.getoption("--write-golden"):
        picture.write_text(drawn)
    assert words_of(drawn) == words_of(picture.read_text()), f"if this is meant: pytest --write-golden {__file__}"


def words_of(picture: str) -> str:
    """Return what a picture shows, without times."""
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", picture)
    return re.sub(r"\d+(\.\d+)? (ms|s)\b", "TIME", " ".join(html.unescape(" ".join(texts)).split()))
