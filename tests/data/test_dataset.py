"""What is counted over a data set: channel statistics, images of each class."""

import numpy as np
import pytest

from vit_finetune.data.dataset import balance_rows, channel_statistics, class_counts


def test_channel_statistics_are_the_mean_and_deviation_that_numpy_computes():
    images = np.random.default_rng(0).integers(256, size=(7, 5, 4, 3), dtype=np.uint8)
    mean, std = channel_statistics(images)
    assert mean == pytest.approx((images / 255).mean(axis=(0, 1, 2)), abs=1e-6)
    assert std == pytest.approx((images / 255).std(axis=(0, 1, 2)), abs=1e-6)


def test_class_counts_name_every_class_even_one_without_images():
    counts = class_counts({"train": np.array([0, 0, 2]), "val": np.array([1])}, ["a", "b", "c"])
    assert counts == {"train": {"a": 2, "b": 0, "c": 1}, "val": {"a": 0, "b": 1, "c": 0}}


def test_a_label_beyond_the_classes_is_an_error():
    with pytest.raises(ValueError, match="longer"):
        class_counts({"train": np.array([3])}, ["a", "b", "c"])


def test_the_table_of_counts_has_a_row_for_each_split_and_class():
    assert balance_rows({"train": {"a": 2, "b": 0}, "test": {"a": 1, "b": 3}}) == [
        {"split": "train", "class": "a", "images": 2},
        {"split": "train", "class": "b", "images": 0},
        {"split": "test", "class": "a", "images": 1},
        {"split": "test", "class": "b", "images": 3},
    ]
