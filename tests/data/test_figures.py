"""The picture of a subset: samples under the name of their class."""

import numpy as np
import pytest

from tests.pictures import CLASSES, IMAGES, LABELS, assert_draws, centre, class_names
from vit_finetune.data.figures import sample_grid


@pytest.mark.parametrize("k", [2, 100])
def test_samples_draw_for_few_and_many_classes(k):
    labels = np.random.default_rng(k).integers(k, size=len(IMAGES))
    classes = class_names(k)
    assert_draws(sample_grid(IMAGES, labels, classes))


def test_samples_lie_under_the_name_of_their_class():
    axes = sample_grid(IMAGES, LABELS, CLASSES).axes[0]
    names = {text.get_text(): text.get_position() for text in axes.texts}
    assert set(names) == set(CLASSES)
    for drawn in axes.images:
        index = next(
            i for i, image in enumerate(IMAGES) if np.array_equal(image, drawn.get_array())
        )
        x, y = centre(drawn)
        name_x, name_y = names[CLASSES[LABELS[index]]]
        assert name_x < x < name_x + 6.1
        assert 0 < y - name_y < 1
    assert len(axes.images) == 60
