"""Subsets by index: classes in proportion, no image twice, the same for the same seed."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.project import ROOT
from vit_finetune.core.errors import UserError
from vit_finetune.data.split import (
    require_images,
    stratified,
    train_val_test,
    without_leaks,
)


def labels_of(*counts, seed=0):
    """Shuffled labels with so many of each class."""
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


def out_of_proportion(labels, chosen):
    """How many images all classes together have beyond their share, rounded down or up."""
    counts = np.bincount(labels)
    number = np.bincount(labels[chosen], minlength=len(counts))
    fewest = counts * len(chosen) // len(labels)
    most = -(-counts * len(chosen) // len(labels))
    return int((np.maximum(number - most, 0) + np.maximum(fewest - number, 0)).sum())


@st.composite
def labels_and_size(draw):
    counts = draw(st.lists(st.integers(1, 40), min_size=1, max_size=12))
    labels = labels_of(*counts, seed=draw(st.integers(0, 99)))
    return labels, draw(st.integers(len(counts), sum(counts)))


@given(case=labels_and_size(), seed=st.integers(0, 2**32 - 1), keep=st.booleans())
def test_any_subset_has_every_class_in_proportion_and_shares_no_image_with_the_rest(
    case, seed, keep
):
    labels, size = case
    counts = np.bincount(labels)
    chosen, rest = stratified(labels, size, seed, keep=keep)
    assert len(chosen) == size
    assert sorted([*chosen, *rest]) == list(range(len(labels)))
    assert list(chosen) == sorted(chosen)
    assert list(rest) == sorted(rest)
    assert set(labels[chosen]) == set(labels)
    if keep and len(rest) >= (counts > 1).sum():
        assert set(labels[rest]) >= set(np.flatnonzero(counts > 1))
    # only a class that has less than one image in proportion takes the place of another's
    absent = (counts * size < len(labels)).sum()
    if keep:
        absent += (counts * len(rest) < len(labels)).sum()
    assert out_of_proportion(labels, chosen) <= 2 * absent


@pytest.mark.parametrize("size", [10, 25, 48, 50])
def test_the_same_seed_gives_the_same_indices_and_another_seed_others(size):
    labels = labels_of(*[5] * 10)
    first, again, other = (stratified(labels, size, seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert np.array_equal(first, other) == (size == 50)


def test_every_image_can_be_chosen():
    labels = labels_of(4, 4)
    chosen = {index for seed in range(60) for index in stratified(labels, 2, seed)[0]}
    rest = {index for seed in range(60) for index in stratified(labels, 7, seed)[1]}
    assert chosen == rest == set(range(8))


@pytest.mark.parametrize("size", [10, 39])
def test_numpys_global_generator_is_neither_read_nor_moved(size):
    labels = labels_of(20, 20)
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].tobytes()  # noqa: NPY002
    first = stratified(labels, size, 0)[0]
    assert np.random.get_state()[1].tobytes() == before  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    assert np.array_equal(stratified(labels, size, 0)[0], first)


@pytest.mark.parametrize("size", [-1, 0, 2, 31])
@pytest.mark.parametrize("key", ["size", "subset.val_size"])
def test_fewer_than_one_per_class_or_more_than_there_are_is_an_error_that_names_the_key(size, key):
    message = f"{key} is {size}: there are 30 images to take from, of 3 classes; use 3 to 30"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        stratified(labels_of(10, 10, 10), size, 0, **({} if key == "size" else {"key": key}))


TRAIN = labels_of(40, 40, 40)
TEST = labels_of(12, 12, 12, seed=1)
VAL = labels_of(5, 10, 15, seed=2)
TWO = {"train": TRAIN, "test": TEST}
THREE = {"train": TRAIN, "val": VAL, "test": TEST}


@given(
    train=st.integers(3, 90) | st.just("all"),
    val=st.integers(3, 30),
    test=st.integers(3, 36) | st.just("all"),
    seed=st.integers(0, 1000),
)
def test_train_and_val_share_no_image_and_all_three_are_in_proportion(train, val, test, seed):
    split = train_val_test(TWO, train_size=train, val_size=val, test_size=test, seed=seed)
    assert list(split) == ["train", "val", "test"]
    wanted = {
        "train": 120 - val if train == "all" else train,
        "val": val,
        "test": 36 if test == "all" else test,
    }
    assert {name: len(set(indices.tolist())) for name, indices in split.items()} == wanted
    assert not set(split["train"]) & set(split["val"])
    for indices in split.values():
        assert list(indices) == sorted(indices)
    pool = np.setdiff1d(np.arange(120), split["val"])
    assert out_of_proportion(TRAIN[pool], np.searchsorted(pool, split["train"])) == 0
    assert out_of_proportion(TRAIN, split["val"]) == 0
    assert out_of_proportion(TEST, split["test"]) == 0


@pytest.mark.parametrize("train_size", [3, 10, 50, 100, "all"])
@pytest.mark.parametrize("test_size", [3, "all"])
def test_the_validation_images_depend_on_the_seed_and_their_number_alone(train_size, test_size):
    def val(train_size, test_size, seed=7):
        return train_val_test(
            TWO, train_size=train_size, val_size=20, test_size=test_size, seed=seed
        )["val"]

    assert np.array_equal(val(train_size, test_size), val(60, 12))
    assert not np.array_equal(val(train_size, test_size), val(60, 12, seed=8))


@given(
    train=st.integers(3, 120) | st.just("all"),
    val=st.integers(3, 30) | st.just("all"),
    test=st.integers(3, 36) | st.just("all"),
    seed=st.integers(0, 1000),
)
def test_with_a_validation_part_its_images_are_taken_and_train_keeps_all_of_its_own(
    train, val, test, seed
):
    sizes = {"train": train, "val": val, "test": test}
    split = train_val_test(
        THREE, **{f"{name}_size": size for name, size in sizes.items()}, seed=seed
    )
    assert list(split) == ["train", "val", "test"]
    for name, indices in split.items():
        size = len(THREE[name]) if sizes[name] == "all" else sizes[name]
        assert len(set(indices.tolist())) == len(indices) == size
        assert list(indices) == sorted(indices)
        assert out_of_proportion(THREE[name], indices) == 0


def test_with_a_validation_part_no_split_depends_on_the_size_of_another():
    def split(**sizes):
        return train_val_test(
            THREE, **{"train_size": 30, "val_size": 12, "test_size": 9, "seed": 3} | sizes
        )

    before = split()
    for name, size in {"train": 60, "val": 20, "test": "all"}.items():
        after = split(**{f"{name}_size": size})
        assert [part for part in before if not np.array_equal(before[part], after[part])] == [name]


def test_all_validation_images_of_a_data_set_without_a_validation_part_is_an_error():
    message = (
        "subset.val_size is all: the data set has no validation images of its own, use a number "
        "or auto"
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        train_val_test(TWO, train_size=10, val_size="all", test_size=10, seed=0)


@pytest.mark.parametrize("val_size", [118, 120, 121])
@pytest.mark.parametrize("train_size", [3, "all"])
def test_validation_that_leaves_too_few_images_to_train_on_is_an_error_with_the_allowed_number(
    train_size, val_size
):
    message = (
        f"subset.val_size is {val_size}: of the 120 images that are not for testing, "
        "of 3 classes, training needs one of each class; use 3 to 117"
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        train_val_test(TWO, train_size=train_size, val_size=val_size, test_size=10, seed=0)
    most = train_val_test(TWO, train_size=3, val_size=117, test_size=10, seed=0)
    assert sorted(TWO["train"][most["train"]]) == [0, 1, 2]


@pytest.mark.parametrize(
    ("labels", "sizes", "problem", "count"),
    [
        (TWO, {"train_size": 101}, "train_size is 101", 100),
        (TWO, {"train_size": 2}, "train_size is 2", 100),
        (TWO, {"val_size": 117}, "train_size is 10", 3),
        (TWO, {"test_size": 37}, "test_size is 37", 36),
        (THREE, {"train_size": 121}, "train_size is 121", 120),
        (THREE, {"val_size": 31}, "val_size is 31", 30),
    ],
)
def test_sizes_out_of_range_are_errors_that_name_the_key_and_the_range(
    labels, sizes, problem, count
):
    message = f"{problem}: there are {count} images to take from, of 3 classes; use 3 to {count}"
    with pytest.raises(UserError, match=f"^subset.{re.escape(message)}$"):
        train_val_test(
            labels, **{"train_size": 10, "val_size": 20, "test_size": 10, "seed": 0} | sizes
        )


def test_a_class_without_an_image_to_train_on_is_an_error_with_what_to_do():
    classes = ["ant", "bee", "cat", "dog"]
    labels = {"train": np.array([2, 1, 0, 0, 3]), "val": np.array([1]), "test": np.array([1])}
    require_images(labels, classes)
    message = (
        "no image of ant, dog is left to train on: add images, remove the class, or take fewer for "
        "validation (subset.val_size)"
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        require_images(labels | {"train": np.array([1, 2, 2])}, classes)


@pytest.mark.parametrize(("split", "purpose"), [("val", "validate"), ("test", "test")])
def test_a_split_that_is_empty_after_leaks_and_corrections_is_an_error(split, purpose):
    labels = {"train": np.array([0, 1]), "val": np.array([1]), "test": np.array([1])}
    empty = labels | {split: np.array([], dtype=np.int64)}
    with pytest.raises(UserError, match=f"^no image is left to {purpose} with, after subset.leaks"):
        require_images(empty, ["ant", "bee"])


@pytest.mark.parametrize(
    ("labels", "sizes", "expected"),
    [
        (TWO, {}, (102, 18, 36)),
        (THREE, {}, (120, 30, 36)),
        (TWO, {"train_size": 0.5, "val_size": 0.1, "test_size": 0.25}, (54, 12, 9)),
        (THREE, {"train_size": 0.5, "val_size": 0.2, "test_size": 0.25}, (60, 6, 9)),
        ({"train": labels_of(2, 2, 2), "test": TEST}, {}, (3, 3, 36)),
        ({"train": labels_of(4000, 4000), "test": labels_of(1, 1)}, {}, (7000, 1000, 2)),
    ],
)
def test_auto_and_shares_stand_for_these_numbers(labels, sizes, expected):
    auto = {"train_size": "auto", "val_size": "auto", "test_size": "auto"}
    split = train_val_test(labels, **auto | sizes, seed=0)
    assert tuple(len(indices) for indices in split.values()) == expected


def test_validation_images_of_groups_are_whole_groups_in_about_the_wanted_number():
    groups = np.repeat(np.arange(40), 10)
    labels = np.repeat(np.arange(40) % 4, 10)
    of_part = {"train": groups, "test": np.array([100])}
    split = train_val_test(
        {"train": labels, "test": np.array([0])},
        train_size="all",
        val_size=80,
        test_size="all",
        seed=1,
        groups=of_part,
    )
    assert np.bincount(labels[split["val"]]).tolist() == [20] * 4
    assert not set(groups[split["val"]]) & set(groups[split["train"]])
    assert len(split["val"]) + len(split["train"]) == 400


@pytest.mark.parametrize("seed", range(5))
def test_copies_of_validation_images_are_not_trained_on(seed):
    labels = {"train": labels_of(40, 40), "test": labels_of(5, 5)}
    same = {"train": np.arange(80) // 2, "test": np.arange(100, 110)}  # each image is there twice
    chosen = train_val_test(labels, train_size=20, val_size=20, test_size="all", seed=seed)
    clean, dropped = without_leaks(chosen, labels, [same], seed)
    assert dropped > 0
    assert not set(same["train"][clean["train"]]) & set(same["train"][clean["val"]])
    assert np.array_equal(clean["val"], chosen["val"])
    assert len(clean["train"]) == 20


@pytest.mark.parametrize("seed", range(5))
def test_given_validation_images_that_are_also_test_images_are_replaced_by_others(seed):
    labels = {"train": labels_of(20, 20), "val": labels_of(20, 20), "test": labels_of(5, 5)}
    same = {"train": np.arange(40), "val": 100 + np.arange(40), "test": 200 + np.arange(10)}
    same["val"][[0, 1, 20]] = same["test"][[0, 1, 5]]  # two of the first class, one of the second
    sizes = {"train_size": "all", "val_size": 36, "test_size": "all"}
    chosen = train_val_test(labels, **sizes, seed=seed)
    leaked = np.isin(chosen["val"], [0, 1, 20])
    clean, dropped = without_leaks(chosen, labels, [same], seed)
    assert dropped == leaked.sum()
    assert not np.isin(clean["val"], [0, 1, 20]).any()
    assert np.isin(chosen["val"][~leaked], clean["val"]).all()
    assert np.bincount(labels["val"][clean["val"]]).tolist() == [18, 18]
    assert np.array_equal(clean["train"], chosen["train"])


def test_one_group_in_each_class_leaves_none_for_validation_which_is_an_error():
    labels = np.repeat([0, 1], 10)
    with pytest.raises(UserError, match=r"^data\.group leaves no image for validation: "):
        train_val_test(
            {"train": labels, "test": labels},
            train_size="all",
            val_size="auto",
            test_size="all",
            seed=0,
            groups={"train": labels, "test": labels + 2},
        )


@given(
    small=st.lists(st.integers(2, 3), min_size=1, max_size=5),
    val=st.integers(7, 60),
    seed=st.integers(0, 99),
)
def test_small_classes_are_in_the_validation_images_and_in_those_for_training(small, val, seed):
    labels = labels_of(80, *small)
    split = train_val_test(
        {"train": labels, "test": labels}, train_size="all", val_size=val, test_size=10, seed=seed
    )
    for name, indices in split.items():
        assert set(labels[indices]) == set(range(1 + len(small))), name


def test_the_same_images_are_chosen_in_every_version_and_in_a_process_with_other_hashes():
    script = """
import numpy as np
from vit_finetune.data.split import stratified
print([stratified(np.arange(6) % 3, size, 5)[0].tolist() for size in (3, 5)])
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONHASHSEED": "1"},
    )
    chosen = [[0, 2, 4], [0, 1, 2, 4, 5]]
    assert [stratified(np.arange(6) % 3, size, 5)[0].tolist() for size in (3, 5)] == chosen
    assert done.stdout == f"{chosen}\n"
