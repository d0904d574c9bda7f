"""Mosaics hold one image of the class asked for, and a map's share of a cell is what a plain
loop gives."""

from collections import Counter

import numpy as np
import pytest
import torch

from vit_finetune.attention.faithfulness import random_maps
from vit_finetune.attention.pointing import cell_share, mosaics


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_mosaics_are_four_images_of_which_one_alone_is_of_the_class_asked_for(classes, rng):
    images = rng.integers(256, size=(40, 4, 6, 3), dtype=np.uint8)
    labels = rng.permutation(np.arange(40) % classes) * 3 + 2  # numbers with gaps, none of them 0
    made, chosen, asked = mosaics(images, labels, np.arange(40), 200, rng)
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
def test_the_share_of_a_quadrant_against_a_loop(grid, rng):
    maps = random_maps(4, grid, rng) - 0.3
    shares = cell_share(maps, torch.arange(4))
    for quadrant, relevance in enumerate(maps):
        inside = total = 0.0
        for i, j in np.ndindex(*grid):
            # below 0: upper, left half
            down = 2 * i + 1 - grid[0]
            across = 2 * j + 1 - grid[1]
            vertical = 0.5 if down == 0 else float((down > 0) == (quadrant >= 2))
            horizontal = 0.5 if across == 0 else float((across > 0) == (quadrant % 2 == 1))
            inside += vertical * horizontal * max(0.0, float(relevance[i, j]))
            total += max(0.0, float(relevance[i, j]))
        assert shares[quadrant] == pytest.approx(inside / total, rel=1e-5)


def test_a_map_without_positive_relevance_counts_as_chance():
    assert cell_share(-torch.ones(1, 4, 4), torch.tensor([2])).tolist() == [0.25]


@pytest.mark.parametrize("grid", [(14, 14), (6, 9), (4, 5), (2, 2)])
def test_the_share_of_a_cell_of_nine_is_that_of_its_area_on_a_fine_grid(grid, rng):
    maps = random_maps(9, grid, rng) - 0.3
    # every patch as 3 x 3 equal parts, so that no part lies on a border of cells
    fine = maps.clamp_min(0).repeat_interleave(3, dim=1).repeat_interleave(3, dim=2)
    shares = cell_share(maps, torch.arange(9), 3)
    for cell, relevance in enumerate(fine):
        row, column = divmod(cell, 3)
        rows = slice(row * grid[0], (row + 1) * grid[0])
        columns = slice(column * grid[1], (column + 1) * grid[1])
        inside = relevance[rows, columns].sum() / relevance.sum()
        assert shares[cell] == pytest.approx(float(inside), rel=1e-5)


def test_mosaics_of_nine_images_hold_nine_classes_and_one_of_them_is_asked_for(rng):
    images = rng.integers(256, size=(40, 4, 6, 3), dtype=np.uint8)
    labels = np.arange(40) % 10
    made, chosen, asked = mosaics(images, labels, np.arange(40), 30, rng, side=3)
    assert made.shape == (30, 12, 18, 3)
    assert set(asked.tolist()) == set(range(9))
    for picture, numbers in zip(made, chosen, strict=True):
        assert len(set(labels[numbers].tolist())) == 9
        assert np.array_equal(picture[4:8, 12:], images[numbers[5]])
