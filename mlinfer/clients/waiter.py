"""Wait for changes in AWS, which often take effect after the API call has returned."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import TypeVar

from botocore.exceptions import ClientError

T = TypeVar("T")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0
LIMIT_S = 300  # as long as botocore's own waiters for functions


class Waiter:
    """Waits with growing pauses. sleep: takes seconds. tell: takes a progress message."""

    def __init__(self, sleep: Callable[[float], None], tell: Callable[[str], None]) -> None:
        self._sleep = sleep
        self._tell = tell

    def pauses(self, reason: str, limit_s: float = LIMIT_S) -> Iterator[bool]:
        """Sleep with growing pauses and yield after each, until they add up to the limit."""
        self._tell(f"Waiting: {reason} ...")
        waited, pause = 0.0, FIRST_PAUSE_S
        while waited < limit_s:
            now = pause * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, so that parallel callers do not retry at once
            self._sleep(now)
            waited += now
            yield True
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def retry(self, call: Callable[[], T], reason_to_wait: Callable[[ClientError], str], limit_s: float = LIMIT_S) -> T:
        """Repeat the call while there is a reason to wait; then raise the last ClientError."""
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
