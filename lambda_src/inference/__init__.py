"""Fetch the model file, open it and ask it.

What numpy and onnxruntime read once, at their import, is set here, before any module of this package imports them.
"""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # onnxruntime's Linux wheels report home by default
# numpy's matrix products are not used here, and their threads begin by spinning: 50 ms of CPU that a cold start needs.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
