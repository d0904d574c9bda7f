"""What the predictions are worth: numbers in, plain Python numbers out, rounded to six digits.

K classes, N images; `labels` and `predicted` are class indices (N,), `probabilities` (N, K) sum to
one in each row, `classes` are the K names. Where scikit-learn has the measure, scikit-learn
computes it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax, softmax
from sklearn import metrics as sk

from vit_finetune.intervals import above_chance, wilson

Array = npt.NDArray[Any]
Row = dict[str, Any]


def plain(value: float) -> float:
    return round(float(value), 6)


def _checked(labels: Array, probabilities: Array) -> tuple[Array, Array]:
    """As int64 and float64, rows summing to one to the last digit; ValueError where they do not
    fit."""
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or not labels.size:
        raise ValueError(
            f"not (N,) labels and (N, K) probabilities: {labels.shape}, {probabilities.shape}"
        )
    if labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise ValueError(
            f"labels are {labels.min()}..{labels.max()}, beyond 0..{probabilities.shape[1] - 1}"
        )
    total = probabilities.sum(axis=1, keepdims=True)
    if not (probabilities >= 0).all() or not np.allclose(total, 1, atol=1e-3):
        raise ValueError("probabilities must not be negative and must sum to one in every row")
    return labels.astype(np.int64), probabilities / total


def negative_log_likelihood(labels: Array, logits: Array) -> float:
    """Mean of -log p(label) in nats, from logits (N, K): probabilities would round a confident
    mistake to infinity."""
    logits = np.asarray(logits, dtype=np.float64)
    return plain(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


def warning_signs(labels: Array, predicted: Array, classes: Sequence[str]) -> list[str]:
    """Signs that the model did not learn, each with the key of params.yaml that is likely to
    blame."""
    signs, hits = [], int((labels == predicted).sum())
    largest = np.bincount(labels).max() / len(labels)
    if len(np.unique(predicted)) == 1:
        signs.append(
            f"every test image is predicted as {classes[predicted[0]]}: try a tenth of train.lr"
        )
    elif not above_chance(labels, predicted):
        signs.append(
            f"the test accuracy, {hits / len(labels):.3f}, is not clearly above the share of the largest class, "
            f"{largest:.3f}: try another train.lr, or more images"
        )
    return signs


def classification_summary(labels: Array, logits: Array, classes: Sequence[str], bins: int) -> Row:
    """accuracy, its ci95, macro_f1, nll (nats), ece, n, from `labels` (N,) and `logits` (N, K).

    macro_f1 is the mean over the classes that have test images: a score that nothing could have
    earned would only dilute it.
    """
    labels, probabilities = _checked(labels, softmax(np.asarray(logits, dtype=np.float64), axis=1))
    if len(classes) != probabilities.shape[1]:
        raise ValueError(
            f"{len(classes)} class names for {probabilities.shape[1]} columns of probabilities"
        )
    predicted = probabilities.argmax(axis=1)
    scores = [row["f1"] for row in per_class(labels, predicted, classes) if row["support"]]
    hits, n = int((predicted == labels).sum()), labels.size
    return {
        "accuracy": plain(hits / n),
        "accuracy_ci95": [plain(end) for end in wilson(hits, n)],
        "macro_f1": plain(np.mean(scores)),
        "nll": negative_log_likelihood(labels, logits),
        "ece": expected_calibration_error(reliability(labels, probabilities, bins)),
        "n": n,
    }


def per_class(labels: Array, predicted: Array, classes: Sequence[str]) -> list[Row]:
    """class, precision, recall, f1 and support (its test images), a row for each class.

    A class that was never predicted has precision 0; one without test images has support 0 and
    recall 0.
    """
    every = np.arange(len(classes))
    table = sk.precision_recall_fscore_support(labels, predicted, labels=every, zero_division=0)
    return [
        {
            "class": name,
            "precision": plain(p),
            "recall": plain(r),
            "f1": plain(f1),
            "support": int(s),
        }
        for name, p, r, f1, s in zip(classes, *table, strict=True)
    ]


def reliability(labels: Array, probabilities: Array, bins: int) -> list[Row]:
    """Confidence against accuracy in `bins` equal bins (lower, upper], one row each; an empty bin
    has no row.

    accuracy_low and accuracy_high are its Wilson interval: most bins of a good model hold few
    images.
    """
    labels, probabilities = _checked(labels, probabilities)
    edges = np.linspace(0, 1, bins + 1)
    confidence, hits = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bin_of, rows = np.searchsorted(edges[1:-1], confidence), []
    for b in np.unique(bin_of):
        mean, inside = confidence[bin_of == b].mean(), hits[bin_of == b]
        low, high = wilson(int(inside.sum()), inside.size)
        rows.append(
            {
                "lower": plain(edges[b]),
                "upper": plain(edges[b + 1]),
                "confidence": plain(mean),
                "accuracy": plain(inside.mean()),
                "accuracy_low": plain(low),
                "accuracy_high": plain(high),
                "count": inside.size,
            }
        )
    return rows


def expected_calibration_error(rows: Sequence[Row]) -> float:
    """Mean |accuracy - confidence| over images (Naeini et al. 2015), from the rows of
    `reliability`."""
    gaps = [abs(row["accuracy"] - row["confidence"]) for row in rows]
    return plain(np.average(gaps, weights=[row["count"] for row in rows]))
