"""Compare the outputs of two forms of a model for the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lambda_src.images.preprocess import Preprocess
from lambda_src.inference.classifier import Classifier

from ..errors import VerificationError
from .samples import SEED

Ask = Callable[[Iterable[NDArray[Any]]], list[NDArray[Any]]]
"""Batches of pixels, each [N, H, W, C] -> scores, each [N, classes]."""

# Relative to the spread of one output (largest minus smallest score). Kernels add float32 numbers in different orders,
# which causes about 1e-6. A wrong epsilon, padding or activation causes more than 1e-3.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Parity:
    """The differences between the outputs of a file and its source for `inputs` inputs.

    max_abs_diff: largest difference of two scores. max_relative_diff: largest difference relative to the spread of its
    output. tolerance: the limit of max_relative_diff. top1_agreement: share of equal best classes.
    """

    inputs: int
    max_abs_diff: float
    max_relative_diff: float
    tolerance: float
    top1_agreement: float

    @property
    def holds(self) -> bool:
        """Tell whether the outputs are equal within the tolerance. False for NaN."""
        return self.max_relative_diff <= self.tolerance


def compare(reference: Sequence[NDArray[Any]], candidate: Sequence[NDArray[Any]]) -> Parity:
    """Compare the outputs of two models for the same batches, each [N, classes]. Raises VerificationError."""
    differences, shares, agreed = [], [], []
    for answers in zip(reference, candidate, strict=True):
        expected, actual = (np.asarray(scores, np.float64) for scores in answers)
        if expected.shape != actual.shape:
            raise VerificationError(
                "parity", f"the exported model returns shape {actual.shape}, the source returns {expected.shape}"
            )
        difference = np.abs(expected - actual).max(axis=1)
        differences.append(difference)
        shares.append(difference / np.maximum(np.ptp(expected, axis=1), np.finfo(np.float64).tiny))
        agreed.append(expected.argmax(1) == actual.argmax(1))
    agreement = np.concatenate(agreed)
    worst = [float(f"{np.concatenate(values).max():.3g}") for values in (differences, shares)]  # max() keeps a NaN
    return Parity(len(agreement), worst[0], worst[1], TOLERANCE, float(agreement.mean()))


def fixed_pixels(spec: Preprocess, batch_sizes: Iterable[int]) -> Iterator[NDArray[np.uint8]]:
    """Yield reproducible pseudo-random pixels, each batch [N, H, W, C].

    Their mean and standard deviation are about those of photographs, so that a network gets standard normal values.
    """
    random = np.random.default_rng(SEED)
    for n in batch_sizes:
        values = random.normal(120, 58, (n, *spec.size, spec.channels))
        yield np.clip(values, 0, 255).astype(np.uint8)


def run(model: Classifier, pixels: NDArray[np.uint8]) -> NDArray[Any]:
    """Return the output, [N, scores], of a model file for pixels, [N, H, W, C]. Raises ModelError."""
    return np.asarray(model.run(pixels.tobytes(), len(pixels)))
