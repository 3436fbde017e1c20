"""Each command as a user runs it: arguments in; text, JSON and exit codes out."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lambda_src.inference.download import sha256_of
from mlinfer import __version__
from mlinfer.cli.application import COMMANDS

from ..conftest import CAT, HANGS_UP, Run
from ..pictures import encoded, plain

MlInfer = Callable[..., Run]
COMMAND = [sys.executable, "-m", "mlinfer"]


@pytest.fixture
def blue() -> Path:
    """Return blue.png, a blue picture in the test's folder."""
    path = Path("blue.png")
    path.write_bytes(encoded(plain((0, 0, 255)), "PNG"))
    return path


@pytest.fixture
def broken() -> Path:
    """Return broken.jpg, which is a text file."""
    path = Path("broken.jpg")
    path.write_text("I am no picture.\n")
    return path


# predict


def test_the_cat_is_a_cat(mlinfer: MlInfer) -> None:
    """The first command of the README: the starter model classifies the cat, and stderr names the model that answered."""
    run = mlinfer("predict", CAT)
    assert run.code == 0
    assert run.out.split()[0] == "cat"
    assert len(run.out.splitlines()) == 5
    assert "Answered by starter" in run.err
    assert "target embedded" in run.err
    assert "mlinfer export resnet18" in run.err


def test_one_image_as_json(mlinfer: MlInfer, tiny_model: Path, red: Path) -> None:
    """With --json, one image prints the handler's document and nothing else on stdout."""
    run = mlinfer("predict", red, "--model", tiny_model, "--json")
    body = json.loads(run.out)
    assert list(body) == ["pred_index", "label", "score", "predictions", "model", "cold_start", "timings"]
    assert body["label"] == "red"
    assert body["model"] == {"name": "tiny", "sha256": sha256_of(tiny_model)}
    assert "Answered by tiny" in run.err


def test_several_images_as_json_lines(mlinfer: MlInfer, tiny_model: Path, red: Path, blue: Path) -> None:
    """With --json, several images print one line each, in input order."""
    run = mlinfer("predict", red, blue, red, "--model", tiny_model, "--json")
    lines = [json.loads(line) for line in run.out.splitlines()]
    assert [(line["image"], line["label"]) for line in lines] == [
        ("red.png", "red"),
        ("blue.png", "blue"),
        ("red.png", "red"),
    ]


def test_many_images_at_once(mlinfer: MlInfer, photos: list[Path]) -> None:
    """Many images run on one session per core, with the same answers in the same order as one at a time."""
    alone = mlinfer("predict", *photos, "--json", "--jobs", "1")
    together = mlinfer("predict", *photos, "--json", "--jobs", "3")
    answers = [
        [(json.loads(line)["image"], json.loads(line)["predictions"]) for line in run.out.splitlines()]
        for run in (alone, together)
    ]
    assert [name for name, _ in answers[0]] == [str(photo) for photo in photos]
    assert answers[1] == answers[0]


def test_several_images_as_a_table(mlinfer: MlInfer, tiny_model: Path, red: Path, blue: Path) -> None:
    """Several images print one row each; --top-k shows more classes."""
    rows = mlinfer("predict", red, blue, "--model", tiny_model).out.splitlines()
    assert [row.split()[:2] for row in rows] == [["red.png", "red"], ["blue.png", "blue"]]
    rows = mlinfer("predict", red, blue, "--model", tiny_model, "-k", "2").out.splitlines()
    assert len(rows) == 4


def test_top_k(mlinfer: MlInfer, tiny_model: Path, red: Path) -> None:
    """--top-k sets how many classes are shown."""
    assert len(mlinfer("predict", red, "--model", tiny_model, "--top-k", "3").out.splitlines()) == 3


def test_batch_with_a_bad_file(mlinfer: MlInfer, tiny_model: Path, red: Path, blue: Path, broken: Path) -> None:
    """A bad file does not stop the other images; it is reported, and the exit code is 5."""
    run = mlinfer("predict", red, broken, blue, "none.jpg", "--model", tiny_model)
    assert run.code == 5
    assert [row.split()[1] for row in run.out.splitlines()] == ["red", "blue"]
    assert "broken.jpg" in run.err
    assert "none.jpg" in run.err
    assert "2 of 4" in run.err


def test_batch_with_a_bad_file_as_json(mlinfer: MlInfer, tiny_model: Path, red: Path, broken: Path) -> None:
    """In JSON Lines, the line of a bad file contains the error instead of the answer."""
    run = mlinfer("predict", broken, red, "--model", tiny_model, "--json")
    first, second = (json.loads(line) for line in run.out.splitlines())
    assert (first["image"], first["error"]["code"]) == ("broken.jpg", "invalid_image")
    assert second["label"] == "red"
    assert run.code == 5


@pytest.mark.parametrize(("brand", "word"), [(b"heic", "HEIC"), (b"isom", "video")])
def test_another_format_named_jpg(mlinfer: MlInfer, brand: bytes, word: str) -> None:
    """An unsupported photo or a video named .jpg exits with 5, and the error names its real format."""
    Path("other.jpg").write_bytes(b"\0\0\0\x14ftyp" + brand + bytes(4) + brand + bytes(64))
    run = mlinfer("predict", "other.jpg", "--json")
    error = json.loads(run.out)["error"]
    assert (run.code, error["code"]) == (5, "invalid_image")
    assert word in error["message"]


def test_text_file_named_jpg(mlinfer: MlInfer, broken: Path) -> None:
    """A text file named .jpg exits with 5 and an error, also as JSON."""
    run = mlinfer("predict", broken)
    assert (run.code, run.out) == (5, "")
    assert run.err.startswith("Error: broken.jpg: ")
    error = json.loads(mlinfer("predict", broken, "--json").out)["error"]
    assert list(error) == ["code", "message", "hint"]
    assert error["code"] == "invalid_image"


@pytest.mark.parametrize(("name", "message"), [("none.jpg", "none.jpg does not exist"), (".", ". is a directory")])
def test_a_path_that_is_not_a_file(mlinfer: MlInfer, name: str, message: str) -> None:
    """A missing image, alone or among others, exits with 5 and its own code."""
    run = mlinfer("predict", name)
    assert run.code == 5
    assert message in run.err
    code = "is_a_directory" if name == "." else "image_not_found"
    assert json.loads(mlinfer("predict", name, "--json").out)["error"]["code"] == code
    several = mlinfer("predict", name, CAT, "--json")
    assert several.code == 5
    assert json.loads(several.out.splitlines()[0])["error"]["code"] == code


def test_missing_model(mlinfer: MlInfer, red: Path) -> None:
    """A missing model file exits with 3, and the error says where the path was configured."""
    run = mlinfer("predict", red, "--model", "none.onnx")
    assert run.code == 3
    assert "none.onnx" in run.err
    assert "command line" in run.err


def test_an_invalid_model(mlinfer: MlInfer, red: Path, broken: Path) -> None:
    """A file that is not a model exits with 2."""
    run = mlinfer("predict", red, "--model", broken)
    assert run.code == 2
    assert "text file" in run.err
    assert "Traceback" not in run.err


def test_too_many_pixels(mlinfer: MlInfer, red: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image over max_pixels exits with 5, and the error names the key."""
    monkeypatch.setenv("MLINFER_MAX_PIXELS", "100")
    run = mlinfer("predict", red)
    assert run.code == 5
    assert "100 pixels" in run.err
    assert "max_pixels" in run.err


def test_quiet(mlinfer: MlInfer, red: Path, broken: Path) -> None:
    """--quiet prints only the result and errors."""
    assert mlinfer("predict", red, "--quiet").err == ""
    assert mlinfer("predict", broken, "--quiet").err.startswith("Error:")


def test_verbose(mlinfer: MlInfer, tiny_model: Path, red: Path, broken: Path) -> None:
    """--verbose prints the handler's log line, and the traceback of an error."""
    run = mlinfer("predict", red, "--model", tiny_model, "--verbose", "--json")
    assert json.loads(run.err.splitlines()[0])["outcome"] == "ok"
    assert json.loads(run.out)["label"] == "red"
    assert "Traceback" in mlinfer("predict", broken, "--verbose").err


def test_labels_cannot_steer_the_terminal(mlinfer: MlInfer) -> None:
    """Control characters and markup in names are printed, not interpreted."""
    path = Path("\x1b[31m[bold]red.png")
    path.write_bytes(encoded(plain(), "PNG"))
    run = mlinfer("predict", path, path)
    assert "\x1b" not in run.out
    assert "[bold]red.png" in run.out


def test_names_do_not_split_rows(mlinfer: MlInfer) -> None:
    """A line break or tab in a file name is escaped, so each image keeps one row."""
    path = Path("a\nb\tc.png")
    path.write_bytes(encoded(plain(), "PNG"))
    rows = mlinfer("predict", path, path).out.splitlines()
    assert len(rows) == 2
    assert all(row.startswith("a\\x0ab\\x09c.png") for row in rows)


# Usage


def test_unknown_option(mlinfer: MlInfer) -> None:
    """An unknown option exits with 2, as JSON with --json."""
    run = mlinfer("predict", "cat.jpg", "--xyz")
    assert run.code == 2
    error, hint = run.err.splitlines()
    assert error.startswith("Error: ")
    assert "--xyz" in error
    assert hint.startswith("Hint: ")
    assert "mlinfer predict --help" in hint
    run = mlinfer("predict", "cat.jpg", "--xyz", "--json")
    assert run.code == 2
    assert json.loads(run.out)["error"]["code"] == "usage"


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["predicted"], "mlinfer predict --help"),
        (["help"], "mlinfer --help"),
        (["help", "deploy"], "mlinfer deploy --help"),
        (["version"], "mlinfer --version"),
        (["cat.jpg"], "mlinfer predict cat.jpg"),
        (["my cat.jpg", "--json"], "mlinfer predict 'my cat.jpg' --json"),
        (["xyz"], "mlinfer --help"),
    ],
)
def test_unknown_command(mlinfer: MlInfer, argv: list[str], command: str) -> None:
    """An unknown first word exits with 2 and suggests a command."""
    run = mlinfer(*argv)
    assert run.code == 2
    assert f"`{command}`" in run.err


@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_wrong_top_k(mlinfer: MlInfer, red: Path, value: str) -> None:
    """A wrong --top-k is wrong usage."""
    assert mlinfer("predict", red, "--top-k", value).code == 2


def test_unknown_target(mlinfer: MlInfer, red: Path) -> None:
    """An unknown target is an error that lists the valid ones."""
    run = mlinfer("predict", red, "--target", "moon")
    assert run.code == 2
    assert "embedded" in run.err


def test_help(mlinfer: MlInfer) -> None:
    """Without arguments, the help is printed; each help ends with examples and fits 80 columns."""
    assert "mlinfer predict cat.jpg" in mlinfer().out
    for command in COMMANDS:
        run = mlinfer(command, "--help")
        assert run.code == 0
        assert f"mlinfer {command}" in run.out.split("Examples:")[1]
        assert all(len(line) <= 80 for line in run.out.splitlines())
        assert len(run.out.splitlines()[2].strip()) <= 72


def test_version(mlinfer: MlInfer) -> None:
    """--version prints the name and the version."""
    assert mlinfer("--version").out == f"mlinfer {__version__}\n"


WITHOUT_EFFECT = [
    (["predict", "cat.jpg", "--port", "9001"], ["--port"]),
    (["predict", "cat.jpg", "--url", "--region", "r", "--profile", "p"], ["--url", "--region", "--profile"]),
    (["predict", "cat.jpg", "--project", "cats"], ["--project"]),
    (["predict", "cat.jpg", "--target", "local", "--url"], ["--url"]),
    (["predict", "cat.jpg", "--target", "local", "--jobs", "2"], ["--jobs"]),
    (["predict", "cat.jpg", "--target", "aws", "--port", "9001"], ["--port"]),
    (["run-local", "--no-docker", "--memory", "512", "--region", "r"], ["--memory", "--region"]),
    (["run-local", "--stop", "--model", "starter", "--detach"], ["--model", "--detach"]),
    (["run-local", "--profile", "p"], ["--profile"]),
    (["deploy", "--model-source", "image", "--prefix", "m"], ["--prefix"]),
    (["deploy", "--model-source", "image", "--create-bucket"], ["--create-bucket"]),
    (["destroy", "--keep-model", "--prefix", "m"], ["--prefix"]),
    (["doctor", "--policy", "--model", "starter", "--arch", "arm64"], ["--model", "--arch"]),
    (["bench", "--model-source", "image"], ["--model-source"]),
    (["bench", "--target", "local", "--region", "r"], ["--region"]),
    (["bench", "--target", "aws", "--arch", "arm64"], ["--arch"]),
    (["bench", "--target", "aws", "--warm", "0", "--concurrency", "2"], ["--concurrency"]),
    (["tune", "--target", "aws", "--model-source", "image"], ["--model-source"]),
]


@pytest.mark.parametrize(("argv", "flags"), WITHOUT_EFFECT, ids=lambda value: " ".join(value))
def test_a_flag_without_effect_is_refused(mlinfer: MlInfer, argv: list[str], flags: list[str]) -> None:
    """Flags that have no effect with the other settings are wrong usage; all are named in one error."""
    run = mlinfer(*argv, "--json")
    error = json.loads(run.out)["error"]
    assert (run.code, error["code"]) == (2, "no_effect")
    assert [word.rstrip(",") for word in error["message"].partition(" ha")[0].split()] == flags


@pytest.mark.parametrize(
    ("argv", "missing"),
    [
        (["upload", "none.onnx"], ["no S3 bucket", "none.onnx", "no AWS credentials"]),
        (["run-local", "--model", "none.onnx"], ["Docker", "none.onnx"]),
        (["build", "--builder", "docker", "--model", "none.onnx", "--model-source", "image"], ["Docker", "none.onnx"]),
        (["push", "--builder", "docker"], ["Docker", "no AWS Region", "no AWS credentials"]),
        (["destroy", "--yes"], ["--project", "no AWS Region", "no AWS credentials"]),
        (["predict", "cat.jpg", "--target", "aws"], ["no AWS Region", "no AWS credentials"]),
        (["logs"], ["no AWS Region", "no AWS credentials"]),
        (["status"], ["no AWS Region", "no AWS credentials"]),
    ],
    ids=lambda value: value[0],
)
def test_all_missing_options_are_reported_at_once(
    mlinfer: MlInfer, monkeypatch: pytest.MonkeyPatch, argv: list[str], missing: list[str]
) -> None:
    """Everything that is missing locally is one error with exit code 3."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    run = mlinfer(*argv, "--json")
    error = json.loads(run.out)["error"]
    assert (run.code, error["code"]) == (3, "several_missing")
    for text in missing:
        assert text in error["message"]


def test_a_variable_without_effect_is_named(mlinfer: MlInfer, red: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable without effect is named in a warning, and the command runs."""
    monkeypatch.setenv("MLINFER_PORT", "9001")
    run = mlinfer("predict", red)
    assert run.code == 0
    assert "MLINFER_PORT" in run.err


@pytest.mark.parametrize(
    "argv",
    [["predict", "cat.jpg", "--quiet", "--verbose"], ["predict", "-", "-"], ["bench", "--cold", "0", "--warm", "0"]],
)
def test_flags_that_exclude_each_other(mlinfer: MlInfer, argv: list[str]) -> None:
    """Flags that exclude each other are wrong usage."""
    run = mlinfer(*argv, "--json")
    assert (run.code, json.loads(run.out)["error"]["code"]) == (2, "usage")


# inspect


def test_inspect(mlinfer: MlInfer, tiny_model: Path) -> None:
    """`inspect` shows the metadata, the graph's inputs and outputs, and the file's size and hash."""
    facts = json.loads(mlinfer("inspect", tiny_model, "--json").out)
    assert facts["name"] == "tiny"
    assert facts["sha256"] == sha256_of(tiny_model)
    assert facts["bytes"] == tiny_model.stat().st_size
    assert (facts["ir_version"], facts["opset"]) == (8, 17)
    assert facts["inputs"] == [{"name": "pixels", "dtype": "uint8", "shape": ["N", 8, 8, 3]}]
    assert facts["labels"] == {"count": 5, "first": "red", "last": "black"}
    assert facts["preprocess"]["crop"] == [8, 8]
    assert facts["provenance"] == {"made by": "the tests"}


def test_inspect_for_people(mlinfer: MlInfer, tiny_model: Path) -> None:
    """Without --json, `inspect` prints the same facts as lines of text."""
    out = mlinfer("inspect", tiny_model).out
    assert "pixels: uint8 N x 8 x 8 x 3" in out
    assert "count: 5" in out


def test_inspect_the_starter(mlinfer: MlInfer) -> None:
    """Without a model, `inspect` shows the starter model and its accuracy."""
    facts = json.loads(mlinfer("inspect", "--json").out)
    assert facts["name"] == "starter"
    assert facts["bytes"] <= 3_000_000
    assert facts["provenance"]["accuracy"]["top1"] >= 0.90


@pytest.mark.parametrize("content", [b"", b"hello, world\n", b"\x08\x08\x3a\xff\xff\xff\x7f", b"\x80" * 40])
def test_inspect_of_another_file(mlinfer: MlInfer, content: bytes) -> None:
    """`inspect` of a file that is not a model exits with 2."""
    Path("no.onnx").write_bytes(content)
    run = mlinfer("inspect", "no.onnx")
    assert run.code == 2
    assert run.err.startswith("Error: ")
    assert "no.onnx is " in run.err


# As a process


def test_stdin(tiny_model: Path) -> None:
    """- reads an image from stdin."""
    data = encoded(plain((0, 255, 0)), "JPEG")
    result = subprocess.run(
        [*COMMAND, "predict", "-", "--model", tiny_model, "--json"], input=data, capture_output=True
    )
    assert result.returncode == 0
    assert json.loads(result.stdout)["label"] == "green"


def test_stdin_that_is_a_terminal(tiny_model: Path) -> None:
    """`-` in a terminal is wrong usage and does not wait for input."""
    master, terminal = pty.openpty()
    result = subprocess.run(
        [*COMMAND, "predict", "-", "--model", tiny_model], stdin=terminal, capture_output=True, text=True
    )
    os.close(terminal)
    os.close(master)
    assert result.returncode == 2
    assert "`mlinfer predict - < cat.jpg`" in result.stderr


def test_reader_that_closes_early(tiny_model: Path, red: Path) -> None:
    """A reader that closes the pipe, such as `head -1`, causes no traceback."""
    process = subprocess.Popen(
        [*COMMAND, "predict", *[red] * 200, "--model", tiny_model, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    _, errors = process.communicate()
    assert process.returncode == 141
    assert b"Traceback" not in errors


def test_full_disk(tiny_model: Path, red: Path) -> None:
    """A result that cannot be written exits with 3 and the reason."""
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [*COMMAND, "predict", red, "--model", tiny_model, "--json"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert result.returncode == 3
    assert "No space left" in result.stderr


def stopped_batch(model: Path, image: Path, by: signal.Signals) -> tuple[int, bytes, bytes]:
    """Send a signal to a large batch after its first line; return its exit code, stdout and stderr."""
    process = subprocess.Popen(
        [*COMMAND, "predict", *[image] * 20_000, "--model", model, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    process.send_signal(by)
    rest, errors = process.communicate()
    return process.returncode, first + rest, errors


@pytest.mark.slow
def test_interrupt_shows_the_results_so_far(tiny_model: Path, red: Path) -> None:
    """Ctrl-C in a batch exits with 130, and every printed line is complete."""
    code, output, errors = stopped_batch(tiny_model, red, signal.SIGINT)
    lines = output.splitlines()
    assert code == 130
    assert 0 < len(lines) < 20_000
    assert all(json.loads(line)["label"] == "red" for line in lines)
    assert errors.decode().endswith("Interrupted.\n")


def test_no_colour_in_a_pipe(tiny_model: Path, red: Path) -> None:
    """Output to a pipe contains no escape sequences."""
    result = subprocess.run([*COMMAND, "predict", red, "--model", tiny_model], capture_output=True, text=True)
    assert "\x1b" not in result.stdout + result.stderr


@pytest.mark.parametrize("columns", ["30", "200"])
def test_narrow_and_wide(tiny_model: Path, red: Path, columns: str) -> None:
    """The table fits a narrow terminal and stays readable in a wide one."""
    environment = os.environ | {"COLUMNS": columns}
    result = subprocess.run(
        [*COMMAND, "predict", red, "--model", tiny_model], capture_output=True, text=True, env=environment
    )
    rows = result.stdout.splitlines()
    assert rows[0].split()[0] == "red"
    assert all(len(row) <= int(columns) for row in rows)


def test_nothing_is_cut_off_in_a_narrow_terminal(tiny_model: Path) -> None:
    """A hash that is wider than the terminal continues on the next line."""
    environment = os.environ | {"COLUMNS": "40"}
    result = subprocess.run([*COMMAND, "inspect", tiny_model], capture_output=True, text=True, env=environment)
    assert "…" not in result.stdout
    assert sha256_of(tiny_model) in "".join(result.stdout.split())


@pytest.mark.parametrize("arguments", [["predict", "none.jpg", "--json"], ["predict", "cat.jpg"], ["inspect"]])
@pytest.mark.slow
def test_full_disk_for_any_output(arguments: list[str]) -> None:
    """A full disk is reported for a table and for an error as JSON, with and without Python's buffer."""
    Path("cat.jpg").write_bytes(CAT.read_bytes())
    for unbuffered in ("", "1"):
        environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
        with Path("/dev/full").open("w") as full:
            result = subprocess.run(
                [*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, env=environment
            )
        assert result.returncode == 3
        assert "No space left" in result.stderr


def test_full_stderr(tiny_model: Path, red: Path) -> None:
    """If stderr cannot be written, the result is still printed."""
    with Path("/dev/full").open("w") as full:
        command = [*COMMAND, "predict", str(red), "--model", str(tiny_model), "--json"]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=full)
    assert result.returncode == 0
    assert json.loads(result.stdout)["label"] == "red"


@pytest.mark.slow
def test_closed_streams(tiny_model: Path, red: Path) -> None:
    """Closed standard streams are not an internal error."""
    command = " ".join(map(str, [*COMMAND, "predict", red, "--model", tiny_model]))
    assert subprocess.run(f"{command} >&-", shell=True, capture_output=True).returncode == 0  # noqa: S602
    assert subprocess.run(f"{command} 2>&-", shell=True, capture_output=True).returncode == 0  # noqa: S602


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["predict", "-"], "no_input"), (["init"], "file_exists"), (["deploy", "--url", "public"], "not_confirmed")],
)
@pytest.mark.slow
def test_closed_stdin(arguments: list[str], code: str) -> None:
    """With stdin closed, as in some daemons, a question or `-` is wrong usage, not an internal error."""
    Path("mlinfer.toml").write_text("top_k = 3\nmodel_source = 'image'\n")
    command = " ".join([*COMMAND, *arguments, "--json", "<&-"])
    result = subprocess.run(command, shell=True, capture_output=True, text=True)  # noqa: S602
    assert (result.returncode, json.loads(result.stdout)["error"]["code"]) == (2, code)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_terminals_of_other_encodings(tiny_model: Path, red: Path, encoding: str) -> None:
    """If stdout cannot encode the bar's blocks, the bar uses ASCII characters."""
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    result = subprocess.run([*COMMAND, "predict", red, "--model", tiny_model], capture_output=True, env=environment)
    assert result.returncode == 0
    assert result.stdout.decode(encoding).splitlines()[0].split() == ["red", "100.0%", "#" * 24]


@pytest.mark.slow
def test_endless_file(tiny_model: Path) -> None:
    """Of a file that is too large, only as much is read as is needed to know that."""
    result = subprocess.run([*COMMAND, "predict", "/dev/zero", "--model", tiny_model], capture_output=True, text=True)
    assert result.returncode == 5
    assert "bytes" in result.stderr
    assert "max_pixels" not in result.stderr


@pytest.mark.parametrize(("by", "expected"), [(signal.SIGTERM, 143), pytest.param(signal.SIGHUP, 129, marks=HANGS_UP)])
@pytest.mark.slow
def test_kill_ends_in_order(tiny_model: Path, red: Path, by: signal.Signals, expected: int) -> None:
    """After SIGTERM or SIGHUP, a command cleans up and exits with the status that a shell expects."""
    code, _, errors = stopped_batch(tiny_model, red, by)
    assert code == expected
    assert b"Traceback" not in errors


def test_files_of_one_name(mlinfer: MlInfer, tiny_model: Path) -> None:
    """Images with the same name in two folders are told apart in the table."""
    for folder in ("a", "b"):
        Path(folder).mkdir()
        Path(folder, "red.png").write_bytes(encoded(plain(), "PNG"))
    rows = mlinfer("predict", "a/red.png", "b/red.png", "--model", tiny_model).out.splitlines()
    assert [row.split()[0] for row in rows] == ["a/red.png", "b/red.png"]


def test_pipes_get_the_whole_text(mlinfer: MlInfer, tiny_model: Path) -> None:
    """Output to a pipe is not cut to a width."""
    out = mlinfer("inspect", tiny_model).out
    assert ["file", str(tiny_model)] in [line.split() for line in out.splitlines()]


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "red.png", "--model", ""],
        ["predict", ""],
        ["rollback", ""],
        ["deploy", "--dry-run", "--bucket", "b-1", "--image", ""],
        ["deploy", "--dry-run", "--bucket", "b-1", "--image="],
        ["status", "--image", ""],
        ["export", "resnet18", "--weights", ""],
        ["export", "resnet18", "--name", ""],
        ["logs", "--region", ""],
    ],
)
def test_empty_names(mlinfer: MlInfer, arguments: list[str]) -> None:
    """An empty argument, such as an unset shell variable, is wrong usage."""
    run = mlinfer(*arguments)
    assert run.code == 2
    assert "empty" in run.err


def test_a_model_that_is_a_pipe(mlinfer: MlInfer, red: Path) -> None:
    """A model that is a pipe (process substitution) is an error that says so."""
    os.mkfifo("m.onnx")
    for arguments in (["predict", red, "--model", "m.onnx"], ["inspect", "m.onnx"]):
        run = mlinfer(*arguments, "--json")
        assert (run.code, json.loads(run.out)["error"]["code"]) == (2, "not_a_file"), arguments


def test_a_deleted_folder(mlinfer: MlInfer, red: Path) -> None:
    """In a deleted folder, a command fails with that reason, unless a project is named."""
    image = red.resolve()
    image.rename(image.parents[1] / "red.png")
    image.parent.rmdir()
    run = mlinfer("predict", image.parents[1] / "red.png", "--json")
    assert (run.code, json.loads(run.out)["error"]["code"]) == (3, "no_folder")


def test_init_over_a_folder(mlinfer: MlInfer) -> None:
    """`init` fails with the reason if mlinfer.toml is a folder."""
    Path("mlinfer.toml").mkdir()
    run = mlinfer("init")
    assert run.code == 2
    assert "mlinfer.toml" in run.err
