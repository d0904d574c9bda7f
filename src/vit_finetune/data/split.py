"""Stratified subsets by index."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from vit_finetune.core.errors import UserError
from vit_finetune.data.groups import draw_groups

Indices = NDArray[np.intp]
Size = int | float | str  # a number, a share, `all` or `auto`

VAL_SHARE = 0.15  # what `auto` takes for validation
MOST_VAL = 1000  # and at most


def stratified(
    labels: NDArray[Any], size: int, seed: int, key: str = "size", *, keep: bool = False
) -> tuple[Indices, Indices]:
    """Sorted indices (size,) with every class, as far as that allows in proportion, and those of
    the rest.

    Args:
        keep: whether the rest must have every class too that has two images, as far as it has room.

    Raises:
        UserError: size is less than one per class or more than there is; names the key it came
            from.
    """
    classes = len(np.unique(labels))
    if not classes <= size <= len(labels):
        raise UserError(
            f"{key} is {size}: there are {len(labels)} images to take from, of {classes} classes; "
            f"use {classes} to {len(labels)}"
        )
    inside = np.zeros(len(labels), dtype=bool)
    inside[_in_proportion(labels, size, seed)] = True
    inside = _with_every_class(labels, inside, seed, least=1)
    if keep:
        inside = ~_with_every_class(labels, ~inside, seed, least=2)
    return np.flatnonzero(inside), np.flatnonzero(~inside)


def _in_proportion(labels: NDArray[Any], size: int, seed: int) -> Indices:
    """Indices (size,) with the classes in proportion; a small class may be absent."""
    counts = np.unique(labels, return_counts=True)[1]
    everything = np.arange(len(labels))
    # scikit-learn wants every class on both sides
    if size <= len(labels) - len(counts) and counts.min() >= 2:
        chosen, _ = train_test_split(
            everything, train_size=size, stratify=labels, random_state=seed
        )
        return chosen
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    # at equal distances, so that each class has its share
    evenly = (np.arange(size) * len(labels) + rng.integers(len(labels))) // size
    return by_class[evenly]


def _with_every_class(
    labels: NDArray[Any], inside: NDArray[np.bool_], seed: int, least: int
) -> NDArray[np.bool_]:
    """A mask (N,) with as many images as `inside` in which no class is absent that has `least`
    images.

    An image of an absent class takes the place of one of the class that has most beyond its share.
    """
    names, label, there = np.unique(labels, return_inverse=True, return_counts=True)
    share = there * inside.mean()
    rng = np.random.default_rng(seed)
    inside = inside.copy()
    for absent in np.setdiff1d(np.flatnonzero(there >= least), label[inside]):
        count = np.bincount(label[inside], minlength=len(names))
        if count.max(initial=0) < 2:  # no class has an image to give
            break
        most = np.argmax(np.where(count > 1, count - share, -np.inf))
        goes = rng.choice(np.flatnonzero(inside & (label == most)))
        comes = rng.choice(np.flatnonzero(label == absent))
        inside[goes] = False
        inside[comes] = True
    return inside


def train_val_test(
    labels: Mapping[str, NDArray[Any]],
    *,
    train_size: Size,
    val_size: Size,
    test_size: Size,
    seed: int,
    groups: Mapping[str, NDArray[np.int64]] | None = None,
) -> dict[str, Indices]:
    """Indices of train, val and test, each into its own part, or of val into the training part,
    disjoint from train.

    A size is a number, a share of the images to take from, `all` of them, or `auto`: 15 % of the
    training images for validation and at most 1,000; all where the data set has validation images
    of its own, and all for training and testing. To train on there are all training images that
    validation leaves.

    Without a part of its own the validation images depend on the seed and their number alone, so
    runs with more or fewer training images are compared on the same ones.

    Args:
        labels: of the parts `train` and `test`, and of `val` where the data set has it.
        groups: of each part, equal numbers are one group. Validation images that come from the
            training part are whole groups, about as many as wanted.

    Raises:
        UserError: a size is out of range, or `all` validation images of a data set that has none of
            its own.
    """
    train_labels = labels["train"]
    if "val" in labels:
        val = _take(labels["val"], val_size, seed, "subset.val_size")
        pool = np.arange(len(train_labels))
    else:
        of_train = None if groups is None else groups["train"]
        val, pool = _val_from_train(train_labels, val_size, seed, of_train)
    train = pool[_take(train_labels[pool], train_size, seed, "subset.train_size")]
    test = _take(labels["test"], test_size, seed, "subset.test_size")
    return {"train": train, "val": val, "test": test}


def _take(labels: NDArray[Any], size: Size, seed: int, key: str) -> Indices:
    count = len(labels) if size == "auto" else _number(size, len(labels))
    return stratified(labels, count, seed, key)[0]


def _number(size: Size, available: int) -> int:
    """The number of images that a size stands for, `auto` apart."""
    if size == "all":
        return available
    if isinstance(size, float):
        return max(1, round(size * available))
    return int(size)


def _val_from_train(
    labels: NDArray[Any], size: Size, seed: int, groups: NDArray[np.int64] | None
) -> tuple[Indices, Indices]:
    """Indices of validation images, and of those that are left to train on."""
    if size == "all":
        raise UserError(
            "subset.val_size is all: the data set has no validation images of its own, use a "
            "number or auto"
        )
    classes = len(np.unique(labels))
    most = len(labels) - classes
    if size == "auto":
        count = max(classes, min(MOST_VAL, round(VAL_SHARE * len(labels))))
    else:
        count = _number(size, len(labels))
    if count > most:
        raise UserError(
            f"subset.val_size is {size}: of the {len(labels)} images that are not for testing, of "
            f"{classes} classes, training needs one of each class; use {classes} to {most}"
        )
    if groups is None or len(np.unique(groups)) == len(groups):
        return stratified(labels, count, seed, "subset.val_size", keep=True)
    order = np.random.default_rng(seed).permutation(np.unique(groups)).tolist()
    drawn = draw_groups(labels, groups, order, count / len(labels))
    if not drawn.any():
        raise UserError(
            "data.group leaves no image for validation: of each class one group is for training, "
            "so some class needs two; add images of more groups, or a val folder"
        )
    return np.flatnonzero(drawn), np.flatnonzero(~drawn)


def absent_classes(labels: NDArray[Any], classes: Sequence[str]) -> list[str]:
    """Names of the classes of which there is no label."""
    there = np.bincount(labels, minlength=len(classes))
    return [name for name, count in zip(classes, there, strict=True) if count == 0]


def require_images(labels: Mapping[str, NDArray[Any]], classes: Sequence[str]) -> None:
    """UserError unless there are images to validate and to test with, and one of every class to
    train on.

    Args:
        labels: of each split.
    """
    for split, purpose in (("val", "validate"), ("test", "test")):
        if not len(labels[split]):
            raise UserError(
                f"no image is left to {purpose} with, after subset.leaks and the corrections; add "
                "images of other subjects, or images that are in no other part"
            )
    absent = absent_classes(labels["train"], classes)
    if absent:
        raise UserError(
            f"no image of {', '.join(absent)} is left to train on: add images, remove the class, "
            "or take fewer for validation (subset.val_size)"
        )


def without_leaks(
    chosen: Mapping[str, Indices],
    labels: Mapping[str, NDArray[Any]],
    keys: Sequence[Mapping[str, NDArray[Any]]],
    seed: int,
) -> tuple[dict[str, Indices], int]:
    """Splits in which no image to train on is also a test or validation image, and no validation
    image also a test image; and how many were dropped.

    What is dropped is replaced by images of its class that were not drawn, as far as there are any.
    What has no leak stays as it was drawn.

    Args:
        chosen, labels: as `train_val_test` returns and takes them.
        keys: what makes two images one, each a number (N,) for each image of each part: equal
            pixels (`Dataset.same`) and the group (`Dataset.groups`).
    """

    def shared(part: str, other: str, rows: Indices | slice) -> NDArray[np.bool_]:
        """A mask over a part: images that are one with some of another part."""
        found = np.zeros(len(labels[part]), dtype=bool)
        for numbers in keys:
            found |= np.isin(numbers[part], numbers[other][rows])
        return found

    rng = np.random.default_rng(seed)
    chosen = dict(chosen)
    everything = slice(None)
    dropped = 0
    has_val = "val" in labels
    part_of = {"val": "val" if has_val else "train", "train": "train"}
    for split, part in part_of.items():
        leaks = shared(part, "test", everything)
        if split == "train":
            leaks |= shared("train", part_of["val"], everything if has_val else chosen["val"])
        spare = ~leaks
        for other, other_part in part_of.items():
            if other_part == part:
                spare[chosen[other]] = False
        is_leak = leaks[chosen[split]]
        leaked = chosen[split][is_leak]
        kept = [chosen[split][~is_leak]]
        for label, count in zip(*np.unique(labels[part][leaked], return_counts=True), strict=True):
            others = np.flatnonzero(spare & (labels[part] == label))
            kept.append(rng.choice(others, min(count, len(others)), replace=False))
        chosen[split] = np.sort(np.concatenate(kept))
        dropped += len(leaked)
    return chosen, dropped


def handle_leaks(
    mode: str,
    chosen: dict[str, Indices],
    labels: Mapping[str, NDArray[Any]],
    keys: Sequence[Mapping[str, NDArray[Any]]],
    seed: int,
) -> tuple[dict[str, Indices], str]:
    """The splits after `subset.leaks`: `drop`, `error` (UserError if there is a leak) or `keep`.
    With them a sentence for the user, which is empty if there is no leak."""
    clean, dropped = without_leaks(chosen, labels, keys, seed)
    if not dropped:
        return chosen, ""
    found = (
        f"{dropped} images to train or validate on have the pixels or the group of a test or "
        "validation image"
    )
    if mode == "error":
        raise UserError(f"{found}; remove them, or set subset.leaks to drop")
    if mode == "keep":
        return chosen, f"{found}: kept (subset.leaks)"
    before = sum(len(indices) for indices in chosen.values())
    after = sum(len(indices) for indices in clean.values())
    drawn = after - before + dropped
    return clean, f"{found}: dropped, {drawn} others drawn (subset.leaks)"
