"""The configuration: flags override the environment, the environment overrides the file."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from mlinfer.config import with_value
from mlinfer.errors import UsageError

from .conftest import Run

MlInfer = Callable[..., Run]


def origins(mlinfer: MlInfer) -> dict[str, dict[str, object]]:
    """Return the document of `inspect --config --json`."""
    run = mlinfer("inspect", "--config", "--json")
    assert run.code == 0
    document: dict[str, dict[str, object]] = json.loads(run.out)
    return document


def test_defaults(mlinfer: MlInfer) -> None:
    """Without any source, each value is the default and says so."""
    values = origins(mlinfer)
    assert values["target"] == {"value": "embedded", "origin": "default"}
    assert values["top_k"] == {"value": 5, "origin": "default"}
    assert values["max_pixels"]["value"] == 50_000_000


def test_environment_overrides_the_file(mlinfer: MlInfer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file overrides the defaults, the environment the file."""
    Path("mlinfer.toml").write_text('top_k = 3\nmodel = "m.onnx"\n')
    monkeypatch.setenv("MLINFER_TOP_K", "4")
    values = origins(mlinfer)
    assert values["model"] == {"value": "m.onnx", "origin": "mlinfer.toml"}
    assert values["top_k"] == {"value": 4, "origin": "MLINFER_TOP_K"}


@pytest.mark.parametrize("name", ["cats-", "-cats", "my--cats", "Cats", "my_cats", "c" * 33])
def test_a_name_that_ecr_refuses(mlinfer: MlInfer, name: str) -> None:
    """A project name that ECR or Docker refuses is refused at once, wherever it comes from."""
    Path("mlinfer.toml").write_text(f'project = "{name}"\n')
    run = mlinfer("inspect", "--config")
    assert run.code == 2
    assert "single hyphens" in run.err
    Path("mlinfer.toml").unlink()
    assert mlinfer("status", "--project", name, "--region", "eu-central-1").code == 2


@pytest.mark.parametrize("name", ["cats", "my-cats", "2-big-cats", "c" * 32])
def test_a_name_that_ecr_accepts(mlinfer: MlInfer, name: str) -> None:
    """A name may have letters, digits and single hyphens between them."""
    Path("mlinfer.toml").write_text(f'project = "{name}"\n')
    assert origins(mlinfer)["project"]["value"] == name


def test_flags_override_the_environment(
    mlinfer: MlInfer, monkeypatch: pytest.MonkeyPatch, tiny_model: Path, red: Path
) -> None:
    """A flag overrides the environment."""
    monkeypatch.setenv("MLINFER_TOP_K", "4")
    run = mlinfer("predict", red, "--model", tiny_model, "--top-k", "2", "--json")
    assert len(json.loads(run.out)["predictions"]) == 2


def test_configuration_as_a_table(mlinfer: MlInfer) -> None:
    """Without --json, the configuration is a table of key, value and origin."""
    Path("mlinfer.toml").write_text("threads = 1\n")
    run = mlinfer("inspect", "--config")
    assert [line.split() for line in run.out.splitlines() if "threads" in line] == [["threads", "1", "mlinfer.toml"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("topk = 3", "mlinfer.toml has an unknown key, 'topk'"),
        ("top_k = 'three'", "top_k from mlinfer.toml is 'three', not a whole number from 1"),
        ("top_k = 0", "top_k from mlinfer.toml is 0"),
        ("top_k = true", "top_k from mlinfer.toml is True"),
        ("model = 3", "model from mlinfer.toml is 3, not a string"),
        ("target = 'moon'", "target from mlinfer.toml is 'moon', not one of: embedded"),
        ("top_k = = 3", "mlinfer.toml is not valid TOML"),
    ],
)
def test_mistakes_in_the_file(mlinfer: MlInfer, content: str, message: str) -> None:
    """A mistake in the file exits with 2, and the error names file, key and value."""
    Path("mlinfer.toml").write_text(content)
    run = mlinfer("inspect", "--config")
    assert run.code == 2
    assert run.err.startswith(f"Error: {message}")
    assert run.out == ""


def test_unknown_key_names_the_nearest(mlinfer: MlInfer) -> None:
    """The error for an unknown key names the nearest known one."""
    Path("mlinfer.toml").write_text("max_pixel = 3")
    assert "Did you mean max_pixels?" in mlinfer("inspect", "--config").err


def test_unknown_variables_are_named_once(mlinfer: MlInfer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that mlinfer does not read gives one warning with the nearest key's variable."""
    of_the_handler = ("MLINFER_MODEL_URI", "MLINFER_MODEL_SHA256", "MLINFER_OUTPUT", "MLINFER_METRICS")
    for name in ("MLINFER_TOPK", "MLINFER_GIBBERISH", *of_the_handler, "MLINFER_REQUIRE_TORCH"):
        monkeypatch.setenv(name, "3")
    run = mlinfer("inspect", "--json")
    assert run.code == 0
    assert run.err.count("MLINFER_TOPK") == run.err.count("MLINFER_TOP_K") == run.err.count("MLINFER_GIBBERISH") == 1
    assert all(run.err.count(f"{name}.") == 1 for name in of_the_handler)
    assert "MLINFER_MODEL?" in run.err
    assert "MLINFER_REQUIRE_TORCH" not in run.err
    assert mlinfer("inspect", "--json", "--quiet").err == ""


def test_the_starter_by_its_name(mlinfer: MlInfer, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`starter` is the built-in model everywhere; ./starter is a file."""
    Path("starter").write_bytes(tiny_model.read_bytes())
    assert json.loads(mlinfer("inspect", "starter", "--json").out)["name"] == "starter"
    assert json.loads(mlinfer("inspect", "./starter", "--json").out)["name"] == "tiny"
    monkeypatch.setenv("MLINFER_MODEL", str(tiny_model))
    assert json.loads(mlinfer("inspect", "--json").out)["name"] == "tiny"
    assert json.loads(mlinfer("inspect", "starter", "--json").out)["name"] == "starter"


def test_the_largest_number(mlinfer: MlInfer) -> None:
    """The error for a number over the limit names the limit."""
    run = mlinfer("predict", "cat.jpg", "--top-k", "99999999999999999999")
    assert run.code == 2
    assert "2,147,483,647" in run.err


def test_limits(mlinfer: MlInfer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many threads, and a prefix too long for an S3 key, are refused."""
    for name, value in (("MLINFER_THREADS", "100000"), ("MLINFER_PREFIX", "a" * 1100)):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            run = mlinfer("predict", "cat.jpg", "--json")
            error = json.loads(run.out)["error"]
            assert (run.code, error["code"]) == (2, "invalid_value")
            assert name in error["message"]


def test_mistake_in_the_environment(mlinfer: MlInfer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error for a wrong variable names it."""
    monkeypatch.setenv("MLINFER_TOP_K", "many")
    run = mlinfer("inspect", "--config", "--json")
    assert run.code == 2
    error = json.loads(run.out)["error"]
    assert (error["code"], error["hint"]) == ("invalid_value", "")
    assert "MLINFER_TOP_K" in error["message"]
    assert "'many'" in error["message"]


def test_init_writes_a_file_that_changes_nothing(mlinfer: MlInfer) -> None:
    """`init` writes TOML that sets nothing; with all settings uncommented, it is still valid."""
    assert mlinfer("init").code == 0
    text = Path("mlinfer.toml").read_text()
    assert tomllib.loads(text) == {}
    assert {v["origin"] for v in origins(mlinfer).values()} == {"default"}
    lines = [line.removeprefix("# ") for line in text.splitlines() if " = " in line]
    Path("mlinfer.toml").write_text("\n".join(lines))
    assert {v["origin"] for v in origins(mlinfer).values()} == {"mlinfer.toml"}


def test_init_asks_for_what_deploy_needs(mlinfer: MlInfer) -> None:
    """In a terminal, `init` shows the Region, asks for the bucket and writes it to the file."""
    ours, theirs = pty.openpty()
    os.write(ours, b"our-models\n")
    environment = {**os.environ, "AWS_DEFAULT_REGION": "eu-north-1"}
    command = [sys.executable, "-m", "mlinfer", "init"]
    assert subprocess.run(command, stdin=theirs, stderr=theirs, env=environment).returncode == 0
    shown = os.read(ours, 4096).decode()
    os.close(theirs)
    os.close(ours)
    assert "eu-north-1" in shown
    assert "mlinfer deploy" in shown
    assert tomllib.loads(Path("mlinfer.toml").read_text()) == {"bucket": "our-models"}
    assert origins(mlinfer)["bucket"]["value"] == "our-models"


def test_init_again_changes_nothing(mlinfer: MlInfer) -> None:
    """A second `init` succeeds and says that nothing changed."""
    mlinfer("init")
    assert json.loads(mlinfer("init", "--json").out) == {"file": "mlinfer.toml", "outcome": "unchanged"}


def test_a_link_as_the_file(mlinfer: MlInfer) -> None:
    """`init` writes through a link and leaves files with temporary names alone; a dangling link is an error."""
    Path("dotfiles").mkdir()
    Path("mlinfer.toml").symlink_to("dotfiles/real.toml")
    run = mlinfer("inspect", "--config", "--json")
    assert (run.code, json.loads(run.out)["error"]["code"]) == (2, "config_unreadable")
    Path("dotfiles/real.toml").write_text("top_k = 3\n")
    Path(".mlinfer.toml.part").write_text("precious")
    assert mlinfer("init", "--yes").code == 0
    assert Path("mlinfer.toml").is_symlink()
    assert tomllib.loads(Path("dotfiles/real.toml").read_text()) == {}
    assert Path(".mlinfer.toml.part").read_text() == "precious"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_from_windows(mlinfer: MlInfer, encoding: str) -> None:
    """The file is read with a byte order mark, as UTF-16, and with Windows' line ends."""
    Path("mlinfer.toml").write_bytes("top_k = 3\r\nproject = 'cats'\r\n".encode(encoding))
    found = origins(mlinfer)
    assert (found["top_k"]["value"], found["project"]["value"]) == (3, "cats")


def test_a_pipe_as_the_file(mlinfer: MlInfer) -> None:
    """A pipe named mlinfer.toml is refused."""
    os.mkfifo("mlinfer.toml")
    for command in (("inspect", "--config"), ("init", "--yes")):
        run = mlinfer(*command, "--json")
        assert (run.code, json.loads(run.out)["error"]["code"]) == (2, "config_unreadable")


def test_init_keeps_an_edited_file(mlinfer: MlInfer) -> None:
    """`init` without a terminal keeps an edited file and names the flag that replaces it."""
    Path("mlinfer.toml").write_text("top_k = 3\n")
    run = mlinfer("init")
    assert run.code == 2
    assert "mlinfer init --yes" in run.err
    assert Path("mlinfer.toml").read_text() == "top_k = 3\n"
    assert mlinfer("init", "--yes").code == 0
    assert tomllib.loads(Path("mlinfer.toml").read_text()) == {}


def test_init_where_nothing_can_be_written(mlinfer: MlInfer, empty_folder: Path) -> None:
    """`init` in a deleted folder exits with 3 and the reason."""
    empty_folder.rmdir()
    run = mlinfer("init")
    assert run.code == 3
    assert "mlinfer.toml" in run.err


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "memory = 512\n"),
        ("top_k = 3", "top_k = 3\nmemory = 512\n"),
        ("memory=1_769# as ever\ntop_k = 3\n", "memory=512# as ever\ntop_k = 3\n"),
        ("# memory = 1769\n\ntop_k = 3\n", "# memory = 1769\nmemory = 512\n\ntop_k = 3\n"),
        ("top_k = 3\r\nmemory = 1769\r\n", "top_k = 3\r\nmemory = 512\r\n"),
    ],
)
def test_one_value_is_set(before: str, after: str) -> None:
    """Setting one number keeps every other character of the file."""
    assert with_value(before, "memory", 512) == after


def test_a_file_that_cannot_be_edited_safely() -> None:
    """If the edit would change the meaning, it is refused, and the hint has the line to write."""
    with pytest.raises(UsageError) as caught:
        with_value('project = """\nmemory = 5"""\n', "memory", 512)
    assert "memory = 512" in caught.value.hint
