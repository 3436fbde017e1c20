"""Wait for AWS, which does most things after it has said that they are done."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import TypeVar

from botocore.exceptions import ClientError

T = TypeVar("T")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0
LIMIT_S = 300  # what botocore's own waiters for functions take


class Waiter:
    """How to wait: `sleep` takes seconds, `tell` a sentence about what is waited for."""

    def __init__(self, sleep: Callable[[float], None], tell: Callable[[str], None]) -> None:
        self._sleep = sleep
        self._tell = tell

    def pauses(self, reason: str, limit_s: float = LIMIT_S) -> Iterator[bool]:
        """Yield after each of ever longer pauses, until they add up to the limit."""
        self._tell(f"Waiting: {reason} ...")
        waited, pause = 0.0, FIRST_PAUSE_S
        while waited < limit_s:
            now = pause * random.uniform(0.5, 1.0)  # noqa: S311 - so that several who wait do not ask at once
            self._sleep(now)
            waited += now
            yield True
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def retry(self, call: Callable[[], T], reason_to_wait: Callable[[ClientError], str], limit_s: float = LIMIT_S) -> T:
        """Call again while there is a reason to wait; raise what the last call raised."""
        pauses: Iterator[bool] | None = None
        while True:
            try:
                return call()
            except ClientError as error:
                reason = reason_to_wait(error)
                if not reason:
                    raise
                pauses = pauses or self.pauses(reason, limit_s)
                if not next(pauses, False):
                    raise
