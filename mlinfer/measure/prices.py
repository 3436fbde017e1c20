"""Compute the cost of Lambda from a dated price table (https://aws.amazon.com/lambda/pricing/).

Lambda bills each request, and memory times duration, rounded up to 1 ms. A cold start is billed from the start of the
runtime. The free tier, /tmp above 512 MB, S3, logs and traffic are not included.
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

_EXAMPLE = f"Use the format of {TABLE}."


@dataclass(frozen=True)
class Prices:
    """Prices in US dollars. request: per request. gb_second: per GB-second, by architecture. date: of the table."""

    date: str
    region: str
    request: float
    gb_second: Mapping[str, float]


def read_prices(path: Path = TABLE) -> Prices:
    """Read a price table. Raises MissingError, UsageError."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingError("file_not_found", f"price table {path} does not exist", _EXAMPLE) from error
    except (OSError, ValueError) as error:
        raise UsageError("invalid_prices", f"cannot read the price table {path}", _EXAMPLE, reason=error) from error
    try:
        gb_second = {arch: _price(table["gb_second"][arch]) for arch in ARCHITECTURES}
        return Prices(str(table["date"]), str(table["region"]), _price(table["request"]), gb_second)
    except (KeyError, TypeError, ValueError) as error:
        message = f"price table {path} needs date, region, request, and gb_second for both architectures"
        raise UsageError("invalid_prices", message, _EXAMPLE) from error


def per_million(
    prices: Prices, warm_s: Sequence[float], cold_s: Sequence[float], *, memory: int, arch: str, cold_share: float
) -> float | None:
    """Return US dollars per million predictions, of which the fraction `cold_share` (0..1) hits a cold start.

    memory: MB. warm_s, cold_s: billed durations in seconds. Returns None if a required kind was not measured.
    """
    if (not warm_s and cold_share < 1) or (not cold_s and cold_share > 0):
        return None
    shares = (((1 - cold_share), warm_s), (cold_share, cold_s))
    seconds = sum(share * sum(map(billed, durations)) / len(durations) for share, durations in shares if share)
    return 1e6 * (prices.request + seconds * memory / MB_PER_GB * prices.gb_second[arch])


def billed(seconds: float) -> float:
    """Round a duration up to whole milliseconds, as Lambda bills it. Returns seconds."""
    return math.ceil(round(seconds * 1000, 6)) / 1000  # round() first, because 0.12 * 1000 is slightly over 120


def _price(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(value)
    return float(value)
