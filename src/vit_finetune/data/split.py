"""Stratified subsets by index."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from vit_finetune.core.errors import UserError

Indices = NDArray[np.intp]


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
    train_size: int | str,
    val_size: int | str,
    test_size: int | str,
    seed: int,
) -> dict[str, Indices]:
    """Indices of train, val and test, each into its own part, or of val into the training part,
    disjoint from train.

    `"all"` takes every image: of the training part, all that validation leaves. Without a part of
    its own the validation images depend on the seed and their number alone, so runs with more or
    fewer training images are compared on the same ones.

    Args:
        labels: of the parts `train` and `test`, and of `val` where the data set has it.

    Raises:
        UserError: a size is out of range, or `all` validation images of a data set that has none of
            its own.
    """
    train_labels = labels["train"]
    if "val" in labels:
        val, _ = _take(labels["val"], val_size, seed, "subset.val_size")
        pool = np.arange(len(train_labels))
    else:
        val, pool = _val_from_train(train_labels, val_size, seed)
    of_pool, _ = _take(train_labels[pool], train_size, seed, "subset.train_size")
    test, _ = _take(labels["test"], test_size, seed, "subset.test_size")
    return {"train": pool[of_pool], "val": val, "test": test}


def _take(labels: NDArray[Any], size: int | str, seed: int, key: str) -> tuple[Indices, Indices]:
    return stratified(labels, len(labels) if size == "all" else int(size), seed, key)


def _val_from_train(labels: NDArray[Any], size: int | str, seed: int) -> tuple[Indices, Indices]:
    """Indices of validation images, and of those that are left to train on."""
    if size == "all":
        raise UserError(
            "subset.val_size is all: the data set has no validation images of its own, use a number"
        )
    classes = len(np.unique(labels))
    if int(size) > len(labels) - classes:
        raise UserError(
            f"subset.val_size is {size}: of the {len(labels)} images that are not for testing, of "
            f"{classes} classes, training needs one of each class; use {classes} to "
            f"{len(labels) - classes}"
        )
    return stratified(labels, int(size), seed, "subset.val_size", keep=True)


def require_every_class(
    split: str, labels: NDArray[Any], classes: Sequence[str], part: NDArray[Any]
) -> None:
    """UserError unless a split has an image of every class.

    Args:
        part: the labels among which the split was drawn.
    """
    there = np.bincount(part, minlength=len(classes))
    absent = [
        f"{name} ({there[k]} to take from)" for k, name in enumerate(classes) if k not in labels
    ]
    if absent:
        raise UserError(
            f"no image of {', '.join(absent)} is in {split}, and each class needs one in train, "
            "val and test: add images of it, remove the class, or take fewer for validation "
            "(subset.val_size)"
        )


def without_leaks(
    chosen: Mapping[str, Indices],
    labels: Mapping[str, NDArray[Any]],
    same: Mapping[str, NDArray[Any]],
    seed: int,
) -> tuple[dict[str, Indices], int]:
    """Splits in which no image to train on is also a test or validation image, and how many were
    dropped.

    What is dropped is replaced by images of its class that were not drawn, as far as there are any.
    Validation images from the training part are treated like those to train on. What has no leak
    stays as it was drawn.

    Args:
        chosen, labels: as `train_val_test` returns and takes them.
        same: for each part a number (N,) of each image, equal for equal pixels
            (`dataset.same_pixels`).
    """
    rng = np.random.default_rng(seed)
    chosen = dict(chosen)
    numbers = same["train"]
    leaks = np.isin(numbers, same["test"])
    from_train = ["train"]
    if "val" in labels:
        leaks |= np.isin(numbers, same["val"])
    else:
        from_train = ["val", "train"]
    dropped = 0
    for split in from_train:
        if split == "train" and "val" not in labels:
            leaks = leaks | np.isin(numbers, numbers[chosen["val"]])
        spare = ~leaks
        for name in from_train:
            spare[chosen[name]] = False
        leaked = chosen[split][leaks[chosen[split]]]
        kept = [chosen[split][~leaks[chosen[split]]]]
        for label, count in zip(
            *np.unique(labels["train"][leaked], return_counts=True), strict=True
        ):
            others = np.flatnonzero(spare & (labels["train"] == label))
            kept.append(rng.choice(others, min(count, len(others)), replace=False))
        chosen[split] = np.sort(np.concatenate(kept))
        dropped += len(leaked)
    return chosen, dropped


def handle_leaks(
    mode: str,
    chosen: dict[str, Indices],
    labels: Mapping[str, NDArray[Any]],
    same: Mapping[str, NDArray[Any]],
    seed: int,
) -> dict[str, Indices]:
    """The splits after `subset.leaks`: `drop`, `error` (UserError if there is a leak) or `keep`."""
    clean, dropped = without_leaks(chosen, labels, same, seed)
    if not dropped:
        return chosen
    found = (
        f"{dropped} images to train or validate on have the pixels of a test or validation image"
    )
    if mode == "error":
        raise UserError(f"{found}; remove them from the training part, or set subset.leaks to drop")
    if mode == "keep":
        print(f"subset: {found}: kept (subset.leaks)")
        return chosen
    before = sum(len(indices) for indices in chosen.values())
    after = sum(len(indices) for indices in clean.values())
    drawn = after - before + dropped
    print(f"subset: {found}: dropped, {drawn} others drawn (subset.leaks)")
    return clean
