"""Run the model on images. A target classifies one image, and `predict` sends it many.

Each target is a module with `make_target`: embedded.py (this process), emulator.py (run-local), aws.py (Lambda's Invoke
API) and url.py (the function URL).
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

# Takes an image's name, its bytes and top_k; returns the handler's response. Raises MlinferError, FaultError.
Target = Callable[[str, bytes, int], dict[str, Any]]


@dataclass(frozen=True)
class Picture:
    """An image to classify. read: returns its bytes or raises OSError."""

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Result:
    """The result for one image: the body of the handler's response, or an error."""

    name: str
    body: dict[str, Any]
    error: MlinferError | None = None


def make_event(data: bytes, top_k: int) -> dict[str, Any]:
    """Return the event for a direct invocation."""
    return {"image": base64.b64encode(data).decode("ascii"), "top_k": top_k}


def predict(pictures: Iterable[Picture], target: Target, top_k: int, *, jobs: int = 1) -> Iterator[Result]:
    """Classify the images, `jobs` at a time, and yield a result for each in order.

    An error of one image is its result and does not stop the others. After an error that `ends_batch`, all remaining images
    get that error as their result without being sent.
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
            if len(running) == 2 * jobs:  # limits how many images are in memory
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def ends_batch(error: MlinferError) -> bool:
    """Return whether every other image would fail with the same error."""
    return not isinstance(error, ImageError | UsageError | InvocationError)


def read_picture(picture: Picture) -> bytes:
    """Return the bytes of an image. Raises ImageError."""
    try:
        return picture.read()
    except FileNotFoundError as error:
        raise ImageError("image_not_found", f"file {picture.name} does not exist") from error
    except IsADirectoryError as error:
        hint = f"Pass the files in it: {picture.name.rstrip('/')}/*.jpg"
        raise ImageError("is_a_directory", f"{picture.name} is a directory", hint) from error
    except OSError as error:
        raise ImageError("file_unreadable", f"cannot read {picture.name}", reason=error.strerror) from error


def _ask(picture: Picture, target: Target, top_k: int) -> dict[str, Any]:
    data = read_picture(picture)
    try:
        answer = target(picture.name, data, top_k)
    except FaultError as error:
        hint = "Export the model again: its output does not match its metadata."
        raise UsageError("unusable_model", str(error), hint) from error
    body: dict[str, Any] = answer["body"]
    if answer["statusCode"] != 200:
        code, message = body["error"]["code"], body["error"]["message"]
        follows = code == "image_too_large" and re.search("more than [0-9,]+ pixels$", message)
        hint = "Increase max_pixels in mlinfer.toml." if follows else ""
        raise ImageError(code, f"{picture.name}: {message}", hint)
    return body
