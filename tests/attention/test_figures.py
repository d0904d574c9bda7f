"""Pictures of attention: each map in its place, scaled as the picture says."""

import numpy as np
import pytest
import torch

from tests.pictures import CLASSES, IMAGES, assert_draws, centre, class_names, texts
from vit_finetune.attention.figures import (
    attention_montage,
    block_head_grid,
    class_mean_maps,
    overlay,
)
from vit_finetune.attention.gallery import ClassMean, Shown
from vit_finetune.attention.kept import Kept
from vit_finetune.attention.page import Common, Method
from vit_finetune.attention.pixels import PixelGrid, spotlight


def heat(figure):
    """The maps that were drawn, in their order."""
    return [image for image in figure.axes[0].images if image.get_cmap().name == "inferno"]


@pytest.mark.parametrize("k", [2, 100])
def test_every_figure_draws_for_few_and_many_classes(k):
    rng = np.random.default_rng(k)
    classes = class_names(k)
    assert_draws(montage(classes=classes))
    assert_draws(overlay(IMAGES[0], rng.random((8, 8)), classes[0]))
    assert_draws(block_head_grid(IMAGES[0], rng.random((3, 2, 4, 6)), "heads"))
    assert_draws(class_mean_maps([ClassMean(name, rng.random((7, 7)), 20) for name in classes]))


def montage(images=IMAGES[:3], methods=("raw", "rollout"), classes=CLASSES, maps=None):
    """Three images, of which the second is taken for another class, with maps each."""
    height, width = images[0].shape[:2]
    given = {"raw": np.full((4, 4), 0.2), "rollout": np.eye(4)}
    labels = [0, 1, 0]
    predicted = [0, len(classes) - 1, 0]
    confidence = [0.914, 0.5, 1.0]
    shown = []
    for i, image in enumerate(images):
        of_image = maps or {name: (2 * i + 1) * one for name, one in given.items()}
        shown.append(
            Shown(
                row=i,
                image=image,
                file="",
                content=None,
                label=labels[i],
                predicted=predicted[i],
                probabilities=np.array([confidence[i]]),
                heads=np.zeros((1, 1, 4, 4)),
                attn=torch.zeros(0),
                page_attn=np.zeros(0),
                maps={name: one[None] for name, one in of_image.items()},
                rivals=[],
                contrasts={},
            )
        )
    verdicts = {"raw": "no better", "rollout": "better"}
    common = Common(
        classes=classes,
        prefix=["CLS"],
        methods=[Method(name, "", verdicts[name], signed=False) for name in methods],
        kept=Kept((0,), 1, 1),
        grid=PixelGrid((height, width), (height, width), (height, height), (4, 4)),
    )
    return attention_montage(shown, common)


def pictures_of(figure):
    return [np.asarray(image.get_array()) for image in figure.axes[0].images]


def test_the_montage_has_images_as_rows_and_maps_as_columns_each_in_its_own_spotlight():
    figure = montage()
    axes = figure.axes[0]
    titles = {text.get_text(): text.get_position()[0] for text in axes.texts}
    for i in range(3):
        first, *lit = axes.images[3 * i : 3 * i + 3]
        assert np.array_equal(first.get_array(), IMAGES[i])
        for name, image in zip(("raw", "rollout"), lit, strict=True):
            assert centre(image) == pytest.approx((titles[name], centre(first)[1]), abs=0.02)
        even, diagonal = (np.asarray(image.get_array()) for image in lit)
        assert np.array_equal(even, IMAGES[i])  # a map that is the same everywhere dims nothing
        # whatever its scale
        assert np.array_equal(diagonal, spotlight(IMAGES[i], np.kron(np.eye(4), np.ones((2, 2)))))
    assert {"no better", "better"} <= set(texts(figure))


def test_right_and_wrong_predictions_differ_by_more_than_colour():
    wrong = f"✗ {CLASSES[-1]} 0.50\nis {CLASSES[1]}"
    assert {"✓ zero 0.91", wrong, "✓ zero 1.00"} <= set(texts(montage()))


def test_the_montage_dims_what_the_model_did_not_see():
    wide = np.full((2, 20, 28, 3), 90, dtype=np.uint8)
    lit = pictures_of(montage(wide, ["raw"], maps={"raw": np.full((4, 4), 0.5)}))[1]
    assert (lit[:, 4:24] == 90).all()
    assert (lit[:, :4] == 18).all()


def test_the_overlay_shows_the_image_on_the_left_and_on_the_right_in_the_spotlight():
    image = np.random.default_rng(0).integers(256, size=(8, 12, 3), dtype=np.uint8)
    painted = np.eye(8, 12)
    left, right = (figure := overlay(image, painted, "cat 0.87")).axes[0].images
    assert np.array_equal(left.get_array(), image)
    assert np.array_equal(right.get_array(), spotlight(image, painted))
    assert centre(right) == pytest.approx((centre(left)[0] + 1, centre(left)[1]))
    assert "cat 0.87" in texts(figure)


def test_each_block_has_a_scale_of_its_own_which_one_very_high_value_does_not_set():
    image = np.full((14, 14, 3), 200, dtype=np.uint8)
    maps = np.full((4, 3, 14, 14), 0.005)
    maps[1] = 0.1
    maps[0, 0, 0, 0] = 0.9
    maps[2, 0, :7] = 0
    drawn = pictures_of(block_head_grid(image, maps, "heads"))[1:]
    assert all((lit == 200).all() for lit in drawn[:6])
    assert (drawn[6][:7] == 40).all()
    assert (drawn[6][7:] == 200).all()
    assert (pictures_of(block_head_grid(image, np.zeros((1, 1, 2, 2)), "none"))[1] == 40).all()


def test_blocks_run_to_the_right_and_heads_downwards():
    maps = np.arange(6.0).reshape(3, 2, 1, 1) * np.ones((1, 1, 2, 4))
    maps[..., 0] = 6  # the brightest of each block
    image = np.full((2, 4, 3), 250, dtype=np.uint8)
    axes = block_head_grid(image, maps, "heads").axes[0]
    places = [(int(drawn.get_array()[0, 1, 0]), centre(drawn)) for drawn in axes.images[1:]]
    ticks = axes.get_xticks(), axes.get_yticks()
    levels = dict(places)
    for block, head in np.ndindex(3, 2):
        level = int(np.rint(250 * (0.2 + 0.8 * np.sqrt(maps[block, head, 0, 1] / 6))))
        assert levels[level] == pytest.approx((ticks[0][block], ticks[1][head]))
    assert axes.yaxis_inverted()
    assert np.array_equal(axes.images[0].get_array(), image)


def test_a_class_without_a_mean_map_stays_empty():
    maps = np.stack([np.full((3, 3), 0.1), np.full((3, 3), np.nan)])
    first, second = heat(class_mean_maps([ClassMean("a", maps[0], 5), ClassMean("b", maps[1], 0)]))
    assert not np.ma.getmaskarray(first.get_array()).any()
    assert second.get_array().mask.all()


def test_mean_maps_are_scaled_each_for_itself_and_say_their_number_of_images():
    maps = np.array([[[0.0, 0.1]], [[0.0, 8.0]]])
    figure = class_mean_maps([ClassMean("a", maps[0], 5), ClassMean("b", maps[1], 21)])
    assert [image.get_array().tolist() for image in heat(figure)] == [[[0.0, 1.0]]] * 2
    assert {"a (n = 5)", "b (n = 21)"} <= set(texts(figure))
