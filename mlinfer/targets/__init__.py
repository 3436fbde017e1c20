"""Where pictures are asked about: a target takes one picture, and `predict` asks it about many.

Each target is a module with a `make_target`: embedded.py (this process), emulator.py (the container of run-local), aws.py
(Lambda's Invoke API) and url.py (the function's URL).
"""

from __future__ import annotations

import base64
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from lambda_src.errors import FaultError

from ..errors import ImageError, InvocationError, MlinferError, UsageError

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


def make_event(data: bytes, top_k: int) -> dict[str, Any]:
    """Return the event of a direct invocation."""
    return {"image": base64.b64encode(data).decode("ascii"), "top_k": top_k}


def predict(pictures: Iterable[Picture], target: Target, top_k: int, *, jobs: int = 1) -> Iterator[Result]:
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


def read_picture(picture: Picture) -> bytes:
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
    data = read_picture(picture)
    try:
        answer = target(picture.name, data, top_k)
    except FaultError as error:
        raise UsageError("unusable_model", str(error), "The model does not do what its metadata says.") from error
    body: dict[str, Any] = answer["body"]
    if answer["statusCode"] != 200:
        code, message = body["error"]["code"], body["error"]["message"]
        follows = code == "image_too_large" and re.search("more than [0-9,]+ pixels$", message)
        hint = "The limit follows max_pixels in mlinfer.toml." if follows else ""
        raise ImageError(code, f"{picture.name}: {message}", hint)
    return body
