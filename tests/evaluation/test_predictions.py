"""Which images are confused with what, and the table of all predictions."""

import numpy as np
import pytest

from vit_finetune.evaluation.predictions import (
    confusion,
    most_confused,
    prediction_rows,
    worst_mistakes,
)


def test_confusion_has_true_rows_and_every_class():
    counts = confusion(np.array([0, 0, 2]), np.array([0, 1, 1]), 4)
    assert counts.tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]


def test_most_confused_counts_pairs_of_different_classes_the_most_frequent_first():
    counts = np.array([[8, 2, 0], [5, 4, 1], [0, 1, 19]])
    assert most_confused(counts, ["a", "b", "c"], 3) == [
        {"true": "b", "predicted": "a", "count": 5, "fraction": 0.5},
        {"true": "a", "predicted": "b", "count": 2, "fraction": 0.2},
        {"true": "b", "predicted": "c", "count": 1, "fraction": 0.1},
    ]
    assert len(most_confused(counts, ["a", "b", "c"], 99)) == 4
    assert most_confused(np.diag([3, 0, 5]), ["a", "b", "c"], 5) == []


def test_worst_mistakes_are_wrong_most_confident_first_and_ties_by_index():
    labels = np.array([0, 0, 0, 0, 1, 1])
    confident = np.array([[0.9, 0.1], [0.3, 0.7], [0.01, 0.99], [0.3, 0.7], [0.8, 0.2], [0.4, 0.6]])
    assert worst_mistakes(labels, confident, 3).tolist() == [2, 4, 1]
    assert worst_mistakes(labels, confident, 9).tolist() == [2, 4, 1, 3]
    assert worst_mistakes(np.array([0]), np.array([[1.0, 0.0]]), 3).size == 0


def test_each_image_has_a_row_with_its_index_in_the_source_its_file_class_names_and_confidence():
    rows = prediction_rows(
        np.array([7, 3]),
        ["a/x.jpg", "test/3"],
        np.array([0, 1]),
        np.array([1, 1]),
        np.array([0.12345678, 1.0], np.float32),
        ["a", "b"],
    )
    assert rows == [
        {"index": 7, "file": "a/x.jpg", "actual": "a", "predicted": "b", "confidence": 0.123457},
        {"index": 3, "file": "test/3", "actual": "b", "predicted": "b", "confidence": 1.0},
    ]
    assert type(rows[0]["index"]) is int
    with pytest.raises(ValueError, match="zip"):
        prediction_rows(np.array([7]), ["f"], np.zeros(2, int), *[np.ones(2, int)] * 2, ["a", "b"])
