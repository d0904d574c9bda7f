"""Whether probabilities mean what they say: likelihood, and confidence against accuracy in bins."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

Array = NDArray[Any]


class Bin(NamedTuple):
    """Images whose confidence lies in (lower, upper].

    Attributes:
        confidence: their mean.
        right: how many are predicted correctly.
        images: how many there are.
    """

    lower: float
    upper: float
    confidence: float
    right: int
    images: int


def negative_log_likelihood(labels: Array, logits: Array) -> float:
    """Mean of -log p(label) in nats.

    From logits (N, K), since the probability of a confident mistake may be rounded to zero.
    """
    log_probabilities = log_softmax(np.asarray(logits, dtype=np.float64), axis=1)
    return float(-log_probabilities[np.arange(len(labels)), labels].mean())


def confidence_bins(confidence: Array, right: Array, bins: int) -> list[Bin]:
    """Images in `bins` equally wide bins of their confidence; an empty bin is left out.

    Args:
        confidence: probability of the predicted class, (N,).
        right: whether the prediction is correct, (N,).
    """
    edges = np.linspace(0, 1, bins + 1)
    bin_of = np.searchsorted(edges[1:-1], confidence)
    filled = []
    for b in np.unique(bin_of):
        inside = bin_of == b
        filled.append(
            Bin(
                lower=float(edges[b]),
                upper=float(edges[b + 1]),
                confidence=float(confidence[inside].mean()),
                right=int(right[inside].sum()),
                images=int(inside.sum()),
            )
        )
    return filled


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Mean |accuracy - confidence| over the images (Naeini et al. 2015)."""
    gaps = [abs(b.right / b.images - b.confidence) for b in bins]
    return float(np.average(gaps, weights=[b.images for b in bins]))
