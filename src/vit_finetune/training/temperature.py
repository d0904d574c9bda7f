"""One temperature that makes the probabilities of a trained model mean what they say.

Logits are divided by it, which changes no prediction (Guo et al., arXiv:1706.04599). It is fitted
on the validation images. These may be few, and all of them predicted correctly: then the likelihood
alone would have no maximum, so two priors hold the temperature (docs/benchmarks.md compares them).
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from vit_finetune.calibration import (
    confidence_bins,
    expected_calibration_error,
    negative_log_likelihood,
)
from vit_finetune.model.boundary import SplitModel
from vit_finetune.model.calibrated import divide_logits
from vit_finetune.training.data import TrainingData

Array = NDArray[Any]

# One image is added to the M validation images, half of it wrong (Jeffreys' prior of a fraction;
# Platt 1999 adds two images, half of them wrong).
ADDED_IMAGES = 1
# Standard deviation of the normal prior of log T around 0: two thirds of all T lie between 0.6 and
# 1.6 a priori. It matters below about 100 images.
PRIOR_SD = 0.5
LARGEST = 100.0  # T lies between 1 / LARGEST and LARGEST
DIGITS = 4  # of T: far below what any number of images can tell, and equal on all machines
BINS = 15  # of the calibration error


class Quality(NamedTuple):
    """Negative log-likelihood (nats) and expected calibration error in 15 bins."""

    nll: float
    ece: float


@dataclass(frozen=True)
class Calibration:
    """A temperature, and the model on the validation images before and after it.

    Attributes:
        confidence: of the calibrated model, (M,).
        right: whether the prediction is correct, (M,).
    """

    temperature: float
    before: Quality
    after: Quality
    confidence: Array
    right: Array


def calibrate(split_model: SplitModel, data: TrainingData) -> Calibration:
    """Fit a temperature on the validation images, and divide the model's heads by it."""
    logits = split_model.predict_logits(data.val).double().numpy()
    labels = data.val_labels.numpy()
    temperature = fit_temperature(logits, labels)
    divide_logits(split_model.model, temperature)
    return Calibration(
        temperature=temperature,
        before=quality(logits, labels),
        after=quality(logits / temperature, labels),
        confidence=softmax(logits / temperature, axis=1).max(axis=1),
        right=logits.argmax(axis=1) == labels,
    )


def fit_temperature(
    logits: Array, labels: Array, added_images: float = ADDED_IMAGES, prior_sd: float = PRIOR_SD
) -> float:
    """The most probable temperature after M images, from logits (M, K) and labels (M,)."""
    logits = np.asarray(logits, dtype=np.float64)
    images = len(labels)
    smoothing = added_images / 2 / (images + added_images)

    def cost(log_temperature: float) -> float:
        """Cross-entropy with targets that are mixed with `smoothing` of equal probabilities, minus
        the logarithm of the prior."""
        log_probabilities = log_softmax(logits * math.exp(-log_temperature), axis=1)
        of_labels = log_probabilities[np.arange(images), labels].sum()
        of_all = log_probabilities.mean(axis=1).sum()
        cross_entropy = -(1 - smoothing) * of_labels - smoothing * of_all
        return float(cross_entropy + log_temperature**2 / (2 * prior_sd**2))

    limit = math.log(LARGEST)
    best = minimize_scalar(
        cost, bounds=(-limit, limit), method="bounded", options={"xatol": 10.0 ** -(DIGITS + 2)}
    )
    return round(math.exp(best.x), DIGITS)


def quality(logits: Array, labels: Array) -> Quality:
    """From logits (M, K) and labels (M,)."""
    confidence = softmax(logits, axis=1).max(axis=1)
    right = logits.argmax(axis=1) == labels
    return Quality(
        nll=negative_log_likelihood(labels, logits),
        ece=expected_calibration_error(confidence_bins(confidence, right, BINS)),
    )
