"""Images exchange their bars, and nothing else: what a model says then tells what decides.

The models here read one thing alone, so what decides is known.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vit_finetune.attention.bars import (
    difference,
    draw_pairs,
    exchange_bars,
    more_frequent,
    with_bars,
)
from vit_finetune.attention.sample import PredictedImages
from vit_finetune.verdict import BARS, IMAGE, UNCLEAR

SIDE = 12
WHOLE = (0, 0, SIDE, SIDE)
WIDE = (3, 0, 9, SIDE)
TALL = (0, 3, SIDE, 9)
GREY = 127  # the bars; images below have no such value


def boxes():
    def ordered(ends):
        return (min(ends), max(ends) + 1)

    side = st.tuples(st.integers(0, SIDE - 1), st.integers(0, SIDE - 1)).map(ordered)
    return st.tuples(side, side).map(lambda box: (box[0][0], box[1][0], box[0][1], box[1][1]))


def mask(box):
    top, left, bottom, right = box
    found = np.zeros((SIDE, SIDE), dtype=bool)
    found[top:bottom, left:right] = True
    return found


def padded(rng, box, low=128):
    """An image of random pixels, all at least `low`, between bars."""
    image = rng.integers(low, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    image[~mask(box)] = GREY
    return image


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), box=boxes(), other=boxes())
def test_an_exchange_changes_the_bars_and_no_pixel_that_stays_visible(seed, box, other):
    rng = np.random.default_rng(seed)
    image = padded(rng, box)
    donor = padded(rng, other)
    assert np.array_equal(with_bars(image, box, image, box), image)
    mixed = with_bars(image, box, donor, other)
    assert np.array_equal((mixed == GREY).all(axis=2), ~mask(other))
    both = mask(box) & mask(other)
    assert np.array_equal(mixed[both], image[both])
    values = {tuple(pixel) for pixel in image[mask(box)]}
    assert {tuple(pixel) for pixel in mixed[mask(other)]} <= values  # of the image, not the donor


def test_where_bars_become_narrower_the_image_goes_on_as_its_mirror_image():
    image = np.full((4, 8, 3), GREY, dtype=np.uint8)
    image[:, 3:5] = np.array([[10, 20]] * 4)[..., None]
    donor = np.full((4, 8, 3), 99, dtype=np.uint8)
    mixed = with_bars(image, (0, 3, 4, 5), donor, (1, 1, 3, 8))
    assert mixed[0, :, 0].tolist() == [99] * 8
    assert mixed[1, :, 0].tolist() == [99, 20, 10, 10, 20, 20, 10, 10]
    assert mixed[3, :, 0].tolist() == [99] * 8


@settings(max_examples=30, deadline=None)
@given(box=boxes(), other=boxes())
def test_the_difference_of_two_boxes_is_the_part_that_only_one_of_them_has(box, other):
    expected = (mask(box) ^ mask(other)).sum() / SIDE**2
    assert difference(np.array(box), np.array(other), SIDE**2) == pytest.approx(expected)


def images_of(content, predicted, pixels=None):
    content = np.array(content, dtype=np.int32)
    predicted = np.array(predicted)
    rng = np.random.default_rng(0)
    images = [padded(rng, box) for box in content] if pixels is None else pixels
    count = len(predicted)
    return PredictedImages(
        np.array(images),
        predicted,
        np.arange(count),
        predicted,
        np.ones(count),
        [""] * count,
        content,
    )


def pairs_of(test):
    return draw_pairs(test, np.random.default_rng(0))


def test_a_pair_has_two_predicted_classes_and_different_bars_and_no_image_is_in_two_pairs():
    test = images_of([WIDE, TALL, WHOLE] * 10, [0, 1, 2, 0, 0, 1] * 5)
    pairs = pairs_of(test)
    assert len(np.unique(pairs)) == pairs.size
    assert len(pairs) >= 12  # of 15; the last few find no partner
    for one, other in pairs:
        assert test.predicted[one] != test.predicted[other]
        assert tuple(test.content[one]) != tuple(test.content[other])


NEARLY = (3, 0, 9, SIDE - 1)  # 6 of 144 pixels less than WIDE


@pytest.mark.parametrize(
    ("content", "predicted"),
    [
        ([WIDE, TALL] * 4, [1] * 8),
        ([WIDE] * 8, [0, 1] * 4),
        ([WIDE, NEARLY] * 4, [0, 1] * 4),
        ([WIDE], [0]),
    ],
)
def test_without_two_classes_of_different_bars_nothing_is_exchanged(content, predicted):
    test = images_of(content, predicted)
    assert pairs_of(test).shape == (0, 2)
    assert exchange_bars(Fails(), test, as_pixels, np.random.default_rng(0)) == {"exchanged": 0}


class Fails(nn.Module):
    def forward(self, _pixels):
        raise AssertionError("the model is not asked")


class Reads(nn.Module):
    """Logits of two classes from what a function finds in pixels (B, 3, H, W): (B,) of booleans."""

    def __init__(self, is_second):
        super().__init__()
        self.is_second = is_second

    def forward(self, pixels):
        second = self.is_second(pixels).float()
        return torch.stack([1 - second, second], dim=1)


def as_pixels(images):
    return images.permute(0, 3, 1, 2).float()


def has_wide_bars(pixels):
    return (pixels[:, 0, 0] == GREY).all(dim=1)


def is_dark(pixels):
    return pixels[:, 0, SIDE // 2, SIDE // 2] < 128


def mixture(count):
    """Dark images in wide bars are of the second class, light ones in tall bars of the first: bars
    and image tell the class equally well."""
    rng = np.random.default_rng(1)
    content = [WIDE if i % 2 else TALL for i in range(count)]
    pixels = [padded(rng, box) for box in content]
    for image, box in zip(pixels[1::2], content[1::2], strict=True):
        image[mask(box)] -= 128
    return images_of(content, [i % 2 for i in range(count)], pixels)


def asked(is_second, count=40):
    return exchange_bars(Reads(is_second), mixture(count), as_pixels, np.random.default_rng(2))


def test_a_model_that_reads_bars_alone_follows_them():
    found = asked(has_wide_bars)
    assert (found["exchanged"], found["follow_bars"], found["follow_image"]) == (40, 1, 0)
    # all agree, so the images of a pair count as one: Wilson (1927) by hand, 20 of 20
    assert found["follow_bars_ci95"] == [0.8389, 1]
    assert found["follow_image_ci95"] == [0, 0.1611]
    assert found["decides"] == BARS


def test_a_model_that_reads_the_image_alone_keeps_its_predictions():
    found = asked(is_dark)
    assert (found["follow_bars"], found["follow_image"], found["decides"]) == (0, 1, IMAGE)


def test_one_answer_to_everything_unusual_is_no_sign_that_bars_decide():
    usual = {image.tobytes() for image in mixture(40).images}

    def is_unusual(pixels):
        images = pixels.permute(0, 2, 3, 1).byte().numpy()
        return torch.tensor([image.tobytes() not in usual for image in images])

    found = asked(is_unusual)
    assert (found["follow_bars"], found["follow_image"], found["decides"]) == (0.5, 0.5, UNCLEAR)


@pytest.mark.parametrize(
    ("gains", "word"),
    [
        ([2] * 5, UNCLEAR),  # p = 2 / 2^5
        ([2] * 6, BARS),  # p = 2 / 2^6
        ([-1] * 6, IMAGE),
        ([0] * 50 + [1, -2], UNCLEAR),
        ([], UNCLEAR),
    ],
)
def test_few_pairs_decide_nothing(gains, word):
    assert more_frequent(np.array(gains)) == word
