"""How good the predictions are: plain Python numbers, rounded to six digits.

For N images and K classes, `labels` and `predicted` are class indices (N,), `probabilities` (N, K)
sum to one in each row, and `classes` are the K names. `groups` (N,) are numbers: images with equal
ones may depend on each other, which widens the intervals; None: no two do. If scikit-learn has a
measure, it computes it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import softmax
from sklearn import metrics as sk

from vit_finetune.calibration import (
    confidence_bins,
    expected_calibration_error,
    negative_log_likelihood,
)
from vit_finetune.intervals import above_chance, chance_agreement, fraction

Array = npt.NDArray[Any]
Row = dict[str, Any]

FAR = 0.1  # difference of two accuracies that deserves a warning
FEWEST = 5  # test images of a class, to say that it is never predicted
RARE = 0.1  # of the largest class
SHOWN = 5  # names of classes in a warning

ANSWERED = (100, 99, 95, 90, 80, 70, 60, 50)  # percent of the images


def plain(value: float) -> float:
    return round(float(value), 6)


def _checked(labels: Array, probabilities: Array) -> tuple[Array, Array]:
    """As int64 and float64, with rows that sum to one to the last digit; ValueError if they do not
    fit each other."""
    labels = np.asarray(labels)
    probabilities = np.asarray(probabilities, dtype=np.float64)
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


def _of(groups: Array | None, chosen: Array) -> Array | None:
    return None if groups is None else groups[chosen]


def find_warnings(
    labels: Array,
    predicted: Array,
    classes: Sequence[str],
    validation_right: Array,
    groups: Array | None = None,
) -> list[str]:
    """Sentences on what was seen that suggests that the model did not learn, or not what the test
    images ask for.

    Args:
        validation_right: whether each validation image (M,) was predicted right.
        groups: of the test images (N,), as of `intervals.fraction`.
    """
    warnings = []
    if len(np.unique(predicted)) == 1:
        warnings.append(f"every test image is predicted as {classes[predicted[0]]}")
    else:
        warnings += _no_better_than_chance(labels, predicted, groups)
        warnings += _never_predicted(labels, predicted, classes)
    return warnings + _far_below_validation(labels == predicted, validation_right, groups)


def _no_better_than_chance(labels: Array, predicted: Array, groups: Array | None) -> list[str]:
    if above_chance(labels, predicted, groups):
        return []
    accuracy = np.mean(labels == predicted)
    chance = chance_agreement(labels, predicted)
    return [
        f"the test accuracy, {accuracy:.3f}, is not clearly above {chance:.3f}, which predictions "
        "of the same frequencies have by chance"
    ]


def _far_below_validation(right: Array, validation_right: Array, groups: Array | None) -> list[str]:
    """Whether each test image, and each validation image, was predicted right -> a sentence if the
    intervals do not touch and the accuracies are FAR apart."""
    test = fraction(right, groups)
    validation = fraction(validation_right)
    if test.high >= validation.low or validation.mean - test.mean < FAR:
        return []
    return [
        f"the test accuracy, {test.mean:.3f} (n = {test.n:,}), is far below that of the "
        f"validation images, {validation.mean:.3f} (n = {validation.n:,}): the test images are "
        "of another kind, or validation images are nearly copies of training images"
    ]


def _never_predicted(labels: Array, predicted: Array, classes: Sequence[str]) -> list[str]:
    """Classes of FEWEST test images or more that no image is predicted as, by their names."""
    counts = np.bincount(labels, minlength=len(classes))
    missed = [k for k in range(len(classes)) if counts[k] >= FEWEST and k not in predicted]
    if not missed:
        return []
    shown = ", ".join(f"{classes[k]} ({counts[k]} test images)" for k in missed[:SHOWN])
    more = f" and {len(missed) - SHOWN} more" if len(missed) > SHOWN else ""
    advice = ""
    if counts[missed].max() < counts.max() * RARE:
        advice = "; rare classes count more with train.class_weights: balanced"
    return [f"never predicted: {shown}{more}{advice}"]


def classification_summary(
    labels: Array, logits: Array, classes: Sequence[str], bins: int, groups: Array | None = None
) -> Row:
    """accuracy, its ci95, macro_f1, nll (nats), ece, n, from `labels` (N,) and `logits` (N, K).

    macro_f1 is the mean over the classes that have test images: no prediction could raise the score
    of another class above 0. `not_tested` names these other classes, if there are any. `groups` is
    the number of groups, if they are fewer than the images.
    """
    probabilities = softmax(np.asarray(logits, dtype=np.float64), axis=1)
    labels, probabilities = _checked(labels, probabilities)
    if len(classes) != probabilities.shape[1]:
        raise ValueError(
            f"{len(classes)} class names for {probabilities.shape[1]} columns of probabilities"
        )
    predicted = probabilities.argmax(axis=1)
    scores = [row["f1"] for row in per_class(labels, predicted, classes) if row["support"]]
    right = predicted == labels
    in_bins = confidence_bins(probabilities.max(axis=1), right, bins)
    accuracy = fraction(right, groups)
    summary: Row = {
        "accuracy": plain(accuracy.mean),
        "accuracy_ci95": [plain(accuracy.low), plain(accuracy.high)],
        "macro_f1": plain(np.mean(scores)),
        "nll": plain(negative_log_likelihood(labels, logits)),
        "ece": plain(expected_calibration_error(in_bins)),
        "n": accuracy.n,
    }
    count = accuracy.n if groups is None else len(np.unique(groups))
    if count < accuracy.n:
        summary["groups"] = count
    absent = [name for k, name in enumerate(classes) if k not in labels]
    if absent:
        summary["not_tested"] = ", ".join(absent)
    return summary


def per_class(labels: Array, predicted: Array, classes: Sequence[str]) -> list[Row]:
    """class, precision, recall, f1 and support (its test images), a row for each class.

    A class that was never predicted has precision 0; one without test images has support 0, and
    None for recall and f1.
    """
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        labels, predicted, labels=np.arange(len(classes)), zero_division=0
    )
    return [
        {
            "class": name,
            "precision": plain(precision[k]),
            "recall": plain(recall[k]) if support[k] else None,
            "f1": plain(f1[k]) if support[k] else None,
            "support": int(support[k]),
        }
        for k, name in enumerate(classes)
    ]


def reliability(
    labels: Array, probabilities: Array, bins: int, groups: Array | None = None
) -> list[Row]:
    """Confidence against accuracy in `bins` equal bins (lower, upper], one row each; an empty bin
    has no row.

    accuracy_low and accuracy_high are its interval: most bins of a good model hold few images.
    """
    labels, probabilities = _checked(labels, probabilities)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    rows = []
    for b in confidence_bins(confidence, right, bins):
        inside = (confidence > b.lower) & (confidence <= b.upper)
        accuracy = fraction(right[inside], _of(groups, inside))
        rows.append(
            {
                "lower": plain(b.lower),
                "upper": plain(b.upper),
                "confidence": plain(b.confidence),
                "accuracy": plain(accuracy.mean),
                "accuracy_low": plain(accuracy.low),
                "accuracy_high": plain(accuracy.high),
                "count": accuracy.n,
            }
        )
    return rows


def selective(
    labels: Array, predicted: Array, confidence: Array, groups: Array | None = None
) -> list[Row]:
    """The accuracy if only the most confident images are answered, a row for each of ANSWERED.

    Args:
        confidence: probability of the predicted class, (N,).

    Returns:
        Rows of fraction (of the images that are answered, at least), accuracy with its interval,
        threshold (the lowest confidence that is answered) and n (how many are answered).
        Images with equal confidence are answered together, so n may be larger than the fraction.
    """
    falling = np.sort(confidence)[::-1]
    rows = []
    for percent in ANSWERED:
        fewest = -(-percent * len(falling) // 100)
        threshold = falling[fewest - 1]
        answered = confidence >= threshold
        accuracy = fraction((labels == predicted)[answered], _of(groups, answered))
        rows.append(
            {
                "fraction": percent / 100,
                "accuracy": plain(accuracy.mean),
                "accuracy_low": plain(accuracy.low),
                "accuracy_high": plain(accuracy.high),
                "threshold": plain(threshold),
                "n": accuracy.n,
            }
        )
    return rows
