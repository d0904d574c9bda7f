"""Nearest images are the nearest, and near-copies are told from images that are merely alike."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.review.examples import SIDE, textures
from vit_finetune.review import neighbours

TYPICAL = neighbours.Typical(distance=1, spread=1)


def unit_vectors(count, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)
    return neighbours.directions(vectors, np.zeros(6, dtype=np.float32))


def test_the_nearest_are_those_of_a_full_search_without_the_image_itself():
    vectors = unit_vectors(40)
    nearest = neighbours.nearest_images(vectors, range(10, 30), 3)
    cosine = vectors.astype(float) @ vectors.T
    np.fill_diagonal(cosine, -2)
    expected = 10 + np.argsort(-cosine[:, 10:30], axis=1)[:, :3]
    np.testing.assert_array_equal(nearest.rows, expected)
    found = np.take_along_axis(cosine, expected, axis=1)
    np.testing.assert_allclose(nearest.distance, 1 - found, atol=1e-5)


def test_equal_images_are_neighbours_of_each_other_and_never_of_themselves():
    vectors = np.repeat(unit_vectors(1), 8, axis=0)
    nearest = neighbours.nearest_images(vectors, range(8), 5)
    assert nearest.rows.shape == (8, 5)
    assert not (nearest.rows == np.arange(8)[:, None]).any()
    np.testing.assert_allclose(nearest.distance, 0, atol=1e-6)


def test_of_a_small_part_all_are_neighbours():
    nearest = neighbours.nearest_images(unit_vectors(9), range(6, 9), 5)
    assert [set(rows) for rows in nearest.rows[6:]] == [{7, 8}, {6, 8}, {6, 7}]


def pairs_of(first, second, least=0.77):
    """The near-copies among images `first` and `second`, whose features are all the same."""
    images = np.concatenate([first, second])
    vectors = np.repeat(unit_vectors(1), len(images), axis=0)
    nearest = neighbours.nearest_images(vectors, range(len(images)), len(images))
    small = neighbours.thumbnails([first, second])
    return neighbours.find_copies(small, [nearest], TYPICAL, least)


def jpeg(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=70)
    return np.asarray(Image.open(buffer))


def resized(image):
    picture = Image.fromarray(image)
    return np.asarray(picture.resize((SIDE // 2, SIDE // 2)).resize((SIDE, SIDE)))


def cropped(image):
    picture = Image.fromarray(image).crop((1, 1, SIDE, SIDE))
    return np.asarray(picture.resize((SIDE, SIDE)))


@pytest.mark.parametrize(
    "change",
    [
        np.array,
        jpeg,
        resized,
        cropped,
        lambda image: np.clip(1.1 * image, 0, 255).astype(np.uint8),
        lambda image: (0.9 * image).astype(np.uint8),
        lambda image: image // np.array([1, 2, 1], dtype=np.uint8),
    ],
    ids=["copied", "JPEG", "resized", "cropped", "brighter", "darker", "another colour cast"],
)
def test_an_altered_image_is_a_near_copy_of_its_original_alone(change):
    originals = textures(6)
    copies = np.stack([change(image) for image in originals])
    found = pairs_of(originals, copies)
    pairs = zip(found.first.tolist(), found.second.tolist(), strict=True)
    assert sorted(pairs) == [(row, row + 6) for row in range(6)]
    assert not found.mirrored.any()


def test_a_shift_by_a_pixel_of_the_thumbnails_does_not_count():
    noise = np.random.default_rng(0).integers(0, 256, (1, 17, 17, 3), dtype=np.uint8)
    for moved in (noise[:, 1:, :16], noise[:, :16, 1:], noise[:, 1:, 1:]):
        np.testing.assert_allclose(
            neighbours.best_correlation(noise[:, :16, :16], moved), 1, rtol=1e-5
        )


def test_a_copy_has_score_1_and_distance_0():
    image = textures(1)
    found = pairs_of(image, image)
    np.testing.assert_allclose([found.score, found.distance], [[1], [0]], atol=1e-5)


def test_a_mirror_image_is_a_near_copy_and_is_called_mirrored():
    image = textures(1)
    found = pairs_of(image, image[:, :, ::-1])
    assert found.mirrored.tolist() == [True]
    assert found.score.item() > 0.9


def test_images_without_contrast_are_alike():
    grey = np.full((1, SIDE, SIDE, 3), 90, dtype=np.uint8)
    assert pairs_of(grey, grey + 1).score.item() == pytest.approx(1)


def test_images_that_are_merely_alike_are_no_near_copies_where_their_features_are_far_apart():
    first = textures(1)
    second = first.copy()
    second[:, :12, :12] = textures(1, seed=1)[:, :12, :12]  # a quarter of another image
    near = unit_vectors(1).repeat(2, axis=0)
    far = unit_vectors(2)
    counts = []
    for vectors in (near, far):
        nearest = [neighbours.nearest_images(vectors, range(2), 1)]
        small = neighbours.thumbnails([first, second])
        counts.append(len(neighbours.find_copies(small, nearest, TYPICAL, 0.77).first))
    assert counts == [1, 0]


def test_a_pair_is_found_once_whichever_image_has_the_other_as_neighbour():
    images = textures(1).repeat(3, axis=0)
    found = pairs_of(images[:1], images[1:])
    pairs = list(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert pairs == [(0, 1), (0, 2), (1, 2)]


def typical(vectors, images, least=0.8):
    return neighbours.typical_of(vectors, neighbours.thumbnails([images]), least)


def test_the_typical_distance_is_that_of_fifth_neighbours():
    images = textures(30)
    vectors = unit_vectors(30)
    found = typical(vectors, images)
    small = neighbours.thumbnails([images])
    nearest = neighbours.nearest_images(vectors, range(30), 5)
    correlation, _ = neighbours.similarity(small, small[nearest.rows[:, 4]])
    logarithms = np.log(nearest.distance[:, 4] * (1 - correlation))
    assert found.distance == pytest.approx(np.exp(np.median(logarithms)), rel=1e-4)
    middle, upper = np.quantile(logarithms, [0.5, 0.75])
    assert found.spread == pytest.approx(max(0.5, 2 * (upper - middle)), rel=1e-4)


def test_where_images_come_in_sets_of_copies_the_20th_neighbour_is_typical():
    images = textures(30)
    vectors = unit_vectors(30)
    rng = np.random.default_rng(1)
    frames = images.repeat(10, axis=0).astype(float) + rng.normal(0, 5, (300, *images.shape[1:]))
    frames = np.clip(frames, 0, 255).astype(np.uint8)
    moved = vectors.repeat(10, axis=0) + rng.normal(0, 1e-3, (300, 6)).astype(np.float32)
    found = typical(neighbours.directions(moved, np.zeros(6, dtype=np.float32)), frames)
    alone = typical(vectors, images)
    assert 0.1 < found.distance / alone.distance < 1
    assert typical(vectors, images, least=-9).distance > alone.distance  # the 20th, unasked


def test_a_score_is_1_for_a_copy_and_0_for_the_typical_distance():
    for spread in (0.5, 2):
        measure = neighbours.Typical(0.3, spread)
        assert [measure.score(0.0), measure.score(0.3)] == [1, 0]
        assert measure.score(measure.largest(0.8)) == pytest.approx(0.8)
    # the same distance means less where distances are far apart
    assert neighbours.Typical(0.3, 2).score(0.03) < neighbours.Typical(0.3, 0.5).score(0.03)


def test_far_is_what_lies_outside_of_tukeys_fence():
    distance = np.concatenate([np.linspace(1, 2, 101), [2.74, 2.76]]).astype(np.float32)
    # quartiles near 1.25 and 1.75, so the fence is near 2.5 + the two far ones
    lower, upper = np.quantile(distance, [0.25, 0.75])
    fence = upper + 1.5 * (upper - lower)
    np.testing.assert_array_equal(neighbours.is_far(distance), distance > fence)
    assert neighbours.is_far(distance).sum() == 2
    assert not neighbours.is_far(np.ones(5, dtype=np.float32)).any()


def test_at_most_one_image_of_a_hundred_is_far_however_alike_the_others_are():
    distance = np.random.default_rng(0).lognormal(sigma=1.5, size=2000).astype(np.float32)
    lower, upper = np.quantile(distance, [0.25, 0.75])
    assert (distance > upper + 1.5 * (upper - lower)).sum() > 100  # by Tukey's rule alone
    far = np.flatnonzero(neighbours.is_far(distance))
    assert sorted(far) == sorted(np.argsort(distance)[-20:])
