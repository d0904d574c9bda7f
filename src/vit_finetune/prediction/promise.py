"""From which confidence on can an accuracy be promised? For `predict --at-least`.

Validation images decide, by fixed-sequence testing: thresholds are tested one after the other, from
strict to loose, each at the same level, up to the first that fails (Learn then Test, Angelopoulos
et al., arXiv:2110.01052). Then the chance of a threshold that breaks the promise is at most RISK.
"""

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, poisson

Array = NDArray[Any]

RISK = 0.05
LEVEL = "a confidence level of 95 %"  # 1 - RISK
STEPS = 20  # thresholds: those that answer a twentieth of the validation images, two of them, ...
MOST_ANSWERS = 10**18


@dataclass(frozen=True)
class Promise:
    """An accuracy, and the lowest confidence of the images that are answered with it.

    Attributes:
        threshold: None if the validation images show no confidence for which the accuracy holds.
        summary: a sentence about it.
    """

    accuracy: float
    threshold: float | None
    summary: str

    def covers(self, confidence: float) -> bool:
        """Whether an image of this confidence is answered."""
        return self.threshold is not None and confidence >= self.threshold


def make_promise(confidence: Array, right: Array, accuracy: float) -> Promise:
    """The promise that the validation images allow.

    The first thresholds answer so few images that they could not pass even with every prediction
    right, and the first that could pass allows no mistake. So the sequence starts at the threshold
    that most probably passes if the model's confidences are true. This choice does not look at
    which predictions are right, so the promise holds whatever the confidences are worth.

    Args:
        confidence: probability of the predicted class of each validation image, (M,).
        right: whether the prediction is correct, (M,).
        accuracy: between 0 and 1.
    """
    order = np.argsort(-confidence, kind="stable")
    confidence = confidence[order]
    wrong = np.cumsum(~right[order])
    sizes = answered_counts(confidence)
    allowed = allowed_mistakes(sizes, accuracy)
    expected = np.cumsum(1 - confidence)[sizes - 1]
    chance = poisson.cdf(allowed, expected)  # 0 where no number of mistakes is allowed
    if not chance.any():
        return Promise(accuracy, None, too_few(len(confidence), accuracy))

    start = int(chance.argmax())
    passed = None
    for index in range(start, len(sizes)):
        if wrong[sizes[index] - 1] > allowed[index]:
            break
        passed = sizes[index]
    if passed is None:
        first = sizes[start]
        summary = too_many_mistakes(int(first), int(wrong[first - 1]), accuracy)
        return Promise(accuracy, None, summary)
    threshold = float(confidence[passed - 1])
    summary = (
        f"answers from a confidence of {threshold:.4f} on, like {passed:,} of {len(confidence):,} "
        f"validation images; at {LEVEL}, at least {accuracy:g} of such answers are right"
    )
    return Promise(accuracy, threshold, summary)


def answered_counts(falling: Array) -> Array:
    """How many images each threshold of the sequence answers, from falling confidences (M,). Images
    of equal confidence are answered together."""
    images = len(falling)
    at_least = [-(-step * images // STEPS) for step in range(1, STEPS + 1)]
    last_answered = falling[np.array(at_least) - 1]
    return np.unique(np.searchsorted(-falling, -last_answered, side="right"))


def allowed_mistakes(answers: Array, accuracy: float) -> Array:
    """The most mistakes among so many answers (n,) that still show the accuracy, by an exact
    binomial test at the level RISK; -1 where not even none would."""
    mistakes = binom.ppf(RISK, answers, 1 - accuracy)
    shows = binom.cdf(mistakes, answers, 1 - accuracy) <= RISK
    return np.where(shows, mistakes, mistakes - 1).astype(int)


def needed_answers(mistakes: int, accuracy: float) -> int:
    """The fewest answers that show the accuracy with so many mistakes among them."""
    numbers = range(1, MOST_ANSWERS)
    index = bisect_left(
        numbers, True, key=lambda answers: binom.cdf(mistakes, answers, 1 - accuracy) <= RISK
    )
    return numbers[index]


def too_few(images: int, accuracy: float) -> str:
    return (
        f"answers nothing: {images:,} validation images are too few to promise an accuracy of "
        f"{accuracy:g} at {LEVEL}; at least {needed_answers(0, accuracy):,} are needed"
    )


def too_many_mistakes(answered: int, mistakes: int, accuracy: float) -> str:
    return (
        f"answers nothing: {mistakes:,} of the {answered:,} most confident validation images are "
        f"predicted wrongly; to promise an accuracy of {accuracy:g} at {LEVEL}, "
        f"{needed_answers(mistakes, accuracy):,} with so many mistakes are needed"
    )
