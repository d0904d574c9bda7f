"""The gallery shows what it says, and analysis numbers are what a plain loop gives."""

import numpy as np
import pytest
import torch

from vit_finetune import gallery
from vit_finetune.analysis import METHODS, Reader, band_rows, curve_bands, judge, mosaic_report
from vit_finetune.attention import PixelGrid, token_layout
from vit_finetune.faithfulness import FRACTIONS, Curves


@pytest.fixture
def reader(tiny_vit):
    return Reader(tiny_vit, token_layout(tiny_vit), "mean", 0.0, batch_size=3)


def test_half_of_the_gallery_is_wrong_as_far_as_there_are_so_many():
    rng = np.random.default_rng(0)
    right = np.array([True] * 20 + [False] * 20)
    for hits, misses, count, wrong in ((20, 20, 8, 4), (20, 2, 8, 2), (2, 20, 8, 6), (20, 0, 8, 0)):
        some = np.concatenate([right[:hits], right[40 - misses :]])
        rows = gallery.choose(some, count, rng)
        assert len(set(rows)) == count
        assert (~some[rows]).sum() == wrong


def test_the_gallery_of_each_image_does_not_depend_on_the_batch(reader):
    pixels = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images = np.zeros((5, 32, 32, 3), np.uint8)
    labels = np.arange(5) % 3
    whole = gallery.read_gallery(reader, pixels, np.arange(5), images, labels, labels, 3)
    single = gallery.read_gallery(reader, pixels[4:], np.arange(1), images[4:], labels[4:], labels[4:], 3)
    torch.testing.assert_close(whole.attn[4:], single.attn)
    np.testing.assert_allclose(whole.probabilities[4:], single.probabilities, atol=1e-6)
    for k in range(3):
        for name in METHODS:
            torch.testing.assert_close(whole.class_maps[k][name][4:], single.class_maps[k][name])
    assert not torch.allclose(whole.class_maps[0]["relevance"], whole.class_maps[1]["relevance"])


def test_page_records_put_the_grid_where_the_patches_are_and_class_agnostic_maps_once(reader):
    pixels = torch.randn(2, 3, 32, 32)
    images, labels = np.zeros((2, 8, 16, 3), np.uint8), np.array([0, 2])
    found = gallery.read_gallery(reader, pixels, np.arange(2), images, labels, labels, 3)
    grid = PixelGrid((8, 16), (32, 64), (32, 32), (4, 4))  # the middle half of a wide image
    record = gallery.page_records(found, grid)[1]
    assert record.box == (4.0, 0.0, 12.0, 8.0)
    assert record.maps["last block"].shape == record.maps["rollout"].shape == (1, 4, 4)
    assert record.maps["LeGrad"].shape == (3, 4, 4)
    np.testing.assert_array_equal(record.maps["relevance"][2], found.class_maps[2]["relevance"][1])
    painted = gallery.painted_maps(found, grid)["relevance"][1]
    assert painted.shape == (32, 64)
    assert np.isnan(painted[:, :16]).all()
    assert np.nanmax(painted) == 1


def test_class_means_average_the_images_of_a_class_and_leave_the_others_empty():
    maps = torch.arange(12.0).view(3, 2, 2)
    means = gallery.class_means(maps, np.array([2, 0, 2]), 4)
    np.testing.assert_array_equal(means[0], maps[1])
    np.testing.assert_array_equal(means[2], (maps[0] + maps[2]) / 2)
    assert np.isnan(means[[1, 3]]).all()


def test_curve_bands_hold_mean_and_interval_at_each_fraction():
    values = np.random.default_rng(0).random((30, len(FRACTIONS)))
    curves = {"rollout": Curves(FRACTIONS, values, 1 - values)}
    bands = curve_bands(curves, np.random.default_rng(1))
    np.testing.assert_allclose(bands["deletion"]["rollout"][0], values.mean(0))
    np.testing.assert_allclose(bands["insertion"]["rollout"][0], 1 - values.mean(0))
    assert (bands["deletion"]["rollout"][1] < values.mean(0)).all()
    rows = band_rows(bands["deletion"])
    assert [row["fraction"] for row in rows] == list(FRACTIONS)
    assert rows[1] == {"fraction": FRACTIONS[1]} | {
        key: round(float(bands["deletion"]["rollout"][i, 1]), 4)
        for i, key in enumerate(("rollout", "rollout low", "rollout high"))
    }


def test_the_pointing_game_is_played_with_the_class_and_the_quadrant_that_are_asked_for(reader):
    tiles = torch.randn(7, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    targets, quadrants = torch.arange(7) % 3, torch.tensor([3, 0, 2, 1, 1, 2, 3])
    found = mosaic_report(reader, tiles, targets, quadrants, np.random.default_rng(0))
    assert set(found) == set(METHODS)
    for name in ("relevance", "LeGrad", "rollout"):
        shares = []
        for tile, target, quadrant in zip(tiles, targets, quadrants, strict=True):
            relevance = reader.maps(tile[None], target[None])[name][0].clamp_min(0)
            down, across = divmod(int(quadrant), 2)
            inside = relevance[2 * down : 2 * down + 2, 2 * across : 2 * across + 2]
            shares.append((inside.sum() / relevance.sum()).item())
        assert found[name]["n"] == 7
        assert found[name]["mean"] == pytest.approx(np.mean(shares), abs=1e-4)


def test_the_whole_analysis_is_the_same_for_any_batch_size_and_sees_every_block(tiny_vit, tiny_model_folder):
    from vit_finetune.backbone import load_model

    generator = torch.Generator().manual_seed(0)
    pixels, mosaics = (torch.randn(8, 3, 32, 32, generator=generator) for _ in range(2))
    labels, quadrants = torch.arange(8) % 3, torch.arange(8) % 4
    reports = []
    for batch_size in (8, 3):
        reader = Reader(tiny_vit, token_layout(tiny_vit), "mean", 0.0, batch_size)
        pretrained = load_model(tiny_model_folder)
        *_, last = judge(reader, pretrained, pixels, labels, labels, (mosaics, labels, quadrants), seed=0)
        reports.append(last.report)
        assert torch.equal(last.distances[0], last.distances[1])  # nothing but the head differs here
    assert reports[0]["blocks_captured"] == reports[0]["blocks_total"] == 3
    assert reports[0]["selfcheck_max_rel_err"] < 1e-5
    assert reports[0]["distance_px_minus_pretrained"]["block_2"] == {"mean": 0.0, "ci95": [0.0, 0.0], "n": 8}
    assert "On 8 images" in reports[0]["faithfulness"]["verdict"]

    def numbers(value):
        return [n for v in value.values() for n in numbers(v)] if isinstance(value, dict) else [value]

    for a, b in zip(numbers(reports[0]), numbers(reports[1]), strict=True):
        assert a == b or np.allclose(a, b, atol=2e-4)
