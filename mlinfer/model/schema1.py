"""Read the metadata of schema 1, which mlinfer 0.1 wrote: the handler normalized the pixels, and the graph took a tensor."""

from __future__ import annotations

import json
from collections.abc import Mapping

from lambda_src.errors import ModelError

from .arithmetic import arithmetic, normalisation

SCHEMA = "1"


def is_old(props: Mapping[str, str]) -> bool:
    """Tell whether ONNX `metadata_props` have schema 1."""
    return props.get("mlinfer.schema") == SCHEMA


def converted(props: Mapping[str, str]) -> dict[str, str]:
    """Return the entries in schema 2, with the arithmetic that the handler did. Raises ModelError."""
    try:
        old = json.loads(props["mlinfer.preprocess"])
        color = old.pop("color", "RGB")
        channels = 1 if color == "L" else 3
        mean, std = old.pop("mean", [0.0] * 3), old.pop("std", [1.0] * 3)
        if len(mean) != channels or len(std) != channels or not all(std):
            raise ValueError(f"mean and std must have {channels} numbers")
        layout, dtype = old.pop("layout", "NCHW"), old.pop("dtype", "float32")
        if layout not in ("NCHW", "NHWC") or dtype not in ("float32", "float16", "uint8"):
            raise ValueError(f"layout {layout!r} or dtype {dtype!r} is unknown")
        steps = arithmetic(normalisation(mean, std), color=color, layout=layout, dtype=dtype)
        new = old | {"color": "L" if color == "L" else "RGB", "arithmetic": steps}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"mlinfer.preprocess of schema 1 is invalid: {error}") from error
    return {**props, "mlinfer.schema": "2", "mlinfer.preprocess": json.dumps(new)}
