"""Pictures of predictions: confusion, mistakes, measures of each class, calibration."""

from itertools import pairwise

import numpy as np
import pytest

from tests.pictures import CLASSES, IMAGES, LABELS, assert_draws, class_names, probabilities, texts
from vit_finetune.evaluation.figures import (
    confusion_matrix,
    mistakes,
    most_confused_pairs,
    per_class_bars,
    reliability_diagram,
)
from vit_finetune.evaluation.measures import per_class, reliability
from vit_finetune.evaluation.predictions import confusion, most_confused, worst_mistakes

FILES = [f"test/{index}" for index in range(len(IMAGES))]


@pytest.mark.parametrize("k", [2, 100])
def test_every_figure_draws_for_few_and_many_classes(k):
    labels, classes = np.random.default_rng(k).integers(k, size=len(IMAGES)), class_names(k)
    shares = probabilities(labels, k)
    predicted, confidence = shares.argmax(axis=1), shares.max(axis=1)
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
    assert_draws(confusion_matrix(counts, classes))
    assert_draws(
        per_class_bars({row["class"]: row for row in per_class(labels, predicted, classes)})
    )
    assert_draws(reliability_diagram(reliability(labels, shares, 10)))


@pytest.mark.parametrize("k", [10, 37, 100])
def test_class_names_on_an_axis_never_touch(k):
    figure = confusion_matrix(np.eye(k, dtype=int), [f"a rather long name {c}" for c in range(k)])
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert all(upper.y0 >= lower.y1 for upper, lower in pairwise(boxes))
    assert len(boxes) > 20 or len(boxes) == k


def test_confusion_has_true_classes_as_rows_and_is_shaded_by_their_share():
    counts = np.array([[6, 2, 0], [1, 9, 0], [0, 0, 0]])
    axes = confusion_matrix(counts, ["a", "b", "absent"]).axes[0]
    expected = [[0.75, 0.25, 0], [0.1, 0.9, 0], [0, 0, 0]]
    assert np.asarray(axes.images[0].get_array()) == pytest.approx(np.array(expected))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert axes.images[0].get_clim() == (0, 1)
    written = {
        (round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in axes.texts
    }
    assert written == {(0, 0): "6", (0, 1): "2", (1, 0): "1", (1, 1): "9"}


def test_mistakes_name_the_predicted_class_its_confidence_and_the_true_class():
    figure = mistakes(
        IMAGES[:1], np.array([3]), np.array([8]), np.array([0.987]), CLASSES, ["three/it.png"]
    )
    assert {"eight 99%", "is three", "three/it.png"} <= set(texts(figure))
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


def test_bars_have_the_precision_and_recall_of_their_class():
    per_class = {"a": {"precision": 0.9, "recall": 0.5}, "b": {"precision": 0.2, "recall": 1.0}}
    axes = per_class_bars(per_class).axes[0]
    precision, recall = axes.containers
    assert [bar.get_width() for bar in precision] == [0.9, 0.2]
    assert [bar.get_width() for bar in recall] == [0.5, 1.0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert axes.yaxis_inverted()
    assert axes.get_xlim()[0] == 0


def test_the_reliability_diagram_shows_accuracy_over_confidence_and_the_share_of_images():
    rows = reliability(LABELS, probabilities(LABELS, 10), 5)
    left, right = reliability_diagram(rows).axes
    points = left.containers[0].lines[0].get_xydata()
    assert points == pytest.approx(np.array([[row["confidence"], row["accuracy"]] for row in rows]))
    assert sum(bar.get_height() for bar in right.containers[0]) == pytest.approx(1)
    assert [bar.get_x() for bar in right.containers[0]] == pytest.approx(
        [row["lower"] for row in rows]
    )
