"""Describe how pixels become the numbers that a network reads, as the ordered steps in a model file's metadata."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Step = dict[str, Any]
"""One of {"layout": "NCHW"}, {"channels": "BGR"}, {"dtype": type}, {"divide": numbers} and {"subtract": numbers}.

Numbers: one, or one per channel.
"""


def normalisation(mean: Sequence[float], std: Sequence[float]) -> tuple[Step, ...]:
    """Return the steps to (value / 255 - mean) / std, without those that change nothing."""
    steps: list[Step] = [{"divide": 255}]
    if any(mean):
        steps.append({"subtract": list(mean)})
    if any(value != 1 for value in std):
        steps.append({"divide": list(std)})
    return tuple(steps)


def arithmetic(
    steps: Sequence[Step], *, color: str = "RGB", layout: str = "NCHW", dtype: str = "float32"
) -> tuple[Step, ...]:
    """Return all steps from RGB or gray pixels to a network's input. A network of bytes gets no `steps`."""
    first: list[Step] = [{"layout": "NCHW"}] * (layout == "NCHW") + [{"channels": "BGR"}] * (color == "BGR")
    if dtype == "uint8":
        return tuple(first)
    return (*first, {"dtype": "float32"}, *steps, *([{"dtype": dtype}] if dtype != "float32" else []))


def layout_of(steps: Sequence[Step]) -> str:
    """Return the layout of the tensor after the steps."""
    return "NCHW" if {"layout": "NCHW"} in steps else "NHWC"


def dtype_of(steps: Sequence[Step]) -> str:
    """Return the type of the tensor after the steps."""
    return str(next((step["dtype"] for step in reversed(steps) if "dtype" in step), "uint8"))


def steps_in_words(steps: Sequence[Mapping[str, Any]]) -> str:
    """Return the steps as one readable line."""
    signs = {"divide": "/ ", "subtract": "- "}
    pairs = [pair for step in steps for pair in step.items()]
    words = [f"{signs.get(kind, '')}{_number_list(value)}" for kind, value in pairs]
    return "; ".join(words) or "none"


def _number_list(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def check_steps(steps: Any, channels: int) -> tuple[Step, ...]:
    """Return valid steps of a user. Raises ValueError."""
    if not isinstance(steps, list | tuple):
        raise ValueError("arithmetic must be a list")
    for step in steps:
        if not (isinstance(step, Mapping) and len(step) == 1):
            raise ValueError(f"each step of arithmetic must have one key, got {step!r}")
        ((kind, value),) = step.items()
        numbers = value if isinstance(value, list) else [value]
        if kind not in ("divide", "subtract") or not all(map(is_number, numbers)) or len(numbers) not in (1, channels):
            raise ValueError(
                f'a step of arithmetic must be {{"divide": x}} or {{"subtract": x}} (x: one number or {channels}), got {step!r}'
            )
        if kind == "divide" and not all(numbers):
            raise ValueError("arithmetic must not divide by 0")
    return tuple(dict(step) for step in steps)


def is_number(value: object) -> bool:
    """Tell whether a value from JSON is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
