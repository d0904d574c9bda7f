"""Images are drawn from the test part as asked, each with its own label and prediction."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vit_finetune.attention.sample import (
    PredictedImages,
    choose_gallery,
    draw_for_classes,
    draw_mosaics,
    draw_sample,
    read_predicted_images,
)
from vit_finetune.core.arrays import write_split
from vit_finetune.core.errors import UserError
from vit_finetune.core.files import write_csv

FILES = [f"{number}.jpg" for number in range(12)]


@pytest.fixture
def some_images(rng) -> PredictedImages:
    """Twelve images of three classes; the first value of each image is its number."""
    images = rng.integers(256, size=(12, 4, 6, 3), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(12)
    return PredictedImages(
        images, np.arange(12) % 3, np.arange(12), rng.integers(3, size=12), rng.random(12), FILES
    )


def as_pixels(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 3, 1, 2).float()


def test_images_are_read_with_the_number_of_each_predicted_class(tmp_path, some_images):
    names = ["owl", "ant", "cat"]
    columns = {name: getattr(some_images, name) for name in ("images", "labels", "groups")}
    write_split(tmp_path, "test", **columns)
    write_csv(
        tmp_path / "predictions.csv",
        [
            {"file": f, "predicted": names[k], "confidence": c}
            for f, k, c in zip(FILES, some_images.predicted, some_images.confidence, strict=True)
        ],
    )
    found = read_predicted_images(str(tmp_path), str(tmp_path / "predictions.csv"), names)
    assert found.take(np.array([3, 0])).files == ["3.jpg", "0.jpg"]
    for name in ("images", "labels", "groups", "predicted", "confidence"):
        assert np.array_equal(getattr(found, name), getattr(some_images, name))
    with pytest.raises(UserError, match=r"test_images\.npy is missing; run dvc repro"):
        read_predicted_images(str(tmp_path / "absent"), str(tmp_path / "predictions.csv"), names)


def test_a_sample_is_of_different_images_in_their_order_with_their_labels_and_predictions(
    some_images, rng
):
    found = draw_sample(some_images, as_pixels, 5, rng)
    assert len(found.rows) == 5
    assert (np.diff(found.rows) > 0).all()
    assert found.pixels[:, 0, 0, 0].tolist() == found.rows.tolist()
    assert found.labels.tolist() == some_images.labels[found.rows].tolist()
    assert found.predicted.tolist() == some_images.predicted[found.rows].tolist()
    assert draw_sample(some_images, as_pixels, 5, rng).rows.tolist() != found.rows.tolist()


def test_a_sample_or_gallery_of_more_images_than_there_are_is_all_of_them(some_images, rng):
    assert draw_sample(some_images, as_pixels, 99, rng).rows.tolist() == [*range(12)]
    assert sorted(choose_gallery(some_images, 99)) == [*range(12)]


def test_a_sample_and_mosaics_have_one_image_of_each_group(some_images, rng):
    """So that they are independent."""
    grouped = replace(
        some_images,
        labels=np.repeat([0, 1], 6),
        groups=np.repeat([7, 3, 5, 4], [2, 4, 4, 2]),
    )
    rows = draw_sample(grouped, as_pixels, 99, rng).rows
    assert grouped.groups[rows].tolist() == [7, 3, 5, 4]
    assert len(draw_sample(grouped, as_pixels, 2, rng).rows) == 2
    mosaics = draw_mosaics(grouped, as_pixels, 20, rng).pixels[:, 0, ::4, ::6]
    shown = sorted(set(mosaics.flatten().int().tolist()))
    assert grouped.groups[shown].tolist() == [7, 3, 5, 4]
    with pytest.raises(UserError, match="all test images are of one group"):
        draw_sample(replace(some_images, groups=np.zeros(12, int)), as_pixels, 5, rng)


def test_a_mosaic_is_asked_for_the_class_of_the_image_in_its_quadrant(some_images, rng):
    found = draw_mosaics(some_images, as_pixels, 20, rng)
    assert found.pixels.shape == (20, 3, 8, 12)
    assert len({*found.cells.tolist()}) == 4
    for pixels, asked, quadrant in zip(found.pixels, found.classes, found.cells, strict=True):
        numbers = pixels[0, ::4, ::6].flatten().int()  # the first value of each of the four images
        assert some_images.labels[numbers[quadrant]] == asked


@pytest.mark.parametrize(
    ("right", "wrong", "count", "wrong_shown"),
    [(20, 20, 8, 4), (20, 2, 8, 2), (2, 20, 8, 6), (20, 0, 8, 0)],
)
def test_the_gallery_has_the_most_confident_mistakes_and_the_least_confident_right_predictions(
    right, wrong, count, wrong_shown, rng
):
    total = right + wrong
    predicted = np.array([0] * right + [1] * wrong)
    confidence = rng.random(total)
    images = np.zeros((total, 1, 1, 3), np.uint8)
    labels = np.zeros(total, int)
    groups = np.arange(total)
    test = PredictedImages(images, labels, groups, predicted, confidence, [""] * total)
    rows = choose_gallery(test, count)
    assert len(set(rows)) == count
    mistakes = rows[:wrong_shown]
    hits = rows[wrong_shown:]
    assert predicted[mistakes].all()
    assert not predicted[hits].any()
    others = np.setdiff1d(np.arange(total), rows)
    assert (np.diff(confidence[mistakes]) < 0).all()
    assert (np.diff(confidence[hits]) > 0).all()
    assert not (
        confidence[others[predicted[others] == 1]] > confidence[mistakes].min(initial=1)
    ).any()
    assert not (confidence[others[predicted[others] == 0]] < confidence[hits].max(initial=0)).any()


@pytest.mark.parametrize(("right", "above"), [(12, True), (9, True), (6, False), (4, False)])
def test_a_model_is_above_chance_when_the_interval_of_its_accuracy_is(right, above):
    labels = np.arange(12) % 3
    predicted = np.where(np.arange(12) < right, labels, (labels + 1) % 3)
    assert (
        PredictedImages(
            np.zeros((12, 1, 1, 3), np.uint8),
            labels,
            np.arange(12),
            predicted,
            np.ones(12),
            FILES,
        ).above_chance
        == above
    )


def test_further_images_are_drawn_for_classes_that_have_few_and_those_with_the_fewest_come_first(
    rng,
):
    predicted = np.repeat([0, 1, 2], [30, 10, 3])
    taken = np.array([0, 1, 2, 3, 4, 30])
    more = draw_for_classes(predicted, taken, 5, np.random.default_rng(0))
    assert not {*more.tolist()} & {*taken.tolist()}
    # six at most; class 1 had one, class 2 none
    assert np.bincount(predicted[more], minlength=3).tolist() == [0, 3, 3]
    few = draw_for_classes(predicted, np.arange(12), 5, rng)
    assert np.bincount(predicted[few], minlength=3).tolist() == [0, 5, 3]
    assert len(draw_for_classes(predicted, np.arange(43), 20, rng)) == 0


@pytest.mark.parametrize("seed", range(10))
def test_groups_that_span_classes_make_mosaics_of_all_classes(some_images, seed):
    grouped = replace(some_images, groups=np.arange(12) // 6)  # each has all three classes
    rng = np.random.default_rng(seed)
    assert set(draw_mosaics(grouped, as_pixels, 20, rng).classes.tolist()) == {0, 1, 2}


def test_test_images_of_one_class_make_no_mosaic_which_is_an_error(some_images, rng):
    one_class = replace(some_images, labels=np.ones(12, dtype=np.int64))
    with pytest.raises(UserError, match=r"^all test images are of one class, and a mosaic needs"):
        draw_mosaics(one_class, as_pixels, 4, rng)
