"""Pictures of attention: each map in its place, all maps of a figure on one colour scale."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from tests.pictures import CLASSES, IMAGES, assert_draws, centre, class_names, texts
from vit_finetune.attention.figures import (
    attention_montage,
    block_head_grid,
    class_mean_maps,
    curves_plot,
    distance_plot,
    overlay,
)
from vit_finetune.style import QUIET


def heat(figure):
    """The maps that were drawn, in their order."""
    return [image for image in figure.axes[0].images if image.get_cmap().name == "inferno"]


@pytest.mark.parametrize("k", [2, 100])
def test_every_figure_draws_for_few_and_many_classes(k):
    rng, classes = np.random.default_rng(k), class_names(k)
    labels, predicted = rng.integers(k, size=(2, 2))
    bands = {name: rng.random((3, 11)) for name in ("rollout", "random", "centre")}
    assert_draws(attention_montage(IMAGES[:2], {"raw": rng.random((2, 8, 8))}, labels, predicted, classes))
    assert_draws(overlay(IMAGES[0], rng.random((8, 8)), classes[0]))
    assert_draws(block_head_grid(rng.random((3, 2, 4, 6))))
    assert_draws(class_mean_maps(rng.random((k, 7, 7)), classes, rng.integers(99, size=k)))
    assert_draws(distance_plot(rng.random((4, 3)), rng.random((4, 3)), uniform=0.5))
    assert_draws(curves_plot(np.linspace(0, 1, 11), bands, bands))


def montage(**changes):
    """Three images, of which the second is taken for another class, with two maps each."""
    given = {
        "images": IMAGES[:3],
        "maps": {"raw": [np.full((8, 8), 0.2)] * 3, "rollout": [np.eye(16) * scale for scale in (1, 5, 9)]},
        "labels": np.array([0, 1, 2]),
        "predicted": np.array([0, 7, 2]),
        "classes": CLASSES,
    }
    return attention_montage(**given | changes)


def test_all_maps_of_the_montage_share_one_colour_scale():
    drawn = heat(montage())
    assert len(drawn) == 6
    assert len({image.get_clim() for image in drawn}) == 1
    assert drawn[0].get_clim()[0] == 0
    assert len({to_hex(image.to_rgba(0.2)) for image in drawn}) == 1


def test_the_montage_has_images_as_rows_and_maps_as_columns_over_their_image():
    axes = montage().axes[0]
    colour = [image for image in axes.images if image.get_array().ndim == 3]
    titles = {text.get_text(): text.get_position()[0] for text in axes.texts[:3]}
    assert list(titles) == ["image", "raw", "rollout"]
    drawn = heat(axes.figure)
    for i in range(3):
        row = centre(colour[3 * i])[1]
        for j, name in enumerate(("raw", "rollout")):
            x, y = centre(drawn[2 * i + j])
            assert (x, y) == pytest.approx((titles[name], row), abs=0.02)
            assert any(image.get_extent() == drawn[2 * i + j].get_extent() for image in colour)
    assert [image.get_array().max() for image in drawn[1::2]] == [1, 5, 9]


def test_right_and_wrong_predictions_differ_by_more_than_colour():
    assert {"✓ zero", "✗ seven\nis one", "✓ two"} <= set(texts(montage()))


def test_the_montage_draws_no_map_where_the_model_saw_nothing():
    cropped = np.full((8, 8), np.nan)
    cropped[:, 2:6] = 0.5
    wide = np.full((2, 20, 30, 3), 90, dtype=np.uint8)
    shown = heat(montage(images=wide, maps={"raw": [cropped, cropped]}))[0]
    assert shown.get_array().mask[:, :2].all()
    assert not shown.get_array().mask[:, 2:6].any()
    assert shown.get_clim() == (0, 0.5)


def test_the_overlay_shows_the_image_on_the_left_and_the_map_over_its_grey_on_the_right():
    image, painted = np.random.default_rng(0).integers(256, size=(8, 12, 3), dtype=np.uint8), np.eye(8, 12)
    left, grey, shown = overlay(image, painted, "cat").axes[0].images
    assert np.array_equal(left.get_array(), image)
    assert np.array_equal(grey.get_array()[..., 0], image.mean(axis=2).astype(np.uint8))
    assert np.array_equal(shown.get_array(), painted)
    assert grey.get_extent() == shown.get_extent()
    assert centre(shown) == pytest.approx((centre(left)[0] + 1, centre(left)[1]))


def test_one_very_high_value_does_not_darken_the_other_maps():
    maps = np.full((4, 3, 14, 14), 0.005)
    maps[0, 0, 0, 0] = 0.9
    assert {image.get_clim()[1] for image in heat(block_head_grid(maps))} == {0.005}
    assert heat(block_head_grid(np.zeros((1, 1, 2, 2))))[0].get_clim() == (0, 1)


def test_blocks_run_to_the_right_and_heads_downwards():
    maps = np.arange(6.0).reshape(3, 2, 1, 1) * np.ones((1, 1, 2, 4))
    axes = block_head_grid(maps).axes[0]
    places = {float(image.get_array()[0, 0]): centre(image) for image in heat(axes.figure)}
    ticks = axes.get_xticks(), axes.get_yticks()
    for block, head in np.ndindex(3, 2):
        assert places[maps[block, head, 0, 0]] == pytest.approx((ticks[0][block], ticks[1][head]))
    assert axes.yaxis_inverted()


def test_a_class_without_a_mean_map_stays_empty():
    maps = np.stack([np.full((3, 3), 0.1), np.full((3, 3), np.nan)])
    first, second = heat(class_mean_maps(maps, ["a", "b"], np.array([5, 0])))
    assert not np.ma.getmaskarray(first.get_array()).any()
    assert second.get_array().mask.all()


def test_mean_maps_are_scaled_each_for_itself_and_say_their_number_of_images():
    maps = np.array([[[0.0, 0.1]], [[0.0, 8.0]]])
    figure = class_mean_maps(maps, ["a", "b"], np.array([5, 21]))
    assert [image.get_array().tolist() for image in heat(figure)] == [[[0.0, 1.0]]] * 2
    assert {"a (n = 5)", "b (n = 21)"} <= set(texts(figure))


def test_the_distance_plot_shows_every_head_and_the_mean_of_each_block():
    before, after = np.array([[1.0, 3.0], [4.0, 6.0]]), np.array([[2.0, 4.0], [5.0, 9.0]])
    lines = distance_plot(before, after, uniform=7.0).axes[0].lines
    values = [list(line.get_ydata()) for line in lines]
    assert values == [[1, 4], [3, 6], [2, 5], [2, 5], [4, 9], [3, 7], [7, 7]]


def test_a_method_looks_the_same_in_both_panels_of_curves_and_baselines_are_grey():
    bands = {name: np.tile([[0.5], [0.4], [0.6]], 5) for name in ("a", "b", "random", "centre", "c")}
    panels = curves_plot(np.linspace(0, 1, 5), dict(reversed(bands.items())), bands).axes
    looks = [
        {line.get_label(): (line.get_color(), line.get_marker(), line.get_linestyle()) for line in panel.lines}
        for panel in panels
    ]
    assert looks[0] == looks[1]
    assert len(set(looks[0].values())) == 5
    assert looks[0]["random"][0] == looks[0]["centre"][0] == QUIET
