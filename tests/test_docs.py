"""The documents are short and linked, match the code, and their examples run."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lambda_src.service import Service
from lambda_src.settings import Settings
from mlinfer.config import KEYS
from mlinfer.local.ports import find_free_port
from mlinfer.measure.prices import MB_PER_GB, read_prices
from mlinfer.model.path import STARTER
from mlinfer.names import Names

from . import models
from .conftest import CAT, ROOT, Run
from .servers.functions import serving

README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
DOCS = [README, *PAGES]
WRITTEN = [page for page in DOCS if "<!-- Generated" not in page.read_text()]  # by hand
EXAMPLES = [ROOT / "examples" / "github-actions.yml"]
PICTURES = sorted((ROOT / "docs" / "pictures").glob("*.svg"))
SOURCE = "\n".join(p.read_text() for p in [*ROOT.glob("mlinfer/**/*.py"), *ROOT.glob("lambda_src/**/*.py")])
OTHERS = {"--cpu"}  # options of the benchmarks
# Words in the form of a code that other programs and formats own.
FOREIGN = {"metadata_props", "weights_only", "vit_l_16", "id2label", "lambda_src"}


def by_name(page: Path) -> str:
    """Return the name of a page, for the test's id."""
    return page.stem


def words(text: str) -> int:
    """Count the words, including code and tables."""
    return len([word for word in text.split() if re.search(r"\w", word)])


def blocks(text: str, language: str) -> list[str]:
    """Return the code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    """Return a page without its code blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def spans(text: str) -> list[str]:
    """Return the code spans within the sentences and tables of a page."""
    return re.findall(r"`([^`\n]+)`", prose(text))


def slug(heading: str) -> str:
    """Return the anchor of a heading, as GitHub and Zensical make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("page", WRITTEN, ids=by_name)
def test_a_document_is_short(page: Path) -> None:
    """The README has fewer than 600 words, a page fewer than 900; generated pages may be longer."""
    assert words(page.read_text()) < (600 if page == README else 900)


def test_generated_pages_are_up_to_date() -> None:
    """The pages of commands and error codes match the code; otherwise run tools/generate_docs.py."""
    command = [sys.executable, str(ROOT / "tools" / "generate_docs.py"), "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("page", DOCS, ids=by_name)
def test_links_and_pictures_are_there(page: Path) -> None:
    """Each relative link leads to a file, and its anchor to a heading."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match("https?://", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.is_file(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", prose(path.read_text()), re.MULTILINE)
            assert anchor in [slug(heading) for heading in headings], target


def test_every_page_is_linked_and_in_the_navigation() -> None:
    """index.md and the site's navigation name every page."""
    linked = set(re.findall(r"\]\(([\w-]+\.md)", (ROOT / "docs" / "index.md").read_text()))
    navigation = set(re.findall(r'"([\w-]+\.md)"', (ROOT / "zensical.toml").read_text()))
    names = {page.name for page in PAGES}
    assert linked == names - {"index.md"}
    assert navigation == names


@pytest.mark.parametrize("picture", PICTURES, ids=by_name)
def test_a_picture_loads_nothing(picture: Path) -> None:
    """A picture is self-contained: it loads no font, style or image."""
    text = picture.read_text()
    assert "<svg" in text
    assert not re.search(r"@font-face|@import|url\((?!#)|<image|<script|<link", text)


def options_of(group: Any) -> dict[str, set[str]]:
    """Return the options of each command."""
    return {
        name: {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
        for name, command in group.commands.items()
    }


@pytest.fixture(scope="module")
def commands() -> dict[str, set[str]]:
    """Return the options of each command, from the program."""
    import typer

    from mlinfer.cli import application, register

    register("--help")
    return options_of(typer.main.get_command(application.app))


def test_every_command_is_documented(commands: dict[str, set[str]]) -> None:
    """The page of commands has a section for every command."""
    headings = re.findall(r"^## ([a-z-]+)$", (ROOT / "docs" / "commands.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(commands)


def called(text: str) -> Iterator[list[str]]:
    """Yield the words of each mlinfer call in a document."""
    console = [line[2:] for block in blocks(text, "console") for line in block.splitlines() if line.startswith("$ ")]
    yaml = [line for block in blocks(text, "yaml") or [text] for line in block.splitlines()]
    jobs = [line for line in yaml if re.match(r" +(- (run: )?|run: )?mlinfer ", line)]
    code = [span for span in spans(text) if span.startswith("mlinfer ")]
    for line in [*console, *jobs, *code]:
        for call in re.findall(r"(?:^|[ (])mlinfer ([a-z-][^|>;)]*)", line.partition(" #")[0]):
            yield shlex.split(call.rstrip('"'))


@pytest.mark.parametrize("page", [*WRITTEN, *EXAMPLES], ids=by_name)
def test_commands_and_options_exist(page: Path, commands: dict[str, set[str]]) -> None:
    """Each command and option in a document exists."""
    text = page.read_text()
    every = set.union(*commands.values()) | {"--version"}
    for command, *arguments in called(text):
        if command.startswith("-") or command == "COMMAND":
            assert command in every or command == "COMMAND", command
            continue
        assert command in commands, command
        for option in (a.partition("=")[0] for a in arguments if re.match("--?[a-z]", a)):
            assert option in commands[command], f"mlinfer {command} {option}"
    for span in spans(text):
        if named := re.match(r"--[a-z][a-z0-9-]+", span):
            assert named[0] in every | OTHERS, span


@pytest.mark.parametrize("page", WRITTEN, ids=by_name)
def test_names_are_those_of_the_code(page: Path) -> None:
    """Each error code, key and variable in a page exists in the source."""
    for span in spans(page.read_text()):
        if re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)+|MLINFER_[A-Z0-9_]+", span) and span not in FOREIGN:
            known = any(f"MLINFER_{key.name.upper()}" == span for key in KEYS)
            assert known or re.search(rf"\b{span}\b", SOURCE), span


def test_every_configuration_key_is_documented() -> None:
    """The table of keys has every key in the code's order, with variable and default."""
    text = (ROOT / "docs" / "configuration.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(MLINFER_\w+)` \| (.*?) \|", text, re.MULTILINE)
    assert [row[0] for row in rows] == [key.name for key in KEYS]
    for (name, variable, shown), key in zip(rows, KEYS, strict=True):
        assert variable == f"MLINFER_{name.upper()}"
        if key.default:
            assert shown.strip("`").replace(",", "") == str(key.default)


def test_every_answer_of_the_function_is_documented() -> None:
    """The table of the caller's errors has every status and code of the handler."""
    text = (ROOT / "docs" / "answers.md").read_text()
    documented = set(re.findall(r"^\| (4\d\d) \| `(\w+)` \|", text, re.MULTILINE))
    raised = set(re.findall(r'RequestError\(\s*(4\d\d),\s*"(\w+)"', SOURCE))
    assert len(raised) >= 10
    assert documented == raised


def test_every_error_code_is_documented() -> None:
    """Troubleshooting has every error code and every exit code."""
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    listed = set(re.findall(r"`(\w+)`", text))
    raised = set(re.findall(r'\b(?!Key)[A-Z]\w*Error\(\s*(?:\d+,\s*)?"([a-z]\w*)"', SOURCE))
    assert len(raised) > 100
    assert raised <= listed
    assert {"0", "1", "2", "3", "4", "5", "6", "130"} <= listed


@pytest.mark.parametrize("page", WRITTEN, ids=by_name)
def test_blocks_of_data_can_be_read(page: Path, mlinfer: Callable[..., Run]) -> None:
    """JSON and Python in a page parse, and its mlinfer.toml is accepted."""
    text = page.read_text()
    for block in blocks(text, "json"):
        json.loads(block)
    for block in blocks(text, "python"):
        compile(block, page.name, "exec")
    for block in blocks(text, "toml"):
        tomllib.loads(block)
        Path("mlinfer.toml").write_text(block)
        assert mlinfer("inspect", "--config").code == 0, block


def test_nothing_is_installed_by_the_name_mlinfer() -> None:
    """No document or example installs `mlinfer` by name from the package index, where it is not registered."""
    for path in [*WRITTEN, *EXAMPLES]:
        assert not re.search(r"""install (-\S+ )*['"]?mlinfer(?![\w/-])""", path.read_text()), path


def test_the_monthly_example_is_computed_with_the_tools_prices() -> None:
    """The cost page's figures follow from its assumptions and the price table."""
    text = (ROOT / "docs" / "costs.md").read_text()
    prices = read_prices()
    assert prices.date in text
    assert f"${prices.gb_second['x86_64']:.10f}" in text
    assert f"${prices.gb_second['arm64']:.10f}" in text
    assert f"${prices.request:.7f}" in text
    gb_seconds = 1e6 * (0.99 * 0.1 + 0.01 * 1) * 1769 / MB_PER_GB
    time = {arch: gb_seconds * price for arch, price in prices.gb_second.items()}
    storage, s3, logs = 0.21 * 0.10, 0.0118 * 0.023 + 1e4 * 4e-7, 1 * 0.50 + 1 * 14 / 30 * 0.03
    parts = {
        "Lambda, time": time["x86_64"],
        "Lambda, requests": 1e6 * prices.request,
        "ECR": storage,
        "Logs": logs,
        "**all**": time["x86_64"] + 1e6 * prices.request + storage + s3 + logs,
    }
    for part, dollars in parts.items():
        row = re.search(rf"^\| {re.escape(part)} \|.*\| \**\$([\d.]+)\** \|$", text, re.MULTILINE)
        assert row, part
        assert row[1] == f"{dollars:.2f}", part
    assert f"On arm64, the time costs ${time['arm64']:.2f} instead of ${time['x86_64']:.2f}" in text


def test_created_resources_have_their_names() -> None:
    """The cost page has the names of a project's resources."""
    names = Names("PROJECT")
    text = (ROOT / "docs" / "costs.md").read_text()
    for name in (names.function, names.log_group, names.image, names.staging_prefix, *names.tags):
        assert f"`{name}`" in text


def test_every_statement_of_the_deployers_policy_is_explained(mlinfer: Callable[..., Run]) -> None:
    """The permissions page explains each statement of the printed policy."""
    Path("mlinfer.toml").write_text('kms_key = "arn:aws:kms:eu-central-1:123456789012:key/1"')
    policy = json.loads(mlinfer("doctor", "--policy", "--bucket", "my-models").out)
    section = (ROOT / "docs" / "permissions.md").read_text().partition("## The function")[0]
    explained = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`[^|]+) \|", section, re.MULTILINE)))
    assert sorted(explained) == sorted(statement["Sid"] for statement in policy["Statement"])


def examples(page: Path, mark: str = "") -> list[str]:
    """Return the commands of the console blocks below `<!-- MARK -->`, or of those without a comment."""
    before = rf"^<!-- {mark} -->\n" if mark else r"(?<! -->\n)^"
    found = re.findall(rf"{before}```console\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [line[2:] for block in found for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture
def run_shell(tmp_path: Path) -> Callable[[list[str]], subprocess.CompletedProcess[str]]:
    """Return a function that runs commands in a folder with example files, and requires success."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, command in (("mlinfer", f"{sys.executable} -m mlinfer"), ("python3", sys.executable)):
        (programs / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (programs / name).chmod(0o755)
    Path("examples").mkdir()
    Path("photos").mkdir()
    for copy in ("cat.jpg", "examples/cat.jpg", "photos/one.jpg", "photos/two.jpg"):
        shutil.copy(CAT, copy)
    shutil.copy(ROOT / "examples" / "event.json", "examples")
    models.undescribed(Path("classifier.onnx"), size=32)
    Path("labels.txt").write_text("\n".join(models.LABELS))
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def run(commands: list[str]) -> subprocess.CompletedProcess[str]:
        script = "set -euo pipefail\n" + "\n".join(commands)
        shell = ["bash", "-xc", script]
        result = subprocess.run(
            shell, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        return result

    return run


Shell = Callable[[list[str]], "subprocess.CompletedProcess[str]"]
LOCAL = "run: with the local function"


@pytest.mark.parametrize("page", [page for page in WRITTEN if examples(page)], ids=by_name)
def test_examples_run(page: Path, run_shell: Shell) -> None:
    """Each example that needs no AWS, Docker or network succeeds, in the page's order."""
    run_shell(examples(page))


@pytest.mark.parametrize("page", [page for page in WRITTEN if examples(page, LOCAL)], ids=by_name)
def test_examples_with_the_local_function_run(page: Path, run_shell: Shell) -> None:
    """The examples with curl get an answer from `run-local --no-docker`."""
    port = str(find_free_port("127.0.0.1"))
    command = [sys.executable, "-m", "mlinfer", "run-local", "--no-docker", "--port", port]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout
            assert server.stdout.readline()  # its address, once it is ready
            answered = run_shell(
                [line.replace("localhost:9000", f"127.0.0.1:{port}") for line in examples(page, LOCAL)]
            )
        finally:
            server.terminate()
    calls = sum("curl" in line for line in examples(page, LOCAL))
    assert answered.stdout.count('"label": "cat"') >= calls >= 1


def test_the_example_with_boto3_runs(run_shell: Shell) -> None:
    """The Python program of the answers page prints the label of a deployed function's answer."""
    (program,) = blocks((ROOT / "docs" / "answers.md").read_text(), "python")
    Path("ask.py").write_text(program)
    credentials = "AWS_ACCESS_KEY_ID=a AWS_SECRET_ACCESS_KEY=b AWS_DEFAULT_REGION=us-east-1"
    with serving(Service(Settings(str(STARTER)), log=lambda _: None)) as (_, address):
        assert run_shell([f"{credentials} AWS_ENDPOINT_URL_LAMBDA={address} python3 ask.py"]).stdout == "cat\n"


def test_examples_that_do_not_run_say_why() -> None:
    """The comment above an example has one of three forms; the pages for a first try have examples that run."""
    for page in WRITTEN:
        for mark in re.findall(r"^<!-- (.+) -->\n```", page.read_text(), re.MULTILINE):
            assert re.fullmatch(rf"not run: .+|{LOCAL}|run: with a Lambda on loopback", mark), mark
    running = {page.stem for page in WRITTEN if examples(page)}
    assert {"quick-start", "your-model", "model-file", "configuration", "permissions", "measure", "ci"} <= running
