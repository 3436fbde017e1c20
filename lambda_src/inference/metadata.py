"""The metadata of a model file: the `mlinfer.*` entries of its ONNX `metadata_props`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..errors import ModelError
from ..images.preprocess import Preprocess

SCHEMA = "1"


@dataclass(frozen=True)
class Metadata:
    """The decoded `mlinfer.*` entries. labels[i] is the label of class i."""

    name: str
    labels: tuple[str, ...]
    preprocess: Preprocess
    output: Literal["logits", "probabilities"]
    provenance: dict[str, Any] = field(default_factory=dict)

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
        if props["mlinfer.output"] not in ("logits", "probabilities"):
            raise ModelError(f"mlinfer.output must be logits or probabilities, got {props['mlinfer.output']!r}")
        fields = _json(props, "mlinfer.preprocess")
        try:
            fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
            preprocess = Preprocess(**fields)
        except (TypeError, AttributeError) as error:
            raise ModelError(f"mlinfer.preprocess is invalid: {error}") from error
        provenance = _json(props, "mlinfer.provenance") if "mlinfer.provenance" in props else {}
        if not isinstance(provenance, dict):
            raise ModelError("mlinfer.provenance must be a JSON object")
        output: Literal["logits", "probabilities"] = (
            "logits" if props["mlinfer.output"] == "logits" else "probabilities"
        )
        return cls(props["mlinfer.name"], tuple(labels), preprocess, output, dict(provenance))

    def to_props(self) -> dict[str, str]:
        """Return the entries to write into a file. `from_props` reads them back."""
        return {
            "mlinfer.schema": SCHEMA,
            "mlinfer.name": self.name,
            "mlinfer.labels": json.dumps(self.labels, ensure_ascii=False),
            "mlinfer.preprocess": json.dumps(asdict(self.preprocess)),
            "mlinfer.output": self.output,
            "mlinfer.provenance": json.dumps(self.provenance),
        }


def _json(props: Mapping[str, str], key: str) -> Any:
    try:
        return json.loads(props[key])
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{key} is not valid JSON: {error}") from error
