"""What a model file says of itself: the `mlinfer.*` entries of its ONNX `metadata_props`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args, get_type_hints

from ..errors import ModelError

SCHEMA = "1"


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes the input tensor, in the order of the fields.

    resize: length of the shorter side, pixels. crop: (height, width) cut from the centre. mean, std: of the channel
    values in 0..1, one per channel of `color`; not applied when dtype is uint8.
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
                    f"preprocess.{name} is {getattr(self, name)!r}, not one of {', '.join(get_args(hints[name]))}"
                )
        if not (_is_size(self.resize) and len(self.crop) == 2 and all(map(_is_size, self.crop))):
            raise ModelError(
                f"preprocess.resize {self.resize!r} and crop {self.crop!r} are not sizes of 1 to 16384 pixels"
            )
        channels = 1 if self.color == "L" else 3
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels or not all(isinstance(v, int | float) for v in values):
                raise ModelError(
                    f"preprocess.{name} is {values!r}, not {channels} numbers, one per channel of {self.color}"
                )
        if not all(self.std):
            raise ModelError("preprocess.std holds a zero")


@dataclass(frozen=True)
class Metadata:
    """The decoded `mlinfer.*` entries. labels[i] names class i."""

    name: str
    labels: tuple[str, ...]
    preprocess: Preprocess
    output: Literal["logits", "probabilities"]
    provenance: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_props(cls, props: Mapping[str, str]) -> Metadata:
        """Read ONNX `metadata_props`. Raises ModelError that names the entry at fault."""
        if "mlinfer.schema" not in props:
            raise ModelError("the file has no mlinfer metadata: labels and pre-processing are unknown")
        if props["mlinfer.schema"] != SCHEMA:
            raise ModelError(f"the file has metadata schema {props['mlinfer.schema']!r}; this version reads {SCHEMA!r}")
        missing = [k for k in ("name", "labels", "preprocess", "output") if f"mlinfer.{k}" not in props]
        if missing:
            raise ModelError(f"the file's metadata lacks mlinfer.{missing[0]}")
        labels = _json(props, "mlinfer.labels")
        if not (isinstance(labels, list) and labels and all(isinstance(v, str) for v in labels)):
            raise ModelError("mlinfer.labels is not a JSON list of strings")
        if props["mlinfer.output"] not in ("logits", "probabilities"):
            raise ModelError(f"mlinfer.output is {props['mlinfer.output']!r}, not logits or probabilities")
        fields = _json(props, "mlinfer.preprocess")
        try:
            fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
            preprocess = Preprocess(**fields)
        except (TypeError, AttributeError) as error:
            raise ModelError(f"mlinfer.preprocess is not as documented: {error}") from error
        provenance = _json(props, "mlinfer.provenance") if "mlinfer.provenance" in props else {}
        if not isinstance(provenance, dict):
            raise ModelError("mlinfer.provenance is not a JSON object")
        output: Literal["logits", "probabilities"] = (
            "logits" if props["mlinfer.output"] == "logits" else "probabilities"
        )
        return cls(props["mlinfer.name"], tuple(labels), preprocess, output, dict(provenance))

    def to_props(self) -> dict[str, str]:
        """Return the entries as they are written into a file; `from_props` reads them back."""
        return {
            "mlinfer.schema": SCHEMA,
            "mlinfer.name": self.name,
            "mlinfer.labels": json.dumps(self.labels, ensure_ascii=False),
            "mlinfer.preprocess": json.dumps(asdict(self.preprocess)),
            "mlinfer.output": self.output,
            "mlinfer.provenance": json.dumps(self.provenance),
        }


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 16384


def _json(props: Mapping[str, str], key: str) -> Any:
    try:
        return json.loads(props[key])
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{key} is not valid JSON: {error}") from error
