"""Fetch, load and run the model.

numpy and onnxruntime read the variables below when they are imported, so this package sets them first.
"""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # onnxruntime's Linux wheels send telemetry by default
# numpy's BLAS is not used here, and its threads spin at the start: 50 ms of CPU time in a cold start.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
