"""Which images were predicted as what: confusion, mistakes, the table of all predictions."""

from collections.abc import Sequence

import numpy as np
from sklearn import metrics as sk

from vit_finetune.evaluation.measures import Array, Row, plain


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
            "share": plain(confusion[t, p] / confusion[t].sum()),
        }
        for t, p in pairs
    ]


def worst_mistakes(labels: Array, probabilities: Array, k: int) -> Array:
    """Indices (<= k,) of the wrong predictions, most confident first; equal confidence in order of
    index."""
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")][:k]


def prediction_rows(
    indices: Array,
    files: Sequence[str],
    labels: Array,
    predicted: Array,
    confidence: Array,
    classes: Sequence[str],
) -> list[Row]:
    """A row for each test image: index in the source, file, true and predicted class,
    confidence."""
    return [
        {
            "index": int(i),
            "file": file,
            "actual": classes[a],
            "predicted": classes[p],
            "confidence": plain(c),
        }
        for i, file, a, p, c in zip(indices, files, labels, predicted, confidence, strict=True)
    ]
