"""Create the events of a measurement, and check that the model that the user chose handles them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from ..clients.invocation import MAX_REQUEST_BYTES
from ..config import Config
from ..errors import UsageError
from ..model import samples
from ..targets import Picture, embedded, make_event, predict, read_picture
from ..targets.answers import NamedModel, require_model
from .instance import Sample


def make_events(config: Config, pictures: Sequence[Picture]) -> list[bytes]:
    """Return an event as JSON for each image, or for a generated one. Raises MlinferError.

    Unless the target is aws, each image is first classified in this process, to find invalid ones.
    """
    found = pictures or [Picture("drawn.jpg", samples.draw_jpeg)]
    held = [Picture(picture.name, partial(bytes, read_picture(picture))) for picture in found]
    if config.target != "aws":
        for result in predict(held, embedded.make_target(config, log=lambda _: None), config.top_k):
            if result.error:
                raise result.error
    bodies = [json.dumps(make_event(picture.read(), config.top_k)).encode() for picture in held]
    largest = max(map(len, bodies))
    if largest > MAX_REQUEST_BYTES and config.target != "embedded":
        message = f"an image makes a request of {largest:,} bytes, but Lambda's limit is {MAX_REQUEST_BYTES:,} bytes"
        raise UsageError("usage", message, "Resize the image.")
    return bodies


def check_answers(samples: Iterable[Sample], named: NamedModel | None, target: str) -> Iterator[Sample]:
    """Pass the samples on. Raises VerificationError if another model made a prediction."""
    for sample in samples:
        require_model(sample.model, named, target)
        yield sample
