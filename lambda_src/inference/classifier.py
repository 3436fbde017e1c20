"""Classify images with an onnxruntime session and the metadata of the model file."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ModelError
from ..images.pixels import read_pixels
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
        self._input = _pixel_input(self._session, self.metadata)
        self._output = self._session.get_outputs()[0].name

    def predict(self, data: bytes, top_k: int, max_pixels: int) -> tuple[list[Prediction], dict[str, float]]:
        """Classify one encoded image. Return the `top_k` best classes, best first, and the seconds of each part.

        Raises RequestError for a caller's mistake, ModelError if the model does not match its metadata.
        """
        started = time.perf_counter()
        pixels = read_pixels(data, self.metadata.preprocess, max_pixels)
        prepared = time.perf_counter()
        output = self.run(pixels)[0]
        ended = time.perf_counter()
        return self._best(output, top_k), {"preprocess_s": prepared - started, "inference_s": ended - prepared}

    def run(self, pixels: bytes, count: int = 1) -> NDArray[Any]:
        """Return the raw output, [count, scores], for the pixels of `count` images, uint8 [count, H, W, C].

        Raises ModelError.
        """
        spec = self.metadata.preprocess
        batch = np.frombuffer(pixels, np.uint8).reshape(count, *spec.size, spec.channels)
        try:
            output: NDArray[Any] = self._session.run([self._output], {self._input: batch})[0]
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise ModelError(f"the model fails with an input of shape {batch.shape}: {error}") from error
        if output.shape != (count, self.metadata.scores):
            raise ModelError(
                f"the model returns shape {output.shape}, expected {(count, self.metadata.scores)}: one score per label"
            )
        return output

    def _best(self, output: NDArray[Any], top_k: int) -> list[Prediction]:
        scores = softmax(output) if self.metadata.output == "logits" else output.astype(np.float64)
        if not np.isfinite(scores).all():
            raise ModelError("the model's output contains NaN or infinity")
        if self.metadata.output == "binary":
            scores = np.array([1 - scores[0], scores[0]])
            best = np.array([1, 0] if scores[1] >= self.metadata.threshold else [0, 1])[:top_k]
        else:
            best = np.argsort(-scores, kind="stable")[:top_k]
        labels = self.metadata.labels
        # Six digits are the precision of float32 arithmetic.
        return [Prediction(int(i), labels[i], float(f"{scores[i]:.6g}")) for i in best]


def _pixel_input(session: Any, metadata: Metadata) -> str:
    """Return the name of the input. Raises ModelError unless it takes the pixels that the metadata declares."""
    port = session.get_inputs()[0]
    expected = (*metadata.preprocess.size, metadata.preprocess.channels)
    sizes = list(port.shape)[1:]
    fits = len(sizes) == 3 and all(a == b or not isinstance(a, int) for a, b in zip(sizes, expected, strict=True))
    if port.type != "tensor(uint8)" or not fits:
        raise ModelError(
            f"the model's input {port.name} is {port.type} {port.shape}, expected uint8 pixels of shape {['N', *expected]}"
        )
    return str(port.name)


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return exp(x) / sum(exp(x)) of a vector, shifted by its maximum to avoid overflow."""
    powers = np.exp(logits.astype(np.float64) - logits.max())
    result: NDArray[np.float64] = powers / powers.sum()
    return result
