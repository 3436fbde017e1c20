"""The commands. Each makes what a step needs, calls that one step and shows its result."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lambda_src.settings import MAX_IMAGE_BYTES

from . import __version__
from .config import FILE_NAME, Config, load_config, template
from .errors import ImageError, MlinferError, ReaderGoneError, UsageError
from .files import write_whole
from .terminal import Terminal

if TYPE_CHECKING:
    from .modelfile import ModelFile
    from .predict import Result

app = typer.Typer(
    name="mlinfer",
    help="Take an image classifier from a laptop to AWS Lambda, and prove at each step that the answer has not changed.\n\n"
    "Start with:  mlinfer predict cat.jpg",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ModelFlag = Annotated[
    str | None,
    typer.Option("--model", metavar="FILE", help="Model file; default: the starter model.", show_default=False),
]
RegionFlag = Annotated[
    str | None, typer.Option("--region", help="AWS Region; default: as boto3 finds it.", show_default=False)
]
ProfileFlag = Annotated[
    str | None, typer.Option("--profile", help="AWS profile; default: as boto3 finds it.", show_default=False)
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Write JSON to stdout, and nothing else there.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="Write nothing to stderr but errors.")]
VerboseFlag = Annotated[
    bool, typer.Option("--verbose", "-v", help="Show the handler's log lines, and the traceback of an error.")
]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: the one place where failures become messages."""
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    terminal = _terminal(arguments)
    try:
        return _run(arguments, terminal)
    except ReaderGoneError:
        return 141  # what a shell reports of a program that SIGPIPE ended
    except MlinferError as error:  # the report of a failure could not be written either
        terminal.failure(str(error))
        return error.exit_code


def _run(arguments: list[str], terminal: Terminal) -> int:
    try:
        code = app(arguments, prog_name="mlinfer", standalone_mode=False)
    except typer.TyperException as error:
        terminal.error(_usage_error(error))
        return UsageError.exit_code
    except typer.Abort:
        code = 130
    except MlinferError as error:
        terminal.error(error)
        return error.exit_code
    except ReaderGoneError:
        raise
    except Exception as error:
        terminal.defect(error)
        return 1
    if code == 130:
        terminal.note("Interrupted.")
    return int(code or 0)


def _show_version(wanted: bool) -> None:
    if wanted:
        Terminal().text(f"mlinfer {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def predict(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Image files; - reads one from stdin.")],
    model: ModelFlag = None,
    target: Annotated[
        str | None, typer.Option("--target", help="Where to ask: embedded (in this process).", show_default=False)
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option("--top-k", "-k", help="Classes per image; default: 5, of several images 1.", show_default=False),
    ] = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> int:
    """Name the classes of images:  mlinfer predict cat.jpg

    One image gives a table, or with --json the handler's document. Several give a line each, or JSON Lines in the order of the input. An image that cannot be read stops no other; the exit code is then 5.
    """
    from . import predict as step

    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    config = _config(model=model, target=target, top_k=top_k)
    pictures = [step.Picture(name, partial(_read, name)) for name in images]
    ask = step.embedded(config, log=terminal.detail)
    results: list[Result] = []
    try:
        for result in terminal.track(step.predict(pictures, ask, config.top_k), len(pictures), "Predicting"):
            results.append(result)
            if as_json and len(pictures) > 1:
                terminal.document(_line(result), lines=True)
    finally:  # an interrupted batch shows what it has
        if not as_json:
            _show_predictions(terminal, results, config, alone=len(pictures) == 1)
    failed = [result.error for result in results if result.error]
    if len(pictures) == 1:
        if failed:
            raise failed[0]
        if as_json:
            terminal.document(results[0].body)
    elif not as_json:
        for error in failed:
            terminal.failure(str(error))
    _say_who_answered(terminal, results, config)
    if failed:
        terminal.note(f"{len(failed)} of {len(results)} images could not be classified.")
    return ImageError.exit_code if failed else 0


@app.command()
def export(
    model: Annotated[
        str, typer.Argument(metavar="[ARCH|FILE.onnx]", help="A classifier of torchvision by name, or an ONNX file.")
    ] = "resnet18",
    weights: Annotated[
        str | None,
        typer.Option(metavar="NAME|random|FILE", help="Weights of torchvision, or a state dict; default: the best."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Names of the classes: one per line, or a JSON list.")
    ] = None,
    preprocess: Annotated[
        str | None, typer.Option(metavar="imagenet|none|JSON", help="How a picture becomes an ONNX file's input.")
    ] = None,
    output_kind: Annotated[
        str | None, typer.Option(metavar="logits|probabilities", help="What an ONNX file's output holds.")
    ] = None,
    output: Annotated[str | None, typer.Option(metavar="NAME", help="Which of several outputs to keep.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model; default: the architecture's or file's.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to; default: models/NAME.onnx.")] = None,
    quantize: Annotated[
        str | None, typer.Option(metavar="int8", help="A quarter of the size and a third of the time, checked.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Pictures to check with; a subfolder per class gives accuracies.")
    ] = None,
    allow_drop: Annotated[
        bool, typer.Option("--allow-drop", help="Keep an int8 file that answers differently.")
    ] = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> None:
    """Make one self-describing model file, and prove that it answers as its source does:  mlinfer export resnet18"""
    from . import export as step
    from .source import Answers

    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    answers = Answers(name, labels, preprocess, output_kind, output)
    request = step.Request(model, weights, answers, out, quantize, calibration, allow_drop)
    file = step.export(request, tell=terminal.note, track=terminal.track)
    _show_model(terminal, file)


@app.command()
def inspect(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="Model file; default: the configured one.")
    ] = None,
    config: Annotated[
        bool, typer.Option("--config", help="Show the configuration and where each value came from.")
    ] = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> None:
    """Show what a model file says of itself:  mlinfer inspect models/resnet18.onnx"""
    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    values = _config(model=model)
    if config:
        _show_config(terminal, values)
        return
    from . import modelfile, predict

    path = predict.model_path(values)
    file = modelfile.read_model_file(path)
    _show_model(terminal, file)
    if file.metadata is None:
        terminal.note(
            "The file has no mlinfer metadata: its labels and pre-processing are unknown, so it cannot predict yet."
        )


@app.command()
def upload(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="Model file; default: the configured one.")
    ] = None,
    bucket: Annotated[str | None, typer.Option("--bucket", help="S3 bucket.", show_default=False)] = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", help="Prefix of the key; default: models.", show_default=False)
    ] = None,
    create_bucket: Annotated[
        bool, typer.Option("--create-bucket", help="Make the bucket if there is none: private, encrypted, versioned.")
    ] = False,
    region: RegionFlag = None,
    profile: ProfileFlag = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> None:
    """Put a model file into S3 under its hash:  mlinfer upload models/resnet18.onnx --bucket my-models"""
    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    config = _config(model=model, bucket=bucket, prefix=prefix)
    if not config.bucket:
        hint = (
            "Name one: mlinfer upload --bucket my-models (with --create-bucket it is made), or bucket in mlinfer.toml"
        )
        raise UsageError("no_bucket", "no S3 bucket is named", hint)
    from . import aws, modelfile, predict
    from . import upload as step

    file = modelfile.read_model_file(predict.model_path(config))
    key = step.object_key(file, config.prefix)
    s3 = aws.make_client("s3", region=region, profile=profile, needs_region=create_bucket)
    if create_bucket and step.ensure_bucket(s3, config.bucket, config.project):
        terminal.note(f"Made the bucket {config.bucket} ({s3.meta.region_name}): private, encrypted, versioned.")
    with terminal.bytes_bar(file.bytes, "Uploading") as advance:
        result = step.upload(s3, file, config.bucket, key, advance)
    if as_json:
        terminal.document(asdict(result))
    else:
        terminal.text(result.uri)
    done = {"uploaded": "Uploaded, and its SHA-256 confirmed by S3", "unchanged": "It was there already, unchanged"}
    terminal.note(f"{done[result.outcome]}: {result.bytes:,} bytes.")


@app.command()
def init(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Replace a file that is there without asking.")] = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> None:
    """Write a commented mlinfer.toml here:  mlinfer init"""
    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    path = Path(FILE_NAME)
    before = _content(path)
    content = template().encode()
    if before not in (None, content) and not yes and not terminal.confirm(f"{FILE_NAME} exists. Replace it?"):
        raise UsageError(
            "file_exists", f"{FILE_NAME} exists and was left as it is", "Replace it with: mlinfer init --yes"
        )
    if before != content:
        write_whole(path, content)
    outcome = "made" if before is None else "unchanged" if before == content else "replaced"
    if as_json:
        terminal.document({"file": FILE_NAME, "outcome": outcome})
    terminal.note(f"{FILE_NAME}: {outcome}.")


def _show_model(terminal: Terminal, file: ModelFile) -> None:
    from . import modelfile

    facts = modelfile.describe(file, *modelfile.read_ports(file.path))
    if terminal.as_json:
        terminal.document(facts)
    else:
        terminal.rows((name.replace("_", " "), modelfile.in_words(value)) for name, value in facts.items())


def _config(**flags: object) -> Config:
    return load_config(Path(), os.environ, flags)


def _read(name: str) -> bytes:
    """Read an image, and of what can be none only as much as shows it."""
    if not name:
        raise UsageError("usage", "the name of an image is empty", "See: mlinfer predict --help")
    if name != "-":
        with Path(name).open("rb") as file:
            return file.read(MAX_IMAGE_BYTES + 1)
    if sys.stdin.isatty():
        raise UsageError(
            "no_input", "- reads an image from stdin, but stdin is a terminal", "Pipe one: mlinfer predict - < cat.jpg"
        )
    return sys.stdin.buffer.read(MAX_IMAGE_BYTES + 1)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError("config_unreadable", f"{path} cannot be read: {error.strerror}") from error


def _short_names(results: Sequence[Result]) -> dict[str, str]:
    """Return each image's name without its folder, unless two would then be the same."""
    full = {result.name for result in results}
    short = {name: Path(name).name for name in full}
    return short if len(set(short.values())) == len(full) else {name: name for name in full}


def _line(result: Result) -> dict[str, Any]:
    return {"image": result.name, **({"error": result.error.as_json()} if result.error else result.body)}


def _show_predictions(terminal: Terminal, results: list[Result], config: Config, *, alone: bool) -> None:
    """Draw one image's classes, or a line for each of several unless --top-k asks for more."""
    count = 1 if config.origins["top_k"] == "default" and not alone else config.top_k
    names, rows = _short_names(results), []
    for result in results:
        for place, prediction in enumerate(result.body.get("predictions", [])[:count]):
            name = () if alone else (names[result.name] if place == 0 else "",)
            rows.append((*name, prediction["label"], float(prediction["score"])))
    if rows:
        terminal.rows(rows)


def _say_who_answered(terminal: Terminal, results: list[Result], config: Config) -> None:
    model = next((result.body["model"] for result in results if not result.error), None)
    if model is None:
        return
    terminal.note(f"Answered by {model['name']} ({model['sha256'][:12]}), target {config.target}.")
    if not config.model:
        terminal.note("It knows CIFAR-10's ten classes. For ResNet-18's thousand: mlinfer export resnet18")


def _show_config(terminal: Terminal, config: Config) -> None:
    if terminal.as_json:
        terminal.document({name: {"value": value, "origin": origin} for name, value, origin in config.items()})
    else:
        rows = [(name, "(none)" if value in ("", 0) else str(value), origin) for name, value, origin in config.items()]
        terminal.rows(rows, header=("key", "value", "from"))


def _terminal(arguments: Sequence[str]) -> Terminal:
    """Make the terminal for failures, which can come before the arguments are parsed."""
    given = set(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    return Terminal(
        as_json="--json" in given, quiet=bool(given & {"-q", "--quiet"}), verbose=bool(given & {"-v", "--verbose"})
    )


def _usage_error(error: typer.TyperException) -> UsageError:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "mlinfer"
    return UsageError("usage", error.format_message().rstrip("."), f"See: {command} --help")
