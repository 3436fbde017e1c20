"""The rules of the house: which module may import what, who writes, and what the documents say."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import ROOT

STDLIB = sys.stdlib_module_names
HANDLER_PACKAGES = {"numpy", "onnxruntime", "PIL", "obstore"}
MODULES = sorted([*ROOT.glob("mlinfer/**/*.py"), *ROOT.glob("lambda_src/*.py")])
# The order in which the modules of mlinfer may use each other: later ones import earlier ones.
VALUES = {"__init__", "errors", "config", "files", "names"}
EDGE = {"cli", "__main__", "terminal"}
PARTS = ("model", "local", "cloud", "measure")  # each uses those before it


def module(path: Path) -> str:
    """Return a module's name below its package; of `mlinfer/cli/`, which is one part of the house, that folder's."""
    return "cli" if path.parent.name == "cli" else path.stem


def imports(path: Path) -> Iterator[str]:
    """Yield the full name of each imported module, of relative imports too."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            inside = package[: len(package) + 1 - node.level] if node.level else ()
            origin = ".".join([*inside, *filter(None, [node.module])])
            yield origin
            if node.module is None:
                yield from (f"{origin}.{alias.name}" for alias in node.names)


def own(path: Path) -> set[str]:
    """Return the modules and parts of mlinfer that a module of mlinfer imports."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("mlinfer.")}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: f"{p.parent.name}.{p.stem}")
def test_imports_point_one_way(path: Path) -> None:
    """cli -> steps -> values -> lambda_src; the handler package imports nothing of mlinfer and only what the image holds."""
    top = {name.split(".")[0] for name in imports(path)} - STDLIB - {"__future__", "lambda_src"}
    if path.parent.name == "lambda_src":
        assert top <= HANDLER_PACKAGES
    elif module(path) in VALUES:
        assert own(path) <= VALUES
    elif module(path) not in EDGE:
        assert not own(path) & EDGE
    if path.parent.name in PARTS:
        assert not own(path) & set(PARTS[PARTS.index(path.parent.name) + 1 :])


@pytest.mark.parametrize(
    ("package", "owner"), [("docker", "engine"), ("boto3", "aws"), ("rich", "terminal"), ("typer", "cli")]
)
def test_one_module_owns_a_package(package: str, owner: str) -> None:
    """One module owns the terminal, one `import docker`, one makes boto3 clients, one knows typer."""
    users = {module(path) for path in MODULES if package in {name.split(".")[0] for name in imports(path)}}
    assert users <= {owner}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: f"{p.parent.name}.{p.stem}")
def test_who_writes_reads_the_environment_and_exits(path: Path) -> None:
    """A step does not print, read the environment or exit: the terminal and the command line do."""
    text = path.read_text()
    if path.parent.name != "lambda_src" and module(path) not in EDGE:
        assert not re.search(r"(?<![.\w])print\(|sys\.std(out|err|in)|os\.environ|sys\.exit|SystemExit", text)
    assert not re.search(r"(?<![.\w])print\(", text)


def test_no_package_shadows_the_docker_sdk() -> None:
    """docker/ holds no __init__.py, which would shadow the SDK."""
    assert not (ROOT / "docker" / "__init__.py").exists()


@pytest.mark.parametrize("command", [["--help"], ["predict", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(command: list[str]) -> None:
    """The help answers quickly because nothing heavy is imported for it."""
    code = "import sys; from mlinfer.cli import main; main(sys.argv[1:]); sys.stderr.write(' '.join(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    loaded = set(result.stderr.split())
    assert not loaded & {"numpy", "onnxruntime", "PIL", "boto3", "botocore", "docker", "obstore", "torch", "onnx"}


def test_predict_loads_only_what_it_needs(tiny_model: Path, red: Path) -> None:
    """A prediction in process loads no AWS, Docker or torch, and as JSON nothing that draws."""
    code = (
        "import sys; from mlinfer.cli import main; main(sys.argv[1:]); sys.stderr.write('\\n' + ' '.join(sys.modules))"
    )
    command = [sys.executable, "-c", code, "predict", str(red), "--model", str(tiny_model), "--json"]
    loaded = set(subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()[-1].split())
    assert "onnxruntime" in loaded
    assert not loaded & {"boto3", "botocore", "docker", "obstore", "torch", "onnx", "rich.table", "rich.console"}


# Documents

README = (ROOT / "README.md").read_text()


def commands_of_the_readme() -> list[str]:
    """Return the two commands that do everything: the first lines of the first two shell blocks."""
    return [block.strip() for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)][:2]


def test_ci_runs_the_readmes_commands() -> None:
    """`.ci/run` runs the README's two commands word for word, and each is one line."""
    ci = (ROOT / ".ci" / "run").read_text()
    main_job, tests = commands_of_the_readme()
    assert "mlinfer predict examples/cat.jpg" in main_job
    assert "pytest" in tests
    for command in (main_job, tests):
        assert "\n" not in command
        assert command in ci


def test_every_command_is_documented() -> None:
    """The README's table and the help list every command, in the same order."""
    from mlinfer.cli import options, register

    register("--help")
    registered = {c.name or getattr(c.callback, "__name__", "") for c in options.app.registered_commands}
    assert sorted(options.COMMANDS) == sorted(registered)
    section = README.partition("## Commands")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `mlinfer ([a-z-]+)", section, re.MULTILINE) == list(options.COMMANDS)


def test_every_key_and_code_is_documented() -> None:
    """The README names every configuration key, every error code of the handler and every exit code."""
    from mlinfer.config import KEYS

    source = "".join(path.read_text() for path in ROOT.glob("lambda_src/*.py"))
    codes = set(re.findall(r'RequestError\(\s*\d+,\s*"(\w+)"', source))
    assert len(codes) >= 10
    for word in {key.name for key in KEYS} | codes | {"6", "130"}:
        assert f"`{word}`" in README, word


def test_no_address_of_a_machine_or_registry() -> None:
    """No committed file names a path of a developer's machine."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".txt", ".in", ".json", ".yml", "") and path.is_file():
            assert not re.search(r"(?<!\w)/(home|root|Users|work)/", path.read_text(errors="replace")), name


def test_version_is_in_the_changelog() -> None:
    """The version has its section in the changelog."""
    from mlinfer import __version__

    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dynamic"] == ["version"]
