"""Rules that choose an epoch from the validation logits; no rule sees a test image."""

import numpy as np
import torch
from scipy.special import log_softmax
from scipy.stats import ttest_rel

from vit_finetune.training.history import LEVEL, is_clearly_better
from vit_finetune.training.temperature import fit_temperature

RULES = {
    "kept": "last epoch, unless the start is clearly more accurate (the pipeline)",
    "last": "last epoch",
    "best accuracy": "best validation accuracy, ties by lower loss, start included",
    "loss test": "last epoch, unless the start's calibrated loss is clearly lower (paired t)",
    "lower loss": "start or last epoch, whose calibrated loss is lower",
    "lowest loss": "lowest calibrated loss, start included",
    "average": "mean of the weights after the last quarter of epochs",
}


def losses(logits, labels):
    """Cross-entropy of each image, (N,)."""
    log_probabilities = log_softmax(np.asarray(logits, dtype=np.float64), axis=1)
    return -log_probabilities[np.arange(len(labels)), labels]


def choose(logits, labels):
    """The epoch that each rule takes, but for the average.

    Args:
        logits: of the validation images, (E + 1, M, K); epoch 0 is the start.
        labels: (M,).
    """
    right = torch.from_numpy(logits.argmax(axis=2) == labels)
    accuracy = right.double().mean(dim=1).numpy()
    raw_loss = np.array([losses(epoch, labels).mean() for epoch in logits])
    calibrated = np.stack(
        [losses(epoch / fit_temperature(epoch, labels), labels) for epoch in logits]
    )
    loss = calibrated.mean(axis=1)
    last = len(logits) - 1
    rng = np.random.default_rng(0)
    ones = np.ones(len(labels))
    groups = np.arange(len(labels))  # each image is one
    start_is_righter = is_clearly_better(right[0], right[last], ones, groups, rng)
    return {
        "kept": 0 if start_is_righter else last,
        "last": last,
        "best accuracy": int(np.lexsort((raw_loss, -accuracy))[0]),
        "loss test": 0 if is_clearly_lower(calibrated[0], calibrated[last]) else last,
        "lower loss": 0 if loss[0] < loss[last] else last,
        "lowest loss": int(loss.argmin()),
    }


def is_clearly_lower(values, others):
    """Whether losses (M,) are lower than the others by more than chance."""
    if np.array_equal(values, others):
        return False
    return bool(ttest_rel(values, others, alternative="less").pvalue < LEVEL)
