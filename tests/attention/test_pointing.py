"""Mosaics hold one image of the class asked for, and a map's share of a quadrant is what a plain
loop gives."""

from collections import Counter

import numpy as np
import pytest
import torch

from vit_finetune.attention.faithfulness import random_maps
from vit_finetune.attention.pointing import mosaics, quadrant_share


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_mosaics_are_four_images_of_which_one_alone_is_of_the_class_asked_for(classes, rng):
    images = rng.integers(256, size=(40, 4, 6, 3), dtype=np.uint8)
    labels = rng.permutation(np.arange(40) % classes) * 3 + 2  # numbers with gaps, none of them 0
    made, chosen, asked = mosaics(images, labels, 200, rng)
    assert made.shape == (200, 8, 12, 3)
    assert made.dtype == np.uint8
    assert chosen.shape == (200, 4)
    for picture, numbers, quadrant in zip(made, chosen, asked, strict=True):
        shown = labels[numbers].tolist()
        assert shown.count(shown[quadrant]) == 1
        assert len(set(shown)) == min(classes, 4)
        corners = (picture[:4, :6], picture[:4, 6:], picture[4:, :6], picture[4:, 6:])
        for corner, number in zip(corners, numbers, strict=True):
            assert np.array_equal(corner, images[number])
    questions = Counter(
        zip(asked.tolist(), labels[chosen[np.arange(200), asked]].tolist(), strict=True)
    )
    assert {quadrant for quadrant, _ in questions} == {0, 1, 2, 3}
    assert {label for _, label in questions} == set(labels.tolist())
    assert max(Counter(asked.tolist()).values()) < 80  # of 200, in four quadrants


@pytest.mark.parametrize("grid", [(4, 6), (3, 5), (4, 3)])
def test_quadrant_share_against_a_loop(grid, rng):
    maps = random_maps(4, grid, rng) - 0.3
    shares = quadrant_share(maps, torch.arange(4))
    for quadrant, relevance in enumerate(maps):
        inside = total = 0.0
        for i, j in np.ndindex(*grid):
            down, across = 2 * i + 1 - grid[0], 2 * j + 1 - grid[1]  # below 0: upper, left half
            vertical = 0.5 if down == 0 else float((down > 0) == (quadrant >= 2))
            horizontal = 0.5 if across == 0 else float((across > 0) == (quadrant % 2 == 1))
            inside += vertical * horizontal * max(0.0, float(relevance[i, j]))
            total += max(0.0, float(relevance[i, j]))
        assert shares[quadrant] == pytest.approx(inside / total, rel=1e-5)


def test_a_map_without_positive_relevance_counts_as_chance():
    assert quadrant_share(-torch.ones(1, 4, 4), torch.tensor([2])).tolist() == [0.25]
