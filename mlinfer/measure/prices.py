"""What Lambda costs: a dated table of prices, and the formula of https://aws.amazon.com/lambda/pricing/.

Billed are the request, and memory times duration: from the start of the runtime, in the cold case, or of the handler to
its end, rounded up to a millisecond. The free tier, /tmp above 512 MB, S3, logs and traffic are not counted.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import ARCHITECTURES
from ..errors import MissingError, UsageError

TABLE = Path(__file__).with_name("prices.toml")
MB_PER_GB = 1024


@dataclass(frozen=True)
class Prices:
    """US dollars: of one request, and of a GB for a second by architecture. date: of the table."""

    date: str
    region: str
    request: float
    gb_second: Mapping[str, float]


def read_prices(path: Path = TABLE) -> Prices:
    """Read a table of prices. Raises MissingError, UsageError."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingError("file_not_found", f"there is no price table {path}", f"Its form: {TABLE}") from error
    except (OSError, ValueError) as error:
        raise UsageError("invalid_prices", f"the price table {path} cannot be read: {error}") from error
    try:
        gb_second = {arch: _price(table["gb_second"][arch]) for arch in ARCHITECTURES}
        return Prices(str(table["date"]), str(table["region"]), _price(table["request"]), gb_second)
    except (KeyError, TypeError, ValueError) as error:
        message = f"the price table {path} does not give date, region, request and gb_second for both architectures"
        raise UsageError("invalid_prices", message, f"Its form: {TABLE}") from error


def per_million(
    prices: Prices, warm_s: Sequence[float], cold_s: Sequence[float], *, memory: int, arch: str, cold_share: float
) -> float | None:
    """Return US dollars per million predictions, of which `cold_share` (0..1) meet a cold start.

    memory: MB. warm_s, cold_s: measured durations that are billed, in seconds. None where a needed one was not measured.
    """
    if (not warm_s and cold_share < 1) or (not cold_s and cold_share > 0):
        return None
    shares = (((1 - cold_share), warm_s), (cold_share, cold_s))
    seconds = sum(share * sum(map(billed, durations)) / len(durations) for share, durations in shares if share)
    return 1e6 * (prices.request + seconds * memory / MB_PER_GB * prices.gb_second[arch])


def billed(seconds: float) -> float:
    """Return what is billed of a duration: whole milliseconds, rounded up, in seconds."""
    return math.ceil(round(seconds * 1000, 6)) / 1000  # round: 0.12 * 1000 is a little over 120


def _price(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(value)
    return float(value)
