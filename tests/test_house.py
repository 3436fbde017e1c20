"""The rules of the project: imports, output, documents and their names."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from mlinfer.cli.application import COMMANDS

from .conftest import ROOT

HANDLER_PACKAGES = {"numpy", "onnxruntime", "PIL"}  # what the image holds
MODULES = sorted([*ROOT.glob("mlinfer/**/*.py"), *ROOT.glob("lambda_src/**/*.py")])
NAMES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in MODULES}

# The parts of mlinfer, from top to bottom: each imports only parts below its own line.
LAYERS = (
    {"cli"},
    {"measure", "doctor"},
    {"cloud"},
    {"local", "targets"},
    {"container_image"},
    {"model"},
    {"clients"},
    {"config", "errors", "names", "files", "terminal"},
)
# The parts of the handler package, likewise.
HANDLER_LAYERS = (
    {"handler"},
    {"service"},
    {"events", "inference"},
    {"images", "s3"},
    {"settings", "errors", "proxies", "records"},
)
BESIDE = {("mlinfer.targets.emulator", "local")}  # the one import between parts of one line
EDGE = {"cli", "__main__", "terminal"}  # may write, read the environment and exit


def part(name: str) -> str:
    """Return the part of its package that a module belongs to: a folder, or a module next to the folders."""
    return name.split(".")[1] if "." in name else ""


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Yield the full name of each imported module, including relative imports and those inside functions."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            inside = package[: len(package) + 1 - node.level] if node.level else ()
            origin = ".".join([*inside, *filter(None, [node.module])])
            modules = {f"{origin}.{alias.name}" for alias in node.names} & NAMES.keys()
            yield from modules or {origin}
            if modules and len(modules) < len(node.names):
                yield origin


def own_imports(name: str) -> set[str]:
    """Return this project's modules that a module imports."""
    return set(imports(NAMES[name])) & NAMES.keys()


@pytest.mark.parametrize("name", NAMES)
def test_imports_point_down(name: str) -> None:
    """A part imports only parts below it; the handler package imports nothing of mlinfer and only packages in the image."""
    package = name.split(".")[0]
    layers = LAYERS if package == "mlinfer" else HANDLER_LAYERS
    level = next((level for level, parts in enumerate(layers) if part(name) in parts), None)
    if package == "lambda_src":
        top = {imported.split(".")[0] for imported in imports(NAMES[name])}
        assert top - sys.stdlib_module_names - {"__future__", "lambda_src"} <= HANDLER_PACKAGES
    assert level is not None or part(name) in {"", "__main__"}, f"{part(name)} stands in no layer"
    for imported in own_imports(name):
        other = part(imported)
        if level is None or not imported.startswith(package) or not other or other == part(name):
            continue
        below = set().union(*layers[level + 1 :])
        last = level == len(layers) - 1  # these modules may import each other, without a circle
        assert other in below or (name, other) in BESIDE or last, f"{name} imports {imported}"


def test_no_circle() -> None:
    """No module imports itself through others, not even inside a function."""
    graph = {name: own_imports(name) - {name} for name in NAMES}
    while leaves := [name for name, needs in graph.items() if not needs & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert not graph, "a circle runs through these, or they import one"


def test_a_command_imports_no_other() -> None:
    """Each command is a module with the command's name; shared code is in views or options."""
    commands = {name for name in NAMES if name.startswith("mlinfer.cli.commands.")}
    assert commands == {f"mlinfer.cli.commands.{name.replace('-', '_')}" for name in COMMANDS}
    assert not [(name, other) for name in commands for other in own_imports(name) & commands]


@pytest.mark.parametrize("folder", ["mlinfer", "lambda_src", "tools", "benchmarks", "examples", "devtools"])
def test_only_tests_import_tests(folder: str) -> None:
    """What tests and tools both need lies in devtools."""
    assert not [
        (str(path.relative_to(ROOT)), name)
        for path in ROOT.glob(f"{folder}/**/*.py")
        for name in imports(path)
        if name.split(".")[0] == "tests"
    ]


@pytest.mark.parametrize(
    ("package", "owner"),
    [
        ("docker", "mlinfer.clients.docker"),
        ("boto3", "mlinfer.clients.aws"),
        ("rich", "mlinfer.terminal"),
        ("typer", "mlinfer.cli"),
    ],
)
def test_one_module_owns_a_package(package: str, owner: str) -> None:
    """Only one module imports docker, boto3 and rich each, and only the command line imports typer."""
    users = {name for name, path in NAMES.items() if package in {i.split(".")[0] for i in imports(path)}}
    assert users
    assert all(f"{user}.".startswith(f"{owner}.") for user in users), users


@pytest.mark.parametrize("name", NAMES)
def test_only_clients_import_more_of_botocore_than_exceptions(name: str) -> None:
    """Only mlinfer.clients uses more of botocore than its exceptions."""
    if name.startswith("mlinfer.clients."):
        return
    for node in ast.walk(ast.parse(NAMES[name].read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "botocore":
            taken = {alias.name for alias in node.names}
            assert node.module == "botocore.exceptions" or taken == {"exceptions"}, f"{name} imports {node.module}"
        assert not (isinstance(node, ast.Import) and any(alias.name.startswith("boto") for alias in node.names)), name


@pytest.mark.parametrize("name", NAMES)
def test_only_the_edge_prints_reads_the_environment_and_exits(name: str) -> None:
    """Only the terminal and the command line print, read the environment and exit."""
    text = NAMES[name].read_text()
    if name.startswith("mlinfer.") and part(name) not in EDGE:
        assert not re.search(r"(?<![.\w])print\(|sys\.std(out|err|in)|os\.environ|sys\.exit|SystemExit", text)
    assert not re.search(r"(?<![.\w])print\(", text)


@pytest.mark.parametrize("folder", ["devtools", "benchmarks", "examples"])
def test_other_folders_do_not_import_tests(folder: str) -> None:
    """devtools, benchmarks and examples do not import tests or pytest."""
    for path in (ROOT / folder).rglob("*.py"):
        top = {name.split(".")[0] for name in imports(path)}
        assert not top & {"tests", "pytest"}, path


def test_two_classes_never_share_a_name() -> None:
    """No two modules define a class of the same name."""
    classes = [
        node.name
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    assert sorted(set(classes)) == sorted(classes)


def test_no_package_shadows_the_docker_sdk() -> None:
    """docker/ has no __init__.py, which would shadow the SDK."""
    assert not (ROOT / "docker" / "__init__.py").exists()


LOADED = "import sys; from mlinfer.cli import main; main(sys.argv[1:]); sys.stderr.write('\\n' + ' '.join(sys.modules))"
# Neither a help nor a prediction in this process needs these. secrets and tempfile import random and hashlib.
UNUSED = {
    "boto3",
    "botocore",
    "docker",
    "requests",
    "urllib3",
    "torch",
    "onnx",
    "matplotlib",
    "rich.markdown",
}
UNUSED |= {"secrets", "tempfile", "random", "importlib.metadata", "email.message", "tomllib"}
HEAVY = {"numpy", "onnxruntime", "PIL", "rich", "ctypes", "hashlib", "lambda_src.service"}


def loaded_by(*arguments: str, folder: Path) -> set[str]:
    """Return the names of the modules that a command has loaded at its end."""
    command = [sys.executable, "-c", LOADED, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("command", [["--help"], ["predict", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(command: list[str], tmp_path: Path) -> None:
    """The help and the version import no heavy package, and the modules of the commands that they show."""
    loaded = loaded_by(*command, folder=tmp_path)
    assert not loaded & (UNUSED | HEAVY)
    shown = {"--help": set(COMMANDS), "predict": {"predict"}, "--version": set()}[command[0]]
    modules = {
        name.removeprefix("mlinfer.cli.commands.") for name in loaded if name.startswith("mlinfer.cli.commands.")
    }
    assert modules == {name.replace("-", "_") for name in shown}


def test_predict_loads_only_what_it_needs(tiny_model: Path, red: Path, tmp_path: Path) -> None:
    """A prediction in this process loads no AWS, Docker or torch package, and as JSON no table."""
    loaded = loaded_by("predict", str(red), "--model", str(tiny_model), "--json", folder=tmp_path)
    assert "lambda_src.service" in loaded
    assert not loaded & (UNUSED | {"rich"})


# Documents

README = (ROOT / "README.md").read_text()


def commands_of_the_readme() -> list[str]:
    """Return the first lines of the README's first two shell blocks."""
    return [block.strip() for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)][:2]


def test_ci_runs_the_readmes_commands() -> None:
    """`.ci/run` contains the README's two commands word for word, and each is one line."""
    ci = (ROOT / ".ci" / "run").read_text()
    main_job, tests = commands_of_the_readme()
    assert "mlinfer predict examples/cat.jpg" in main_job
    assert "pytest" in tests
    for command in (main_job, tests):
        assert "\n" not in command
        assert command in ci


def test_no_address_of_a_machine_or_registry() -> None:
    """No committed file has a path of a developer's machine."""
    for name in tracked_files():
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".txt", ".in", ".json", ".yml", ""):
            assert not re.search(r"(?<!\w)/(home|root|Users|work)/", path.read_text(errors="replace")), name


def tracked_files() -> list[str]:
    """Return the names of the committed files that exist, with / between folders."""
    found = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in found.split("\0") if name and (ROOT / name).is_file()]


FILE = re.compile(r"(?<![\w/.*<])(?:[\w-]+/)*\w+\.py\b")
MODULE = re.compile(r"(?<![\w/.])(?:mlinfer|lambda_src|tests|devtools|benchmarks)(?:\.[a-zA-Z_]\w*)+\b")


def texts_of(name: str) -> Iterator[str]:
    """Yield the text that a file says to people: all of a document, the docstrings of a module."""
    path = ROOT / name
    if name.endswith(".md") and name != "CHANGELOG.md":  # it describes the past
        yield path.read_text()
    if name.endswith(".py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield ast.get_docstring(node) or ""


def test_modules_that_are_named_exist() -> None:
    """Each file and module of ours in a document or docstring exists."""
    files = tracked_files()
    missing = []
    for name in files:
        for text in texts_of(name):
            named = set(FILE.findall(text))
            missing += [(name, file) for file in named if not any(f"/{there}".endswith(f"/{file}") for there in files)]
            for module in MODULE.findall(text):
                path = module.replace(".", "/")
                places = {f"{part}{end}" for part in (path, path.rpartition("/")[0]) for end in (".py", "/__init__.py")}
                missing += [] if places & set(files) else [(name, module)]
    assert not missing


def test_ruffs_exceptions_are_needed() -> None:
    """Each rule that pyproject.toml ignores, everywhere or for a folder, would be broken there."""
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    left_out = [("", rule) for rule in lint["ignore"]]
    left_out += [(folder.rstrip("*"), rule) for folder, rules in lint["per-file-ignores"].items() for rule in rules]
    rules = ",".join({rule for _, rule in left_out})
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length=120", "--output-format=json"]
    run = subprocess.run([*command, f"--select={rules}", "."], cwd=ROOT, capture_output=True, text=True)
    broken = {(str(Path(found["filename"]).relative_to(ROOT)), found["code"]) for found in json.loads(run.stdout)}
    needless = [
        (folder, rule)
        for folder, rule in left_out
        if not any(name.startswith(folder) and code.startswith(rule) for name, code in broken)
    ]
    assert not needless


def test_version_is_in_the_changelog() -> None:
    """The version has a section in the changelog."""
    from mlinfer import __version__

    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dynamic"] == ["version"]
