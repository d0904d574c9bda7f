"""The report on the maps asks each question of the right images, and does not depend on the batch
size."""

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
    curve_bands,
    curve_rows,
    judge,
    map_rows,
    mosaic_shares,
    patch_rows,
)
from vit_finetune.attention.maps import METHODS, MapMaker
from vit_finetune.attention.pointing import cell_share
from vit_finetune.attention.sample import Mosaics, Sample, Trial
from vit_finetune.verdict import in_order


@pytest.fixture(scope="module")
def maker() -> MapMaker:
    return MapMaker(build(num_classes=3), batch_size=3)


def test_bands_hold_mean_and_interval_of_the_images_that_were_asked_at_each_fraction():
    values = np.random.default_rng(0).random((30, len(FRACTIONS)))
    values[10:, 2] = np.nan
    mean = np.nanmean(values, axis=0)
    bands = curve_bands({"rollout": Curves(FRACTIONS, values, 1 - values)})
    middle, low, high = bands["deletion"]["rollout"]
    np.testing.assert_allclose(middle, mean)
    np.testing.assert_allclose(bands["insertion"]["rollout"][0], 1 - mean)
    assert (low < mean).all()
    assert (high > mean).all()
    rows = curve_rows(bands)
    assert [row["fraction"] for row in rows] == [*FRACTIONS, *FRACTIONS]
    assert rows[1] == {
        "curve": "deletion",
        "map": "rollout",
        "fraction": FRACTIONS[1],
        "probability": round(float(middle[1]), 4),
        "low": round(float(low[1]), 4),
        "high": round(float(high[1]), 4),
    }


def test_no_map_of_a_model_that_only_guesses_is_judged():
    values = np.random.default_rng(0).random((30, len(FRACTIONS)))
    curves = {
        name: Curves(FRACTIONS, values, values + more)
        for name, more in (("rollout", 0.5), ("random", 0), ("centre", 0))
    }
    judged = map_rows(curves, {}, True)[0]
    not_judged, random, centre = map_rows(curves, {}, False)
    assert (judged["verdict"], not_judged["verdict"]) == ("better", "not judged")
    assert judged["minus_centre"] == not_judged["minus_centre"] == 0.5
    assert (random["verdict"], random["minus_random"]) == ("", "")
    assert (centre["verdict"], centre["minus_random"], centre["minus_centre"]) == ("", 0, "")


@pytest.mark.parametrize("side", [2, 3])
def test_the_mosaic_share_is_that_of_the_class_and_the_cell_asked_for(maker, side):
    cells = torch.tensor([3, 0, 2, 1, 1, 2, 3])
    mosaics = Mosaics(pictures(maker.model, 7), torch.arange(7) % 3, cells, side)
    found = mosaic_shares(maker, mosaics)
    maps = maker.maps(mosaics.pixels, mosaics.classes)
    assert set(found) == set(METHODS)
    for name, values in maps.items():
        shares = cell_share(values, cells, side)
        assert found[name].n == 7
        assert found[name].mean == pytest.approx(np.mean(shares), abs=1e-4)


def test_the_best_maps_come_first_and_those_that_are_no_better_than_a_gaussian_last():
    values = np.random.default_rng(0).random((30, len(FRACTIONS)))
    noise = np.where(np.arange(30) % 2, 0.5, -0.5)[:, None]
    gains = {"rollout": 0.5, "relevance": 0.9, "LeGrad": -0.5, "last block": 0.0}
    curves = {
        name: Curves(FRACTIONS, values, values + more + noise * (name == "last block"))
        for name, more in (gains | {"random": 0, "centre": 0}).items()
    }
    rows = in_order(map_rows(curves, {}, True))
    assert [row["map"] for row in rows] == [
        "relevance", "rollout", "last block", "LeGrad", "random", "centre",
    ]  # fmt: skip
    assert [row["verdict"] for row in rows[:4]] == ["better", "better", "no better", "worse"]


def test_accuracy_from_all_patches_is_that_of_the_predictions(maker):
    pixels = pictures(maker.model, 6)
    with torch.no_grad():
        predicted = maker.model(pixels).argmax(dim=1)
    labels = predicted.clone()
    labels[0] = (labels[0] + 1) % 3
    sample = Sample(np.arange(6), pixels, predicted, labels)
    found = patch_rows(maker.model, sample, torch.rand(6, 4, 4), np.random.default_rng(0))
    assert [row["patches"] for row in found] == ["all", "top", "random", "centre", "border"]
    assert found[0]["accuracy"] == round(5 / 6, 4)
    assert found[0]["accuracy_low"] < 5 / 6 < found[0]["accuracy_high"]


def judged(
    model: nn.Module, pretrained: nn.Module, batch_size: int, precision: torch.dtype = torch.float32
) -> tuple[Judgement, int]:
    """The judgement of eight images, and how often `step` was called."""
    device = next(model.parameters()).device
    pixels = pictures(model, 16).to(device)
    labels = torch.arange(8) % 3
    steps = []
    sample = Sample(np.arange(8), pixels[:8], labels, labels)
    cells = torch.arange(8) % 4
    trial = Trial(
        sample, Mosaics(pixels[8:], labels, cells, 2), Mosaics(pixels[8:], labels, cells, 3), True
    )
    maker = MapMaker(model, batch_size=batch_size)
    found = judge(maker, pretrained, trial, 0, lambda: steps.append(0), precision)
    return found, len(steps)


def test_in_bfloat16_patches_are_left_out_and_nothing_else_changes(maker):
    (exact, _), (quick, _) = (
        judged(maker.model, maker.model, 8, precision)
        for precision in (torch.float32, torch.bfloat16)
    )
    assert quick.metrics["selfcheck_max_rel_err"] == exact.metrics["selfcheck_max_rel_err"]
    assert all(torch.equal(quick.maps[name], exact.maps[name]) for name in METHODS)
    assert quick.tables["attention_blocks"] == exact.tables["attention_blocks"]
    assert quick.metrics["margin"] != exact.metrics["margin"]
    exact_rows = {row["map"]: row for row in exact.tables["attention_maps"]}
    for row in quick.tables["attention_maps"]:
        other = exact_rows[row["map"]]
        for key, value in row.items():
            if key.startswith(("score", "minus")) and value != "":
                assert value == pytest.approx(other[key], abs=0.05), key
            elif key != "verdict":
                assert value == other[key], key


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_maps_of_the_cpu_to_rounding(maker):
    expected, _ = judged(maker.model, maker.model, 8)
    model = copy.deepcopy(maker.model).to("cuda")
    found, _ = judged(model, model, 8)
    assert found.metrics["selfcheck_max_rel_err"] < 1e-5
    for name in METHODS:
        torch.testing.assert_close(found.maps[name], expected.maps[name], rtol=1e-3, atol=1e-4)
    for name, table in found.tables.items():
        assert len(table) == len(expected.tables[name])


def test_the_whole_judgement_is_the_same_for_any_batch_size_and_sees_every_block(maker):
    pretrained = copy.deepcopy(maker.model)
    pretrained.blocks[1].attn.qkv.weight.data *= 2  # nothing else differs
    (whole, steps), (parts, _) = (
        judged(maker.model, pretrained, batch_size) for batch_size in (8, 3)
    )
    assert steps == STEPS
    for found in (whole, parts):
        assert torch.equal(found.distances[0, 0], found.distances[1, 0])
    assert [*whole.metrics] == [
        "images", "selfcheck_max_rel_err", "margin", "completeness_max_rel_err",
    ]  # fmt: skip
    assert 0 <= whole.metrics["completeness_max_rel_err"] < 1e-5
    assert sum(whole.shares.values()) == pytest.approx(1)
    assert whole.metrics["images"] == 8
    assert 0 < whole.metrics["selfcheck_max_rel_err"] < 1e-5
    maps = {row["map"]: row for row in whole.tables["attention_maps"]}
    assert whole.metrics["margin"] == max(maps[name]["minus_centre"] for name in METHODS)
    assert [*maps][-2:] == ["random", "centre"]
    assert set(maps) == {*METHODS, "random", "centre"}
    assert maps["rollout"]["head_shuffled"] == 1  # it does not read the head
    first, second = whole.tables["attention_blocks"]
    assert [first[f"distance_change{end}"] for end in ("", "_low", "_high")] == [0, 0, 0]
    change = (whole.distances[1] - whole.distances[0]).mean(dim=1)[1].item()
    assert abs(change) > 0.01
    assert second["distance_change"] == pytest.approx(change, abs=1e-3)
    for name, table in whole.tables.items():
        for row, other in zip(table, parts.tables[name], strict=True):
            for key, value in row.items():
                assert value == other[key] or np.isclose(value, other[key], atol=2e-4), (name, key)
