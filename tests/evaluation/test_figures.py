"""Pictures of predicted images: mistakes, and the pairs of classes most often confused."""

import numpy as np
import pytest

from tests.pictures import CLASSES, IMAGES, LABELS, assert_draws, class_names, probabilities, texts
from vit_finetune.evaluation.figures import mistakes, most_confused_pairs
from vit_finetune.evaluation.predictions import confusion, most_confused, worst_mistakes

FILES = [f"test/{index}" for index in range(len(IMAGES))]


@pytest.mark.parametrize("k", [2, 100])
def test_every_figure_draws_for_few_and_many_classes(k):
    labels = np.random.default_rng(k).integers(k, size=len(IMAGES))
    classes = class_names(k)
    shares = probabilities(labels, k)
    predicted = shares.argmax(axis=1)
    confidence = shares.max(axis=1)
    counts = confusion(labels, predicted, k)
    worst = worst_mistakes(labels, shares, 10)
    assert_draws(
        mistakes(IMAGES[worst], labels[worst], predicted[worst], confidence[worst], classes, FILES)
    )
    assert_draws(
        most_confused_pairs(
            most_confused(counts, classes, 4), IMAGES, labels, predicted, classes, FILES
        )
    )


def test_mistakes_name_the_predicted_class_its_confidence_and_the_true_class():
    figure = mistakes(
        IMAGES[:1], np.array([3]), np.array([8]), np.array([0.9996]), CLASSES, ["three/it.png"]
    )
    assert {"eight 99.9%", "is three", "three/it.png"} <= set(texts(figure))
    none = mistakes(IMAGES[:0], *np.empty((3, 0), dtype=int), CLASSES, [])
    assert "No mistakes" in texts(none)


def test_confused_pairs_show_their_own_images():
    predicted = LABELS.copy()
    wrong = np.flatnonzero(LABELS == 3)[:4]
    predicted[wrong] = 8
    rows = most_confused(confusion(LABELS, predicted, 10), CLASSES, 5)
    figure = most_confused_pairs(rows, IMAGES, LABELS, predicted, CLASSES, FILES)
    assert "three → eight" in texts(figure)
    drawn = [image.get_array() for image in figure.axes[0].images]
    assert np.array_equal(np.stack(drawn), IMAGES[wrong])
    assert "No mistakes" in texts(most_confused_pairs([], IMAGES, LABELS, LABELS, CLASSES, FILES))
