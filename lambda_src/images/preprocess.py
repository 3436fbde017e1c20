"""The preprocessing settings that a model file declares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args, get_type_hints

from ..errors import ModelError


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes the input tensor. The steps run in the order of the fields.

    resize: length of the shorter side in pixels. crop: (height, width) of the center crop. mean, std: for channel values
    in 0..1, one per channel of `color`, ignored when dtype is uint8.
    """

    resize: int
    crop: tuple[int, int]
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] = "bilinear"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    color: Literal["RGB", "BGR", "L"] = "RGB"
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    dtype: Literal["float32", "float16", "uint8"] = "float32"

    def __post_init__(self) -> None:
        """Check the values. Raises ModelError."""
        hints = get_type_hints(type(self))
        for name in ("interpolation", "color", "layout", "dtype"):
            if getattr(self, name) not in get_args(hints[name]):
                raise ModelError(
                    f"preprocess.{name} must be one of {', '.join(get_args(hints[name]))}, got {getattr(self, name)!r}"
                )
        if not (_is_size(self.resize) and len(self.crop) == 2 and all(map(_is_size, self.crop))):
            raise ModelError(
                "preprocess.resize must be one number and preprocess.crop two numbers, from 1 to 16384 pixels, "
                f"got {self.resize!r} and {self.crop!r}"
            )
        channels = 1 if self.color == "L" else 3
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels or not all(isinstance(v, int | float) for v in values):
                raise ModelError(
                    f"preprocess.{name} must have one number per channel of {self.color} ({channels}), got {values!r}"
                )
        if not all(self.std):
            raise ModelError("preprocess.std must not contain 0")


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 16384
