"""Weights are shuffled where asked and nowhere else, and maps are compared by rank as scipy does
it."""

import copy

import numpy as np
import pytest
import timm
import torch
from scipy.stats import spearmanr

from tests.small_vits import SMALL
from vit_finetune.attention.sanity import randomised, rank_correlation


def test_randomised_shuffles_the_named_parts_of_a_copy_and_nothing_else():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, **(SMALL | {"depth": 11}))
    before = copy.deepcopy(model.state_dict())
    changed = randomised(model, ["head", "blocks.1"], torch.Generator().manual_seed(0))
    for name, value in changed.state_dict().items():
        assert torch.equal(model.state_dict()[name], before[name])
        assert torch.equal(value.flatten().sort().values, before[name].flatten().sort().values)
        named = name.startswith(("head.", "blocks.1."))
        constant = before[name].unique().numel() == 1
        assert torch.equal(value, before[name]) == (constant or not named), name
    again = randomised(model, ["head", "blocks.1"], torch.Generator().manual_seed(0))
    assert torch.equal(again.head.weight, changed.head.weight)
    with pytest.raises(ValueError, match=r"no parameters in 'neck'"):
        randomised(model, ["neck"], torch.Generator())


def test_rank_correlation_is_scipys_spearman_correlation_of_each_image():
    rng = np.random.default_rng(0)
    # many equal values
    first = torch.from_numpy(rng.integers(6, size=(5, 3, 4)).astype(np.float32))
    second = first + torch.from_numpy(rng.normal(0, 2, size=(5, 3, 4)).astype(np.float32))
    tied = torch.from_numpy(rng.integers(3, size=(5, 3, 4)).astype(np.float32))
    for a, b in ((first, second), (second, second.exp() - 3), (first, tied)):
        expected = [
            spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(a, b, strict=True)
        ]
        assert rank_correlation(a, b) == pytest.approx(expected)
    assert rank_correlation(first, -first) == pytest.approx([-1] * 5)


def test_a_constant_map_correlates_with_nothing():
    pair = torch.stack([torch.ones(2, 2), torch.arange(4.0).view(2, 2)])
    assert rank_correlation(
        pair, torch.arange(4.0).view(1, 2, 2).expand(2, -1, -1)
    ) == pytest.approx([0, 1])
