"""scikit-learn's digits: every image once, in a training and a test part of the same classes."""

from collections import Counter

import numpy as np
import pytest
import sklearn.datasets

from tests.data.loaded import load
from vit_finetune.data.digits import load_digits


@pytest.fixture(scope="module")
def digits():
    return load(load_digits(), "digits")


def test_the_digits_are_rgb_bytes_with_integer_labels(digits):
    assert digits.classes == list("0123456789")
    assert digits.checksums == {}
    for part in ("train", "test"):
        images = digits.images[part]
        labels = digits.labels[part]
        assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
        assert images.shape == (len(labels), 8, 8, 3)
        assert (images.min(), images.max()) == (0, 255)
        assert np.array_equal(images[..., 0], images[..., 2])


def test_the_two_parts_share_no_image_and_are_together_all_1797(digits):
    original = sklearn.datasets.load_digits()
    whole = Counter(
        (image.tobytes(), label)
        for image, label in zip(original.images, original.target, strict=True)
    )
    parts = Counter()
    for part in ("train", "test"):
        grey = digits.images[part][..., 0] * (16 / 255)  # 17 levels survive as bytes
        assert np.allclose(grey, np.rint(grey), atol=0.04)
        pairs = zip(np.rint(grey), digits.labels[part], strict=True)
        parts += Counter((image.tobytes(), label) for image, label in pairs)
    assert sum(parts.values()) == 1797
    assert parts == whole


def test_both_parts_hold_the_classes_in_proportion(digits):
    train, test = (np.bincount(digits.labels[part]) for part in ("train", "test"))
    assert set((train - test).tolist()) <= {0, 1}
    assert (len(digits.labels["train"]), len(digits.labels["test"])) == (901, 896)
