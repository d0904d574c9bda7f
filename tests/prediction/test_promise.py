"""What is promised holds, and nothing is promised that the validation images do not show."""

import numpy as np
import pytest
from scipy.stats import binomtest

from vit_finetune.prediction.promise import allowed_mistakes, make_promise, needed_answers


def fallen(images, mistakes=()):
    """Falling confidences (M,), and predictions that are right but for those at `mistakes`."""
    right = np.ones(images, dtype=bool)
    right[list(mistakes)] = False
    return np.linspace(1, 0.5, images), right


def test_a_mistake_is_allowed_where_the_exact_interval_says_so():
    sizes = [1, 58, 59, 60, 298, 299, 473, 1000]
    for accuracy in (0.5, 0.95, 0.99):
        for images, allowed in zip(sizes, allowed_mistakes(np.array(sizes), accuracy), strict=True):
            for mistakes in {allowed, allowed + 1} & set(range(images + 1)):
                # both sides at 90 %: 5 % on each
                low = binomtest(images - mistakes, images).proportion_ci(0.9, "exact").low
                assert (low >= accuracy) == (mistakes <= allowed)
    assert [needed_answers(0, accuracy) for accuracy in (0.9, 0.95, 0.99)] == [29, 59, 299]
    assert needed_answers(1, 0.99) == 473
    assert needed_answers(3, np.nextafter(1, 0)) > 10**16


def test_too_few_images_promise_nothing_and_the_number_that_would_is_said():
    promise = make_promise(*fallen(298), 0.99)
    assert promise.threshold is None
    assert not promise.covers(1.0)
    assert promise.summary == (
        "answers nothing: 298 validation images are too few to promise an accuracy of 0.99 at a "
        "confidence level of 95 %; at least 299 are needed"
    )
    assert make_promise(*fallen(299), 0.99).covers(0.5)


def test_the_threshold_is_the_last_before_the_mistakes_are_too_many():
    confidence, right = fallen(400, mistakes=range(330, 400, 2))
    promise = make_promise(confidence, right, 0.99)
    assert promise.threshold == confidence[319]  # of steps of 20 images
    assert promise.covers(confidence[319])
    assert not promise.covers(confidence[320])
    assert "like 320 of 400 validation images" in promise.summary


def test_a_mistake_among_the_most_confident_is_said_with_the_number_that_would_allow_it():
    promise = make_promise(*fallen(400, mistakes=[5, 90]), 0.99)
    assert promise.threshold is None
    assert "2 of the 300 most confident validation images are predicted wrongly" in promise.summary
    assert "628 with so many mistakes are needed" in promise.summary


def test_images_of_equal_confidence_are_answered_together():
    right = np.ones(400, dtype=bool)
    right[380:] = False
    assert make_promise(np.ones(400), right, 0.99).threshold is None
    assert make_promise(np.ones(400), right, 0.9).threshold == 1


@pytest.mark.parametrize(
    ("images", "accuracy", "sureness"),  # of what the model says; 1 is calibrated
    [(100, 0.9, 1.0), (300, 0.95, 4.0), (1000, 0.98, 0.3)],
)
def test_the_promise_is_broken_in_at_most_a_twentieth_of_the_cases(images, accuracy, sureness):
    """Against the true accuracy of all images that would be answered."""
    rng = np.random.default_rng(0)
    odds = np.sort(rng.normal(3, 2, size=100_000))[::-1]
    truth = 1 / (1 + np.exp(-odds))  # probability that a prediction is right
    confidence = 1 / (1 + np.exp(-sureness * odds))
    accuracy_of_first = truth.cumsum() / np.arange(1, len(truth) + 1)
    broken = 0
    promised = 0
    for _ in range(400):
        rows = rng.integers(len(odds), size=images)
        promise = make_promise(confidence[rows], rng.random(images) < truth[rows], accuracy)
        if promise.threshold is not None:
            promised += 1
            broken += accuracy_of_first[(confidence >= promise.threshold).sum() - 1] < accuracy
    assert broken <= 0.05 * 400
    assert promised > 100
