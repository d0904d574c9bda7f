"""Which images were predicted as what: confusion, mistakes, the table of all predictions."""

from collections.abc import Sequence

import numpy as np
from sklearn import metrics as sk

from vit_finetune.evaluation.measures import Array, Row, plain


def confusion(labels: Array, predicted: Array, num_classes: int) -> Array:
    """Counts (K, K): row = true class, column = predicted class."""
    return np.asarray(sk.confusion_matrix(labels, predicted, labels=np.arange(num_classes)))


def most_confused(confusion: Array, classes: Sequence[str], k: int) -> list[Row]:
    """Up to `k` pairs of different classes, most frequent first: true, predicted, count, and which
    fraction that is of the true class."""
    wrong = np.where(np.eye(len(classes), dtype=bool), 0, confusion)
    rows = []
    for index in np.argsort(-wrong, axis=None, kind="stable")[:k].tolist():
        true, predicted = divmod(index, len(classes))
        count = int(wrong[true, predicted])
        if count:
            rows.append(
                {
                    "true": classes[true],
                    "predicted": classes[predicted],
                    "count": count,
                    "fraction": plain(count / confusion[true].sum()),
                }
            )
    return rows


def worst_mistakes(labels: Array, probabilities: Array, k: int) -> Array:
    """Indices of up to `k` wrong predictions, most confident first; equally confident ones in their
    order."""
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
