"""The report on the maps asks each question of the right images, and does not depend on the batch size."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tests.small_vits import build, pictures
from vit_finetune.attention.faithfulness import FRACTIONS, Curves
from vit_finetune.attention.judge import (
    STEPS,
    Judgement,
    band_rows,
    curve_bands,
    judge,
    mosaic_report,
    region_report,
)
from vit_finetune.attention.maps import METHODS, MapMaker
from vit_finetune.attention.sample import Mosaics, Sample


@pytest.fixture(scope="module")
def maker() -> MapMaker:
    return MapMaker(build(num_classes=3), batch_size=3)


def test_bands_hold_mean_and_interval_at_each_fraction():
    values = np.random.default_rng(0).random((30, len(FRACTIONS)))
    curves = {"rollout": Curves(FRACTIONS, values, 1 - values)}
    bands = curve_bands(curves)
    np.testing.assert_allclose(bands["deletion"]["rollout"][0], values.mean(0))
    np.testing.assert_allclose(bands["insertion"]["rollout"][0], 1 - values.mean(0))
    assert (bands["deletion"]["rollout"][1] < values.mean(0)).all()
    assert (bands["deletion"]["rollout"][2] > values.mean(0)).all()
    rows = band_rows(bands["deletion"])
    assert [row["fraction"] for row in rows] == list(FRACTIONS)
    assert rows[1] == {"fraction": FRACTIONS[1]} | {
        key: round(float(bands["deletion"]["rollout"][i, 1]), 4)
        for i, key in enumerate(("rollout", "rollout low", "rollout high"))
    }


def test_the_mosaic_share_is_that_of_the_class_and_the_quadrant_asked_for(maker):
    mosaics = Mosaics(pictures(maker.model, 7), torch.arange(7) % 3, torch.tensor([3, 0, 2, 1, 1, 2, 3]))
    found = mosaic_report(maker, mosaics)
    assert set(found) == set(METHODS)
    for name in ("relevance", "LeGrad", "rollout"):
        shares = []
        for tile, target, quadrant in zip(mosaics.pixels, mosaics.classes, mosaics.quadrants, strict=True):
            relevance = maker.maps(tile[None], target[None])[name][0].clamp_min(0)
            down, across = divmod(int(quadrant), 2)
            inside = relevance[2 * down : 2 * down + 2, 2 * across : 2 * across + 2]
            shares.append((inside.sum() / relevance.sum()).item())
        assert found[name]["n"] == 7
        assert found[name]["mean"] == pytest.approx(np.mean(shares), abs=1e-4)


def test_accuracy_from_all_patches_is_that_of_the_model(maker):
    pixels = pictures(maker.model, 6)
    with torch.no_grad():
        labels = maker.model(pixels).argmax(dim=1)
    labels[0] = (labels[0] + 1) % 3
    found = region_report(maker, pixels, labels, torch.rand(6, 4, 4), np.random.default_rng(0))
    assert [*found] == ["all patches", "top", "random", "centre", "border"]
    assert found["all patches"]["mean"] == round(5 / 6, 4)


def judged(model: nn.Module, pretrained: nn.Module, batch_size: int) -> tuple[Judgement, int]:
    """The judgement of eight images, and how often `step` was called."""
    pixels, labels, steps = pictures(model, 16), torch.arange(8) % 3, []
    sample = Sample(np.arange(8), pixels[:8], labels, labels)
    mosaics = Mosaics(pixels[8:], labels, torch.arange(8) % 4)
    maker = MapMaker(model, batch_size=batch_size)
    return judge(maker, pretrained, sample, mosaics, seed=0, step=lambda: steps.append(0)), len(steps)


def test_the_whole_report_is_the_same_for_any_batch_size_and_sees_every_block(maker):
    pretrained = copy.deepcopy(maker.model)
    pretrained.blocks[1].attn.qkv.weight.data *= 2  # nothing else differs
    (whole, steps), (parts, _) = (judged(maker.model, pretrained, batch_size) for batch_size in (8, 3))
    assert steps == STEPS
    for found in (whole, parts):
        assert torch.equal(found.distances[0, 0], found.distances[1, 0])
    report = whole.report
    assert report["blocks_captured"] == report["blocks_total"] == 2
    assert report["selfcheck_max_rel_err"] < 1e-5
    assert report["distance_px_minus_pretrained"]["block_0"] == {"mean": 0.0, "ci95": [0.0, 0.0], "n": 8}
    change = (whole.distances[1] - whole.distances[0]).mean(dim=1)[1].item()
    assert abs(change) > 0.01
    assert report["distance_px_minus_pretrained"]["block_1"]["mean"] == pytest.approx(change, abs=1e-3)
    assert report["faithfulness"]["verdict"].startswith("On 8 images, ")
    assert [*report["sanity_correlation"]] == ["head_shuffled", "head_and_blocks_shuffled"]
    assert report["sanity_correlation"]["head_shuffled"]["rollout"]["mean"] == 1  # it does not read the head

    def numbers(value):
        return [n for v in value.values() for n in numbers(v)] if isinstance(value, dict) else [value]

    for a, b in zip(numbers(report), numbers(parts.report), strict=True):
        assert a == b or np.allclose(a, b, atol=2e-4)
