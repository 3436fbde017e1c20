"""Ask a target for predictions: one function behind all of them, and the handler package behind each."""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import LifoQueue
from typing import Any

from lambda_src.errors import FaultError
from lambda_src.inference.download import sha256_of
from lambda_src.service import Service
from lambda_src.settings import Settings, default_threads

from ..config import STARTER as STARTER_NAME
from ..config import Config
from ..errors import ImageError, InvocationError, MissingError, MlinferError, UsageError
from .answers import NamedModel, require_model

STARTER = Path(__file__).parents[1] / "starter.onnx"

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
    path = STARTER if config.model in ("", STARTER_NAME) else Path(config.model)
    if path.is_dir():
        from ..model.formats import recognise_folder
        from ..model.modelfile import not_a_model

        raise not_a_model(path, recognise_folder(path))
    if not path.is_file():
        hint = "Give another file, or leave it out to use the starter model."
        raise MissingError("model_not_found", f"there is no model file {path} (from {config.origins['model']})", hint)
    return path


def named_model(config: Config, remedy: str) -> NamedModel | None:
    """Return the model file that a flag, variable or file names; None where nothing does. Raises MissingError."""
    if config.origins["model"] == "default":
        return None
    path = model_path(config)
    return NamedModel(config.model, sha256_of(path), config.origins["model"], remedy)


def only(named: NamedModel | None, target: Target, kind: str) -> Target:
    """Return the target, of kind local or aws, that raises VerificationError where another model answers."""

    def ask(name: str, data: bytes, top_k: int) -> dict[str, Any]:
        answer = target(name, data, top_k)
        if answer["statusCode"] == 200:
            require_model(answer["body"]["model"], named, kind)
        return answer

    return ask


def event(data: bytes, top_k: int) -> dict[str, Any]:
    """Return the event of a direct invocation."""
    return {"image": base64.b64encode(data).decode("ascii"), "top_k": top_k}


def service(config: Config, log: Callable[[str], None], threads: int = 0) -> Service:
    """Return the handler's service in this process, with the model loaded; threads: 0 = as configured. Raises MlinferError."""
    path = model_path(config)
    made = Service(Settings(str(path), threads=threads or thread_count(config), max_pixels=config.max_pixels), log)
    try:
        made.load()
    except FaultError as error:
        from ..model.modelfile import read_model_file, require_metadata

        require_metadata(read_model_file(path))  # if it is another kind of file, or has no labels: that is the reason
        raise UsageError("unusable_model", f"{path}: {error}", "Export the model again.") from error
    return made


def thread_count(config: Config) -> int:
    """Return the configured threads of onnxruntime; without them, the cores that this process may use."""
    return config.threads or default_threads({})


def embedded(config: Config, log: Callable[[str], None], jobs: int = 1) -> Target:
    """Return the target that runs the handler package in this process, for `jobs` callers at once. Raises MlinferError.

    Each of them has a service of its own, and its share of the threads: two pictures on a core each are done sooner than
    one after the other on two cores, where decoding leaves the second one idle.
    """
    threads = max(1, thread_count(config) // jobs)
    idle: LifoQueue[Service] = LifoQueue()
    for _ in range(jobs):
        idle.put(service(config, log, threads))

    def ask(_: str, data: bytes, top_k: int) -> dict[str, Any]:
        asked = idle.get()
        try:
            return asked.answer(event(data, top_k))
        finally:
            idle.put(asked)

    return ask


def predict(pictures: Iterable[Picture], target: Target, top_k: int, jobs: int = 1) -> Iterator[Result]:
    """Ask about the pictures, `jobs` at a time, and yield a result for each, in their order.

    What is wrong with one picture is its result and stops no other. After an error that `ends_batch`, the pictures that
    were not asked about yet have it as their result.
    """
    ended: MlinferError | None = None

    def result(picture: Picture) -> Result:
        nonlocal ended
        if ended:
            return Result(picture.name, {}, ended)
        try:
            return Result(picture.name, _ask(picture, target, top_k))
        except MlinferError as error:
            if ends_batch(error):
                ended = ended or error
            return Result(picture.name, {}, error)

    if jobs == 1:
        yield from map(result, pictures)
        return
    from concurrent.futures import Future, ThreadPoolExecutor

    pool = ThreadPoolExecutor(jobs)
    running: deque[Future[Result]] = deque()
    try:
        for picture in pictures:
            running.append(pool.submit(result, picture))
            if len(running) == 2 * jobs:  # so that few pictures are in memory
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def ends_batch(error: MlinferError) -> bool:
    """Tell whether every other picture would meet the error, too."""
    return not isinstance(error, ImageError | UsageError | InvocationError)


def read(picture: Picture) -> bytes:
    """Return the picture's bytes. Raises ImageError."""
    try:
        return picture.read()
    except FileNotFoundError as error:
        raise ImageError("image_not_found", f"there is no file {picture.name}") from error
    except IsADirectoryError as error:
        hint = f"Name the files: {picture.name.rstrip('/')}/*.jpg"
        raise ImageError("is_a_directory", f"{picture.name} is a directory", hint) from error
    except OSError as error:
        raise ImageError("file_unreadable", f"{picture.name} cannot be read: {error.strerror}") from error


def _ask(picture: Picture, target: Target, top_k: int) -> dict[str, Any]:
    data = read(picture)
    try:
        answer = target(picture.name, data, top_k)
    except FaultError as error:
        raise UsageError("unusable_model", str(error), "The model does not do what its metadata says.") from error
    body: dict[str, Any] = answer["body"]
    if answer["statusCode"] != 200:
        hint = "The limit follows max_pixels in mlinfer.toml." if body["error"]["code"] == "image_too_large" else ""
        raise ImageError(body["error"]["code"], f"{picture.name}: {body['error']['message']}", hint)
    return body
