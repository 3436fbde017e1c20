"""The IR versions and opsets that the container image's onnxruntime can load.

The limits come from loading one-node models of every IR version and opset: this release accepts IR 1 to 14 and opsets 7
to 28 of the default domain. `tests/model/test_runtime.py` checks them, so that an update of the lock file is noticed.
"""

from __future__ import annotations

IMAGE_ONNXRUNTIME = "1.32.0"
MAX_IR_VERSION = 14
MIN_OPSET, MAX_OPSET = (
    7,
    28,
)  # onnxruntime does not support opsets below 7: https://onnxruntime.ai/docs/reference/compatibility.html

# The domain of operators that onnxruntime optimizes for the vector width of the current processor
ONE_MACHINE = "com.microsoft.nchwc"

# The versions that mlinfer writes. onnxruntime >= 1.20, which pyproject.toml requires, can load them.
OPSET = 18
IR_VERSION = 10


def refusal(ir_version: int, opset: int) -> str:
    """Return why the container image's onnxruntime cannot load such a file, "" if it can."""
    if ir_version > MAX_IR_VERSION:
        return f"it has IR version {ir_version}, but onnxruntime {IMAGE_ONNXRUNTIME} supports at most {MAX_IR_VERSION}"
    if not MIN_OPSET <= opset <= MAX_OPSET:
        return f"it has opset {opset}, but onnxruntime {IMAGE_ONNXRUNTIME} supports {MIN_OPSET} to {MAX_OPSET}"
    return ""
