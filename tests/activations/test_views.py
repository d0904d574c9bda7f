"""Images are read in order, as they are or mirrored."""

import numpy as np
import pytest
import torch

from vit_finetune.activations.views import ImageView, image_loader


@pytest.mark.parametrize("workers", [0, 2])
def test_images_are_loaded_in_order_whole_and_mirrored_left_to_right(workers):
    images = np.arange(5 * 2 * 3 * 3, dtype=np.uint8).reshape(5, 2, 3, 3)
    batches = [range(2), range(2, 4), range(4, 5)]
    for mirrored, expected in ((False, images), (True, images[:, :, ::-1])):
        loaded = list(image_loader(ImageView(images, mirrored), batches, workers))
        assert [len(batch) for batch in loaded] == [2, 2, 1]
        np.testing.assert_array_equal(torch.cat(loaded), expected)


def test_rows_are_taken_in_the_order_asked_for_and_as_a_copy():
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1).repeat(3, axis=3)
    taken = ImageView(images, False)[torch.tensor([3, 1, 1])]
    assert taken[:, 0, 0, 0].tolist() == [3, 1, 1]
    taken.zero_()
    assert images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
