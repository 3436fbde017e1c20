"""The metadata of a model file: the `mlinfer.*` entries of its ONNX `metadata_props`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..errors import ModelError
from ..images.preprocess import Preprocess

SCHEMA = "2"
OUTPUTS = ("logits", "probabilities", "sigmoid", "binary")
THRESHOLD = 0.5


@dataclass(frozen=True)
class Metadata:
    """The decoded `mlinfer.*` entries. labels[i] is the label of class i.

    output: `logits` (softmax follows), `probabilities`, `sigmoid` (an independent score in 0..1 for each label) or `binary`
    (one score in 0..1, of the second of two labels). threshold: from which a score of `sigmoid` or `binary` means yes.
    """

    name: str
    labels: tuple[str, ...]
    preprocess: Preprocess
    output: Literal["logits", "probabilities", "sigmoid", "binary"]
    provenance: dict[str, Any] = field(default_factory=dict)
    threshold: float = THRESHOLD

    @property
    def scores(self) -> int:
        """Return how many numbers the model returns for an image."""
        return 1 if self.output == "binary" else len(self.labels)

    @classmethod
    def from_props(cls, props: Mapping[str, str]) -> Metadata:
        """Read ONNX `metadata_props`. Raises ModelError with the name of the invalid entry."""
        if "mlinfer.schema" not in props:
            raise ModelError("the file has no mlinfer metadata (labels and preprocessing)")
        if props["mlinfer.schema"] != SCHEMA:
            raise ModelError(f"metadata schema {props['mlinfer.schema']!r} is not supported, expected {SCHEMA!r}")
        missing = [k for k in ("name", "labels", "preprocess", "output") if f"mlinfer.{k}" not in props]
        if missing:
            raise ModelError(f"mlinfer.{missing[0]} is missing in the file's metadata")
        labels = _json(props, "mlinfer.labels")
        if not (isinstance(labels, list) and labels and all(isinstance(v, str) for v in labels)):
            raise ModelError("mlinfer.labels must be a JSON list of strings")
        output: Any = props["mlinfer.output"]
        if output not in OUTPUTS:
            raise ModelError(f"mlinfer.output must be one of {', '.join(OUTPUTS)}, got {output!r}")
        if output == "binary" and len(labels) != 2:
            raise ModelError(f"a model with binary output has two labels, got {len(labels)}")
        provenance = _json(props, "mlinfer.provenance") if "mlinfer.provenance" in props else {}
        if not isinstance(provenance, dict):
            raise ModelError("mlinfer.provenance must be a JSON object")
        name, preprocess = props["mlinfer.name"], _preprocess(_json(props, "mlinfer.preprocess"))
        return cls(name, tuple(labels), preprocess, output, dict(provenance), _threshold(props))

    def to_props(self) -> dict[str, str]:
        """Return the entries to write into a file. `from_props` reads them back."""
        threshold = {} if self.threshold == THRESHOLD else {"mlinfer.threshold": json.dumps(self.threshold)}
        return {
            "mlinfer.schema": SCHEMA,
            "mlinfer.name": self.name,
            "mlinfer.labels": json.dumps(self.labels, ensure_ascii=False),
            "mlinfer.preprocess": json.dumps(asdict(self.preprocess)),
            "mlinfer.output": self.output,
            **threshold,
            "mlinfer.provenance": json.dumps(self.provenance),
        }


def _preprocess(fields: Any) -> Preprocess:
    try:
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return Preprocess(**values)
    except (TypeError, AttributeError) as error:
        raise ModelError(f"mlinfer.preprocess is invalid: {error}") from error


def _threshold(props: Mapping[str, str]) -> float:
    value = _json(props, "mlinfer.threshold") if "mlinfer.threshold" in props else THRESHOLD
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ModelError(f"mlinfer.threshold must be a number from 0 to 1, got {value!r}")
    return float(value)


def _json(props: Mapping[str, str], key: str) -> Any:
    try:
        return json.loads(props[key])
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{key} is not valid JSON: {error}") from error
