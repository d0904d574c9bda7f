"""How wide, how far and where attention goes, against plain loops and values known beforehand."""

import numpy as np
import pytest
import torch
from torch import Tensor

from vit_finetune.attention.shape import (
    attention_distance,
    corner_share,
    effective_patches,
    prefix_mass,
)
from vit_finetune.model.tokens import TokenLayout

LAYOUT = TokenLayout(("CLS", "REG1"), (2, 3), (16, 8), "token", range(1))


def test_effective_patches_are_one_for_one_patch_and_all_for_even_attention():
    maps = torch.zeros(3, 2, 4)
    maps[0, 1, 2] = 5
    maps[1] = 0.3
    maps[2, 0] = torch.tensor([0.5, 0.25, 0.25, 0.0])
    expected = [1, 8, np.exp(0.5 * np.log(2) + 2 * 0.25 * np.log(4))]
    assert effective_patches(maps).tolist() == pytest.approx(expected, rel=1e-5)


def test_corner_share_is_that_of_the_four_corners_and_counts_no_corner_twice():
    maps = torch.arange(1.0, 13).reshape(1, 3, 4).repeat(2, 1, 1)
    maps[1] = 0.3
    assert corner_share(maps).tolist() == pytest.approx([(1 + 4 + 9 + 12) / 78, 4 / 12])
    assert corner_share(torch.ones(1, 1)).item() == 1
    assert corner_share(torch.ones(2, 1)).item() == 1


@pytest.fixture
def attn() -> Tensor:
    return torch.rand(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).softmax(dim=-1)


def test_prefix_mass_against_a_loop(attn):
    readout = torch.tensor([0.5, 0, 0.5, 0, 0, 0, 0, 0])
    found = torch.stack(
        [prefix_mass(block, LAYOUT, readout) for block in attn.unbind(dim=1)], dim=1
    )
    for b, block in np.ndindex(2, 2):
        total = sum(
            float(readout[t] * attn[b, block, h, t, :2].sum()) for h in range(3) for t in range(8)
        )
        assert found[b, block] == pytest.approx(total / 3, rel=1e-5)


def test_attention_distance_against_a_loop(attn):
    found = attention_distance(attn, LAYOUT)
    for b, block, head in np.ndindex(2, 2, 3):
        rows = []
        for q in range(6):
            weights = attn[b, block, head, 2 + q, 2:]
            moved = 0.0
            for k in range(6):
                down = 16 * (q // 3 - k // 3)
                across = 8 * (q % 3 - k % 3)
                moved += float(weights[k]) * np.hypot(down, across)
            rows.append(moved / float(weights.sum()))
        assert found[b, block, head] == pytest.approx(np.mean(rows), rel=1e-5)
