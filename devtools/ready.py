"""Wait for what another process starts."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(ready: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Return as soon as `ready` is true; an OSError counts as not ready.

    Raises:
        TimeoutError: it was not ready in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        reason = ""
        try:
            if ready():
                return
        except OSError as error:  # http.client's for a cut connection are of this kind too
            reason = f": {error}"
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} is not ready after {seconds:g} s{reason}")
        time.sleep(0.02)
