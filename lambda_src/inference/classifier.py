"""The classifier: an ONNX Runtime session with the metadata that its file carries."""

from __future__ import annotations

import ctypes
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # its Linux wheels report home by default; read once, at the import
# numpy's matrix products are not used here, and their threads begin by spinning: 50 ms of CPU that a cold start needs.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import onnxruntime as ort

from ..errors import ModelError
from ..images.decode import tensor
from .metadata import Metadata

if TYPE_CHECKING:
    from numpy.typing import NDArray

ERROR_SEVERITY = 3
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
MAX_KEPT_BLOCK = 2**25  # bytes; the largest that glibc accepts
MAX_KEPT = 2**30


@dataclass(frozen=True)
class Prediction:
    """One class of the answer. score: probability in 0..1."""

    index: int
    label: str
    score: float


class Classifier:
    """A loaded model. One call at a time."""

    def __init__(self, path: Path, sha256: str, threads: int) -> None:
        """Load the file. threads: of onnxruntime, inside one operator. Raises ModelError."""
        self._session = open_session(path, threads)
        self.sha256 = sha256
        self.metadata = Metadata.from_props(self._session.get_modelmeta().custom_metadata_map)
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name

    def predict(self, data: bytes, top_k: int, max_pixels: int) -> tuple[list[Prediction], dict[str, float]]:
        """Classify the bytes of one picture: the `top_k` best classes, best first, and the seconds of each part.

        Raises RequestError for the caller's mistakes, ModelError if the model does not do what its metadata says.
        """
        started = time.perf_counter()
        batch = tensor(data, self.metadata.preprocess, max_pixels)
        prepared = time.perf_counter()
        output = self.run(batch)[0]
        ended = time.perf_counter()
        return self._best(output, top_k), {"preprocess_s": prepared - started, "inference_s": ended - prepared}

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Return the raw output, [N, classes], of a pre-processed batch. Raises ModelError."""
        try:
            output: NDArray[Any] = self._session.run([self._output], {self._input: batch})[0]
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise ModelError(f"the model refused its input {batch.shape} {batch.dtype}: {error}") from error
        if output.shape != (len(batch), len(self.metadata.labels)):
            raise ModelError(
                f"the model answered with shape {output.shape}, not one score for each of {len(self.metadata.labels)} labels"
            )
        return output

    def _best(self, output: NDArray[Any], top_k: int) -> list[Prediction]:
        scores = softmax(output) if self.metadata.output == "logits" else output.astype(np.float64)
        if not np.isfinite(scores).all():
            raise ModelError("the model's output holds NaN or infinity")
        best = np.argsort(-scores, kind="stable")[:top_k]
        labels = self.metadata.labels
        # Six digits hold all that float32 arithmetic is good for.
        return [Prediction(int(i), labels[i], float(f"{scores[i]:.6g}")) for i in best]


def open_session(path: Path, threads: int) -> ort.InferenceSession:
    """Open an ONNX file on the CPU. threads: of onnxruntime, inside one operator. Raises ModelError."""
    _keep_memory()
    ort.set_default_logger_severity(ERROR_SEVERITY)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads  # else onnxruntime pins threads to cores that Lambda does not give
    options.inter_op_num_threads = 1
    # Spinning for the next operator uses up the CPU share of a function, which then stands still for the rest of 100 ms.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = ERROR_SEVERITY
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise ModelError(f"onnxruntime {ort.__version__} cannot load the model: {error}") from error


@cache
def _keep_memory() -> None:
    """Let malloc keep what is freed for the next use: the kernel clears each page that it hands out, and that takes longer.

    https://man7.org/linux/man-pages/man3/mallopt.3.html. A sixth to a quarter of the time to load ResNet-18's 47 MB in
    float, of which there are several copies on the way; the peak of memory is 9 % higher. See benchmarks/NOTES.md.
    """
    with suppress(OSError, AttributeError):  # another C library than glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, MAX_KEPT_BLOCK)
        libc.mallopt(M_TRIM_THRESHOLD, MAX_KEPT)


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return exp(x) / sum(exp(x)) over a vector, shifted by its maximum so that nothing overflows."""
    powers = np.exp(logits.astype(np.float64) - logits.max())
    result: NDArray[np.float64] = powers / powers.sum()
    return result
