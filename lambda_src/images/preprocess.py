"""The preprocessing settings that a model file declares: how an image becomes the pixels that the model reads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import ModelError

MAX_SIDE = 16384
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")

# A number: the shorter side. Two numbers: height and width, with another aspect ratio. {"longest": n}: the longer side, the
# rest is filled. {"cover": [h, w]}: the smallest size with the same aspect ratio that covers both.
Resize = int | tuple[int, int] | dict[str, Any]


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes pixels, uint8 [H, W, channels of `color`]. The steps run in the order of the fields.

    crop_first: side of a centered square, as a fraction of the image's shorter side; None keeps the whole image.
    crop: (height, width) of the center crop; None keeps the size after `resize`. crop_rounding: of the first pixel of a
    crop, if the number of pixels around it is odd. pad_rounding: of the pixels filled before an image that is smaller than
    its crop. fill: their color. arithmetic: what the graph does with the pixels, only for the reader.
    """

    resize: Resize
    crop: tuple[int, int] | None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] = "bilinear"
    crop_first: float | None = None
    crop_rounding: Literal["half_even", "floor"] = "half_even"
    pad_rounding: Literal["floor", "ceil"] = "floor"
    fill: tuple[int, ...] = (0, 0, 0)
    color: Literal["RGB", "L"] = "RGB"
    arithmetic: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        """Check the values. Raises ModelError."""
        _check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        _check_choice("crop_rounding", self.crop_rounding, ("half_even", "floor"))
        _check_choice("pad_rounding", self.pad_rounding, ("floor", "ceil"))
        _check_choice("color", self.color, ("RGB", "L"))
        self._check_sizes()
        if self.crop_first is not None and not (_is_number(self.crop_first) and 0 < self.crop_first <= 1):
            raise ModelError(f"preprocess.crop_first must be a number above 0 and at most 1, got {self.crop_first!r}")
        if len(self.fill) not in (1, 3) or not all(_is_whole(value, 0, 255) for value in self.fill):
            raise ModelError(f"preprocess.fill must have one or three numbers from 0 to 255, got {self.fill!r}")
        if not all(isinstance(step, dict) for step in self.arithmetic):
            raise ModelError(f"preprocess.arithmetic must be a list of objects, got {self.arithmetic!r}")

    def _check_sizes(self) -> None:
        resize = self.resize
        if isinstance(resize, dict):
            known = _is_side(resize.get("longest")) if "longest" in resize else _is_size(resize.get("cover"))
            valid = known and len(resize) == 1
        else:
            valid = _is_side(resize) or _is_size(resize)
        if not valid:
            raise ModelError(
                'preprocess.resize must be a number, [height, width], {"longest": number} or {"cover": [height, width]}, '
                f"each from 1 to {MAX_SIDE} pixels, got {resize!r}"
            )
        if self.crop is not None and not _is_size(self.crop):
            raise ModelError(
                f"preprocess.crop must be [height, width], each from 1 to {MAX_SIDE} pixels, or null, got {self.crop!r}"
            )
        if self.crop is None and (isinstance(resize, int) or "cover" in resize):
            raise ModelError("preprocess.crop must not be null: without it, the images have different sizes")

    @property
    def size(self) -> tuple[int, int]:
        """Return height and width of the pixels."""
        if self.crop is not None:
            return self.crop
        return (self.resize["longest"],) * 2 if isinstance(self.resize, dict) else self.resize  # type: ignore[return-value]

    @property
    def channels(self) -> int:
        """Return the number of bytes per pixel."""
        return 1 if self.color == "L" else 3

    @property
    def target(self) -> int:
        """Return a length that the shorter side of the whole image has at most after `resize`.

        A JPEG can be decoded at a fraction of its size if that leaves more pixels than these. 0: decode all of them, as
        `nearest` and `box` take whole pixels, and the pixels of a reduced image are averages of several.
        """
        if self.interpolation in ("nearest", "box"):
            return 0
        if isinstance(self.resize, dict):
            side: int = max(self.resize["cover"]) if "cover" in self.resize else self.resize["longest"]
        else:
            side = max(self.resize) if isinstance(self.resize, tuple) else self.resize
        return math.ceil(side / (self.crop_first or 1))


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ModelError(f"preprocess.{name} must be one of {', '.join(choices)}, got {value!r}")


def _is_side(value: object) -> bool:
    return _is_whole(value, 1, MAX_SIDE)


def _is_size(value: object) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_side, value))


def _is_whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
