"""What training leaves out of tokens and shifts in them."""

import numpy as np
import pytest
import torch

from vit_finetune.training.augmentation import drop_tokens, flip_some, shift_brightness


def test_token_dropout_keeps_every_prefix_token_and_a_random_choice_of_patches_in_their_order():
    tokens = torch.arange(2 * 12.0).view(2, 12, 1)
    kept = drop_tokens(tokens, 2, 0.3, np.random.default_rng(0))[..., 0]
    assert kept.shape == (2, 9)  # 2 prefix tokens, and 7 of 10 patches
    for image, row in enumerate(kept.tolist()):
        assert row[:2] == tokens[image, :2, 0].tolist()
        assert row == sorted(set(row))
        assert set(row) <= set(tokens[image, :, 0].tolist())
    assert kept[0].tolist() != (kept[1] - 12).tolist()  # each image has its own choice


@pytest.mark.parametrize("fraction", [0.001, 0.5, 0.97])
def test_the_patches_that_stay_are_those_of_the_smallest_random_numbers(fraction):
    tokens = torch.randn(5, 30, 3)
    kept = drop_tokens(tokens, 1, fraction, np.random.default_rng(4))
    drawn = np.random.default_rng(4).random((5, 29))
    for image in range(5):
        patches = sorted(np.argsort(drawn[image])[: kept.shape[1] - 1])
        assert torch.equal(kept[image], tokens[image][[0, *(1 + patch for patch in patches)]])


def test_token_dropout_leaves_at_least_one_patch():
    assert drop_tokens(torch.zeros(1, 5, 1), 1, 0.99, np.random.default_rng(0)).shape == (1, 2, 1)


def test_brightness_shifts_all_tokens_of_a_channel_alike_and_never_beyond_the_channels_range():
    tokens = torch.randn(3, 50, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [0.1, 1, 10, 100]
    )
    shifted = shift_brightness(tokens, 0.25, np.random.default_rng(0))
    low = tokens.amin(1, keepdim=True)
    high = tokens.amax(1, keepdim=True)
    assert (shifted >= low).all()
    assert (shifted <= high).all()
    free = (shifted > low) & (shifted < high)  # what was not cut off at the end of the range
    shares = torch.where(free, (shifted - tokens) / (high - low), torch.nan)
    middle = shares.nanmedian(1, keepdim=True).values
    torch.testing.assert_close(shares[free], middle.expand_as(shares)[free], rtol=0, atol=1e-5)
    assert middle.abs().max() <= 0.25
    assert middle.unique().numel() == 12  # 3 images, 4 channels
    assert (middle > 0).any()
    assert (middle < 0).any()
    assert torch.equal(shift_brightness(tokens, 0.0, np.random.default_rng(0)), tokens)


def test_about_half_of_the_images_are_mirrored_left_to_right_and_no_other_is_touched():
    images = torch.randint(256, (400, 3, 4, 3), dtype=torch.uint8)
    before = images.clone()
    mirrored = images.flip(2)
    found = flip_some(images, np.random.default_rng(0))
    is_plain = (found == images).flatten(1).all(dim=1)
    is_mirrored = (found == mirrored).flatten(1).all(dim=1)
    assert (is_plain ^ is_mirrored).all()
    assert 160 < is_mirrored.sum() < 240
    assert torch.equal(images, before)
