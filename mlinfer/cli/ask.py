"""The command that asks a target: predict."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lambda_src.settings import MAX_IMAGE_BYTES

from ..config import Config
from ..errors import ImageError, UsageError
from ..terminal import Terminal
from .options import JsonFlag, ModelFlag, PortFlag, QuietFlag, VerboseFlag, app, configuration

if TYPE_CHECKING:
    from ..predict import Result, Target

SLACK_S = 15  # beyond the function's timeout: the start of a container and the way there


@app.command()
def predict(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Image files; - reads one from stdin.")],
    model: ModelFlag = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="embedded|local|aws",
            help="Where to ask: in this process, mlinfer run-local, or AWS.",
            show_default=False,
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option("--top-k", "-k", help="Classes per image; default: 5, of several images 1.", show_default=False),
    ] = None,
    port: PortFlag = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> int:
    """Name the classes of images:  mlinfer predict cat.jpg

    One image gives a table, or with --json the handler's document. Several give a line each, or JSON Lines in the order of the input. An image that cannot be read stops no other; the exit code is then 5.
    """
    from .. import predict as step

    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    config = configuration(model=model, target=target, top_k=top_k, port=port)
    pictures = [step.Picture(name, partial(_read, name)) for name in images]
    ask = _target(terminal, config)
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


def _target(terminal: Terminal, config: Config) -> Target:
    """Return what answers, with the client that it needs."""
    from .. import predict

    if config.target == "embedded":
        return predict.embedded(config, log=terminal.detail)
    from .. import aws, invoke
    from ..files import alone

    url = f"http://127.0.0.1:{config.port}"
    client = aws.make_emulator_client(url, read_timeout=config.timeout + SLACK_S)
    return invoke.emulator(client, terminal.note, config.max_pixels, partial(alone, f"mlinfer-{config.port}"))


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
