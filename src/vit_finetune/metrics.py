"""What the predictions are worth: numbers in, plain Python numbers out, rounded to six digits.

K classes, N images; `labels` and `predicted` are class indices (N,), `probabilities` (N, K) sum to one in
each row, `classes` are the K names. Where scikit-learn has the measure, scikit-learn computes it.
"""

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import metrics as sk

Array = npt.NDArray[Any]
Row = dict[str, Any]
_Z95 = NormalDist().inv_cdf(0.975)


def _plain(value: float) -> float:
    return round(float(value), 6)


def wilson_interval(hits: int, n: int) -> list[float]:
    """95 % interval [low, high] of a proportion (Wilson 1927): stays inside [0, 1], holds at 0 and n hits."""
    if not 0 <= hits <= n or n == 0:
        raise ValueError(f"a proportion needs n >= 1 and 0 <= hits <= n; got hits={hits}, n={n}")
    share, z2 = hits / n, _Z95**2
    centre, half = share + z2 / (2 * n), _Z95 * np.sqrt(share * (1 - share) / n + z2 / (4 * n**2))
    return [_plain(min(max(end / (1 + z2 / n), 0.0), 1.0)) for end in (centre - half, centre + half)]


def _checked(labels: Array, probabilities: Array) -> tuple[Array, Array]:
    """As int64 and float64, rows summing to one to the last digit; ValueError where they do not fit."""
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or not labels.size:
        raise ValueError(f"not (N,) labels and (N, K) probabilities: {labels.shape}, {probabilities.shape}")
    if labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise ValueError(f"labels are {labels.min()}..{labels.max()}, beyond 0..{probabilities.shape[1] - 1}")
    total = probabilities.sum(axis=1, keepdims=True)
    if not (probabilities >= 0).all() or not np.allclose(total, 1, atol=1e-3):
        raise ValueError("probabilities must not be negative and must sum to one in every row")
    return labels.astype(np.int64), probabilities / total


def classification_summary(labels: Array, probabilities: Array, classes: Sequence[str], bins: int) -> Row:
    """accuracy, its ci95, macro_f1, nll (nats), ece, n; per_class {name: precision, recall, f1, support}

    A class that was never predicted has precision 0. A class without test images has support 0 and recall
    0, and macro_f1 leaves it out: a score that nothing could have earned would only dilute the mean.
    """
    labels, probabilities = _checked(labels, probabilities)
    if len(classes) != probabilities.shape[1]:
        raise ValueError(f"{len(classes)} class names for {probabilities.shape[1]} columns of probabilities")
    predicted, every = probabilities.argmax(axis=1), np.arange(len(classes))
    table = sk.precision_recall_fscore_support(labels, predicted, labels=every, zero_division=0)
    hits, n = int((predicted == labels).sum()), labels.size
    return {
        "accuracy": _plain(hits / n),
        "accuracy_ci95": wilson_interval(hits, n),
        "macro_f1": _plain(table[2][table[3] > 0].mean()),
        "nll": _plain(sk.log_loss(labels, probabilities, labels=every)),
        "ece": expected_calibration_error(reliability(labels, probabilities, bins)),
        "n": n,
        "per_class": {
            name: {"precision": _plain(p), "recall": _plain(r), "f1": _plain(f1), "support": int(s)}
            for name, p, r, f1, s in zip(classes, *table, strict=True)
        },
    }


def reliability(labels: Array, probabilities: Array, bins: int) -> list[Row]:
    """Confidence against accuracy in `bins` equal bins (lower, upper], one row each; an empty bin has no row.

    accuracy_low and accuracy_high are its Wilson interval: most bins of a good model hold few images.
    """
    labels, probabilities = _checked(labels, probabilities)
    edges = np.linspace(0, 1, bins + 1)
    confidence, hits = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bin_of, rows = np.searchsorted(edges[1:-1], confidence), []
    for b in np.unique(bin_of):
        mean, inside = confidence[bin_of == b].mean(), hits[bin_of == b]
        low, high = wilson_interval(int(inside.sum()), inside.size)
        rows.append(
            {
                "lower": _plain(edges[b]),
                "upper": _plain(edges[b + 1]),
                "confidence": _plain(mean),
                "accuracy": _plain(inside.mean()),
                "accuracy_low": low,
                "accuracy_high": high,
                "count": inside.size,
            }
        )
    return rows


def expected_calibration_error(rows: Sequence[Row]) -> float:
    """Mean |accuracy - confidence| over images (Naeini et al. 2015), from the rows of `reliability`."""
    gaps = [abs(row["accuracy"] - row["confidence"]) for row in rows]
    return _plain(np.average(gaps, weights=[row["count"] for row in rows]))


def confusion(labels: Array, predicted: Array, num_classes: int) -> Array:
    """Counts (K, K): row = true class, column = predicted class."""
    return np.asarray(sk.confusion_matrix(labels, predicted, labels=np.arange(num_classes)))


def most_confused(confusion: Array, classes: Sequence[str], k: int) -> list[Row]:
    """Up to `k` pairs, most frequent first: true, predicted, count, share of the true class."""
    wrong = np.where(np.eye(len(classes), dtype=bool), 0, confusion)
    order = np.argsort(-wrong, axis=None, kind="stable")[:k]
    pairs = [divmod(int(flat), len(classes)) for flat in order if wrong.flat[flat] > 0]
    return [
        {
            "true": classes[t],
            "predicted": classes[p],
            "count": int(confusion[t, p]),
            "share": _plain(confusion[t, p] / confusion[t].sum()),
        }
        for t, p in pairs
    ]


def worst_mistakes(labels: Array, probabilities: Array, k: int) -> Array:
    """Indices (<= k,) of the wrong predictions, most confident first; equal confidence in order of index."""
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")][:k]


def class_counts(labels_by_split: Mapping[str, Array], classes: Sequence[str]) -> dict[str, dict[str, int]]:
    """Images per split and class, absent classes included: {split: {class: count}}."""
    counts = {split: np.bincount(labels, minlength=len(classes)) for split, labels in labels_by_split.items()}
    return {split: dict(zip(classes, count.tolist(), strict=True)) for split, count in counts.items()}
