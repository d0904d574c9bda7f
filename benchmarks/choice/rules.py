"""Rules that choose an epoch from the validation logits; no rule sees a test image."""

import numpy as np
import torch
from scipy.special import log_softmax

from vit_finetune.training.history import is_clearly_better
from vit_finetune.training.temperature import fit_temperature

SHIPPED = "shipped"  # the settings of `train` in params.yaml

START = "start"
KEPT = "kept"
AVERAGE = "average"
RULES = {
    KEPT: "the pipeline's",
    "last": "always the last epoch",
    "best accuracy": "best validation accuracy, ties by lower loss, start included",
    "lower loss": "start or last epoch, whose calibrated loss is lower",
    AVERAGE: "mean of the weights after the last quarter of epochs",
}


def losses(logits, labels):
    """Cross-entropy of each image, (N,)."""
    log_probabilities = log_softmax(np.asarray(logits, dtype=np.float64), axis=1)
    return -log_probabilities[np.arange(len(labels)), labels]


def choose(logits, labels):
    """START and the epoch that each rule takes, but for AVERAGE.

    Args:
        logits: of the validation images, (E + 1, M, K); epoch 0 is the start.
        labels: (M,).
    """
    right = torch.from_numpy(logits.argmax(axis=2) == labels)
    accuracy = right.double().mean(dim=1).numpy()
    loss = np.array([losses(epoch, labels).mean() for epoch in logits])
    last = len(logits) - 1
    rng = np.random.default_rng(0)
    ones = np.ones(len(labels))
    groups = np.arange(len(labels))  # each image is one
    start_is_better = is_clearly_better(right[0], right[last], ones, groups, rng)
    start_loss = calibrated_loss(logits[0], labels)
    last_loss = calibrated_loss(logits[last], labels)
    return {
        START: 0,
        KEPT: 0 if start_is_better else last,
        "last": last,
        "best accuracy": int(np.lexsort((loss, -accuracy))[0]),
        "lower loss": 0 if start_loss < last_loss else last,
    }


def calibrated_loss(logits, labels):
    temperature = fit_temperature(logits, labels)
    return losses(logits / temperature, labels).mean()
