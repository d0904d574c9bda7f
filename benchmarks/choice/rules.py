"""Rules that choose an epoch from the validation logits; no rule sees a test image."""

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.stats import ttest_rel

from vit_finetune.comparison.paired import count_pairs, exact_mcnemar
from vit_finetune.training.probe import score

LEVEL = 0.05  # of the tests, one-sided
PATIENCE = 5

RULES = {
    "today": "best validation accuracy, ties by lower loss, probe included (today)",
    "last": "last epoch",
    "last, accuracy test": "last, unless the probe is right clearly more often (McNemar)",
    "last, loss test": "last, unless the probe's calibrated loss is clearly lower (paired t)",
    "trained": "best validation accuracy without the probe, ties by lower calibrated loss",
    "calibrated loss": "lowest calibrated validation loss, probe included",
    "first of the best": "first epoch within a standard error of the best validation accuracy",
    "patience": "today's, stopped after 5 epochs without a better one",
    "quarter": "mean of the weights after the last quarter of epochs",
    "ema": "moving average of the weights over a tenth of the steps",
}
AVERAGES = ("quarter", "ema")


def losses(logits, labels):
    """Cross-entropy of each image, (N,)."""
    log_probabilities = log_softmax(np.asarray(logits, dtype=np.float64), axis=1)
    return -log_probabilities[np.arange(len(labels)), labels]


def fit_temperature(logits, labels):
    """The temperature of least loss on these images (Guo et al., arXiv:1706.04599).

    1/(M + 2) of each target is spread over all classes (after Platt 1999), so that it stays finite
    where every image is right; its logarithm has a standard normal prior.
    """
    logits = np.asarray(logits, dtype=np.float64)
    smoothing = 1 / (len(labels) + 2)

    def cost(log_temperature):
        log_probabilities = log_softmax(logits / np.exp(log_temperature), axis=1)
        right = log_probabilities[np.arange(len(labels)), labels].sum()
        uniform = log_probabilities.mean(axis=1).sum()
        return log_temperature**2 / 2 - (1 - smoothing) * right - smoothing * uniform

    minimum = minimize_scalar(cost, bounds=(-3.5, 3.5), method="bounded", options={"xatol": 1e-3})
    return float(np.exp(minimum.x))


def choose(logits, labels):
    """The epoch that each rule takes.

    Args:
        logits: of the validation images, (E + 1, M, K); epoch 0 is the linear probe.
        labels: (M,).
    """
    hits = logits.argmax(axis=2) == labels
    scores = [score(torch.from_numpy(epoch), torch.from_numpy(labels)) for epoch in logits]
    accuracy, loss = np.array(scores).T  # as training rounds them, so that ties are the same
    calibrated = np.stack(
        [losses(epoch / fit_temperature(epoch, labels), labels) for epoch in logits]
    )
    calibrated_loss = calibrated.mean(axis=1)
    last = len(logits) - 1
    probe_is_righter = is_righter(hits[0], hits[last])
    probe_has_lower_loss = is_lower(calibrated[0], calibrated[last])
    least = accuracy.max() - standard_error(accuracy.max(), len(labels))
    return {
        "today": best_epoch(accuracy, loss),
        "last": last,
        "last, accuracy test": 0 if probe_is_righter else last,
        "last, loss test": 0 if probe_has_lower_loss else last,
        "trained": 1 + best_epoch(accuracy[1:], calibrated_loss[1:]),
        "calibrated loss": int(calibrated_loss.argmin()),
        "first of the best": int((accuracy >= least - 1e-12).argmax()),
        "patience": best_with_patience(accuracy, loss),
    }


def best_epoch(accuracy, loss):
    """The highest accuracy; among equal ones, the lowest loss; among equal ones again, the
    first."""
    return int(np.lexsort((loss, -accuracy))[0])


def best_with_patience(accuracy, loss):
    for epoch in range(len(accuracy)):
        best = best_epoch(accuracy[: epoch + 1], loss[: epoch + 1])
        if epoch - best >= PATIENCE:
            break
    return best


def is_righter(hits, others):
    """Whether `hits` (M,) are more than the others by more than chance."""
    pairs = count_pairs(others.tolist(), hits.tolist())
    return pairs.gained > pairs.lost and exact_mcnemar(pairs.gained, pairs.lost) < 2 * LEVEL


def is_lower(values, others):
    """Whether losses (M,) are lower than the others by more than chance."""
    if np.array_equal(values, others):
        return False
    return bool(ttest_rel(values, others, alternative="less").pvalue < LEVEL)


def standard_error(accuracy, images):
    """Of an accuracy; not zero where every image is right."""
    floor = 1 / (4 * images)
    variance = max(accuracy * (1 - accuracy), floor * (1 - floor))
    return np.sqrt(variance / images)
