"""What the image's onnxruntime can load.

The limits were found by loading one-node models of every IR version and opset into that release: it takes IR 1 to 14
and opsets 7 to 28 of the default domain, refuses IR 15 and opset 29 by name, and has no kernels for the oldest opsets.
`tests/model/test_runtime.py` finds them again, so that they cannot go stale when the lock file moves.
"""

from __future__ import annotations

IMAGE_ONNXRUNTIME = "1.32.0"
MAX_IR_VERSION = 14
MIN_OPSET, MAX_OPSET = (
    7,
    28,
)  # onnxruntime promises nothing below 7: https://onnxruntime.ai/docs/reference/compatibility.html

# The domain of the operators that onnxruntime lays out for the vector width of the processor that it optimises on
ONE_MACHINE = "com.microsoft.nchwc"

# What mlinfer itself writes: well inside the limits, so that onnxruntime >= 1.20, which pyproject.toml asks for, takes it.
OPSET = 18
IR_VERSION = 10


def refusal(ir_version: int, opset: int) -> str:
    """Say why the image's onnxruntime cannot load such a file; "" if it can."""
    if ir_version > MAX_IR_VERSION:
        return f"it has IR version {ir_version}; onnxruntime {IMAGE_ONNXRUNTIME} takes up to {MAX_IR_VERSION}"
    if not MIN_OPSET <= opset <= MAX_OPSET:
        return f"it has opset {opset}; onnxruntime {IMAGE_ONNXRUNTIME} takes {MIN_OPSET} to {MAX_OPSET}"
    return ""
