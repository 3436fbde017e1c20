"""What a measured function is asked, and that the model which the user named answers."""

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
    """Return the JSON of an event for each picture, or for a drawn one. Raises MlinferError.

    But for aws, the configured model has answered each in this process.
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
        raise UsageError("usage", f"a picture makes a request of {largest:,} bytes; Lambda takes 6 MB", "Reduce it.")
    return bodies


def check_answers(samples: Iterable[Sample], named: NamedModel | None, target: str) -> Iterator[Sample]:
    """Pass the samples on while the named model answers. Raises VerificationError."""
    for sample in samples:
        require_model(sample.model, named, target)
        yield sample
