"""The commands that make, show and keep model files: export, inspect, upload; and init, which writes the configuration."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...config import FILE_NAME, Config, template
from ...errors import UsageError
from ...files import write_whole
from ...terminal import Terminal
from ..options import (
    JsonFlag,
    ProfileFlag,
    ProjectFlag,
    QuietFlag,
    RegionFlag,
    VerboseFlag,
    app,
    configuration,
    require,
)

if TYPE_CHECKING:
    from ...model.modelfile import ModelFile


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
        Path | None,
        typer.Option(
            metavar="FILE", help="Names of the classes: one per line, JSON, or a config.json of Hugging Face."
        ),
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
    force: Annotated[
        bool, typer.Option("--force", help="Replace a file at --out that is not a model file of mlinfer.")
    ] = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> None:
    """Make one self-describing model file, and prove that it answers as its source does:  mlinfer export resnet18"""
    from ...model import export as step
    from ...model.source import Answers

    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    answers = Answers(name, None, preprocess, output_kind, output)
    request = step.Request(model, weights, answers, out, quantize, calibration, allow_drop, labels, force)
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
    values = configuration(model=model)
    if config:
        _show_config(terminal, values)
        return
    from ...model import modelfile
    from ...targets import embedded

    path = embedded.model_path(values)
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
        str | None,
        typer.Option("--prefix", help="Prefix of the key; default: as configured, else models.", show_default=False),
    ] = None,
    create_bucket: Annotated[
        bool, typer.Option("--create-bucket", help="Make the bucket if there is none: private, encrypted, versioned.")
    ] = False,
    project: ProjectFlag = None,
    region: RegionFlag = None,
    profile: ProfileFlag = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> None:
    """Put a model file into S3 under its hash:  mlinfer upload models/resnet18.onnx --bucket my-models"""
    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    config = configuration(model=model, bucket=bucket, prefix=prefix, project=project)
    from ...clients import aws
    from ...cloud.resources import model_object as step
    from ...model import modelfile
    from ...targets import embedded

    session = aws.Session(region=region, profile=profile, ask=terminal.ask_secret)
    places = [session.require_region] if create_bucket else []
    require(partial(_require_bucket, config), lambda: embedded.model_path(config), *places, session.require_credentials)
    file = modelfile.read_model_file(embedded.model_path(config))
    key = step.object_key(file, config.prefix)
    s3 = session.client("s3")

    def owner() -> str:
        return aws.find_account(session.client("sts")).id

    if create_bucket and step.ensure_bucket(s3, config.bucket, config.project, owner, config.kms_key):
        terminal.note(f"Made the bucket {config.bucket} ({s3.meta.region_name}): private, encrypted, versioned.")
    with terminal.bytes_bar(file.bytes, "Uploading") as advance:
        result = step.upload(s3, file, config.bucket, key, advance, config.kms_key)
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


def _require_bucket(config: Config) -> None:
    if not config.bucket:
        hint = "Name one with --bucket (--create-bucket makes it), or bucket in mlinfer.toml."
        raise UsageError("no_bucket", "no S3 bucket is named", hint)


def _show_model(terminal: Terminal, file: ModelFile) -> None:
    from ...model import modelfile

    facts = modelfile.describe(file, *modelfile.read_ports(file.path))
    if terminal.as_json:
        terminal.document(facts)
    else:
        terminal.rows((name.replace("_", " "), modelfile.in_words(value)) for name, value in facts.items())


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError("config_unreadable", f"{path} cannot be read: {error.strerror}") from error


def _show_config(terminal: Terminal, config: Config) -> None:
    if terminal.as_json:
        terminal.document({name: {"value": value, "origin": origin} for name, value, origin in config.items()})
    else:
        rows = [(name, "(none)" if value in ("", 0) else str(value), origin) for name, value, origin in config.items()]
        terminal.rows(rows, header=("key", "value", "from"))
