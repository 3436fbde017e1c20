"""Classify images with an onnxruntime session and the metadata of the model file."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ModelError
from ..images.tensor import tensor
from .metadata import Metadata
from .session import open_session

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Prediction:
    """One predicted class. score: probability in 0..1."""

    index: int
    label: str
    score: float


class Classifier:
    """A loaded model. Several threads may use it at once."""

    def __init__(self, path: Path, sha256: str, threads: int) -> None:
        """Load the file. threads: onnxruntime's threads within one operator. Raises ModelError."""
        self._session = open_session(path, threads)
        self.sha256 = sha256
        self.metadata = Metadata.from_props(self._session.get_modelmeta().custom_metadata_map)
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name

    def predict(self, data: bytes, top_k: int, max_pixels: int) -> tuple[list[Prediction], dict[str, float]]:
        """Classify one encoded image. Return the `top_k` best classes, best first, and the seconds of each part.

        Raises RequestError for a caller's mistake, ModelError if the model does not match its metadata.
        """
        started = time.perf_counter()
        batch = tensor(data, self.metadata.preprocess, max_pixels)
        prepared = time.perf_counter()
        output = self.run(batch)[0]
        ended = time.perf_counter()
        return self._best(output, top_k), {"preprocess_s": prepared - started, "inference_s": ended - prepared}

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Return the raw output, [N, classes], for a preprocessed batch. Raises ModelError."""
        try:
            output: NDArray[Any] = self._session.run([self._output], {self._input: batch})[0]
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise ModelError(
                f"the model fails with an input of shape {batch.shape} ({batch.dtype}): {error}"
            ) from error
        if output.shape != (len(batch), len(self.metadata.labels)):
            raise ModelError(
                f"the model returns shape {output.shape}, expected {(len(batch), len(self.metadata.labels))}: one score per label"
            )
        return output

    def _best(self, output: NDArray[Any], top_k: int) -> list[Prediction]:
        scores = softmax(output) if self.metadata.output == "logits" else output.astype(np.float64)
        if not np.isfinite(scores).all():
            raise ModelError("the model's output contains NaN or infinity")
        best = np.argsort(-scores, kind="stable")[:top_k]
        labels = self.metadata.labels
        # Six digits are the precision of float32 arithmetic.
        return [Prediction(int(i), labels[i], float(f"{scores[i]:.6g}")) for i in best]


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return exp(x) / sum(exp(x)) of a vector, shifted by its maximum to avoid overflow."""
    powers = np.exp(logits.astype(np.float64) - logits.max())
    result: NDArray[np.float64] = powers / powers.sum()
    return result
