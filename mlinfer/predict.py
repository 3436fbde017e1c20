"""Ask a target for predictions: one function behind all of them, and the handler package behind each."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lambda_src.errors import FaultError
from lambda_src.service import Service
from lambda_src.settings import Settings, default_threads

from .config import Config
from .errors import ImageError, MissingError, MlinferError, UsageError

STARTER = Path(__file__).with_name("starter.onnx")

# Takes a picture's name and bytes and top_k, and returns the handler's answer. Raises MlinferError, FaultError.
Target = Callable[[str, bytes, int], dict[str, Any]]


@dataclass(frozen=True)
class Picture:
    """An image to ask about; `read` returns its bytes or raises OSError."""

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Result:
    """The outcome for one picture: the answer's body (design: the handler's document), or what went wrong."""

    name: str
    body: dict[str, Any]
    error: MlinferError | None = None


def model_path(config: Config) -> Path:
    """Return the configured model file, or the starter model. Raises MissingError."""
    path = Path(config.model) if config.model else STARTER
    if not path.is_file():
        hint = "Give another file, or leave it out to use the starter model."
        raise MissingError("model_not_found", f"there is no model file {path} (from {config.origins['model']})", hint)
    return path


def event(data: bytes, top_k: int) -> dict[str, Any]:
    """Return the event of a direct invocation."""
    return {"image": base64.b64encode(data).decode("ascii"), "top_k": top_k}


def service(config: Config, log: Callable[[str], None]) -> Service:
    """Return the handler's service in this process, with the model loaded. Raises MlinferError."""
    path = model_path(config)
    threads = config.threads or default_threads({})
    made = Service(Settings(str(path), threads=threads, max_pixels=config.max_pixels), log)
    try:
        made.load()
    except FaultError as error:
        hint = "A model needs its labels and pre-processing inside: see `mlinfer inspect`."
        raise UsageError("unusable_model", f"{path}: {error}", hint) from error
    return made


def embedded(config: Config, log: Callable[[str], None]) -> Target:
    """Return the target that runs the handler package in this process. Raises MlinferError."""
    asked = service(config, log)
    return lambda _, data, top_k: asked.answer(event(data, top_k))


def predict(pictures: Iterable[Picture], target: Target, top_k: int) -> Iterator[Result]:
    """Ask about each picture in turn. What is wrong with one picture is its result and stops no other."""
    for picture in pictures:
        try:
            yield Result(picture.name, _ask(picture, target, top_k))
        except MlinferError as error:
            yield Result(picture.name, {}, error)


def _ask(picture: Picture, target: Target, top_k: int) -> dict[str, Any]:
    try:
        data = picture.read()
    except FileNotFoundError as error:
        raise UsageError("no_such_file", f"there is no file {picture.name}") from error
    except IsADirectoryError as error:
        hint = f"Name the files: {picture.name.rstrip('/')}/*.jpg"
        raise UsageError("is_a_directory", f"{picture.name} is a directory", hint) from error
    except OSError as error:
        raise UsageError("file_unreadable", f"{picture.name} cannot be read: {error.strerror}") from error
    try:
        answer = target(picture.name, data, top_k)
    except FaultError as error:
        raise UsageError("unusable_model", str(error), "The model does not do what its metadata says.") from error
    body: dict[str, Any] = answer["body"]
    if answer["statusCode"] != 200:
        hint = "The limit follows max_pixels in mlinfer.toml." if body["error"]["code"] == "image_too_large" else ""
        raise ImageError(body["error"]["code"], f"{picture.name}: {body['error']['message']}", hint)
    return body
