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
    everything = np.arange(len(labels))
    counts = np.unique(labels, return_counts=True)[1]
    classes = len(counts)
    if not classes <= size <= len(labels):
        raise UserError(
            f"{key} is {size}: there are {len(labels)} images to take from, of {classes} classes; use {classes} to "
            f"{len(labels)}"
        )
    # scikit-learn wants every class on both sides
    if size > len(labels) - classes or counts.min() < 2:
        rng = np.random.default_rng(seed)
        shuffled = rng.permutation(len(labels))
        by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
        # so each class has its share
        evenly = (np.arange(size) * len(labels) + rng.integers(len(labels))) // size
        chosen = by_class[evenly]
    else:
        chosen = train_test_split(everything, train_size=size, stratify=labels, random_state=seed)[
            0
        ]
    inside = _with_every_class(labels, np.isin(everything, chosen), seed)
    if keep:
        inside = ~_with_every_class(labels, ~inside, seed, least=2)
    return np.flatnonzero(inside), np.flatnonzero(~inside)


def _with_every_class(
    labels: NDArray[Any], inside: NDArray[np.bool_], seed: int, least: int = 1
) -> NDArray[np.bool_]:
    """A mask (N,) with as many images and every class that has `least`: of one that is absent an
    image comes in, and of the one that has most beyond its share, and keeps another, an image goes
    out."""
    names, label, there = np.unique(labels, return_inverse=True, return_counts=True)
    inside, rng, share = inside.copy(), np.random.default_rng(seed), there * inside.mean()
    for absent in np.setdiff1d(np.flatnonzero(there >= least), label[inside]):
        count = np.bincount(label[inside], minlength=len(names))
        if count.max(initial=0) < 2:
            break
        most = np.argmax(np.where(count > 1, count - share, -np.inf))
        goes, comes = (
            rng.choice(np.flatnonzero(of)) for of in (inside & (label == most), label == absent)
        )
        inside[goes], inside[comes] = False, True
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

    def take(
        part: str, of: NDArray[Any], size: int | str, *, keep: bool = False
    ) -> tuple[Indices, Indices]:
        return stratified(
            of, len(of) if size == "all" else int(size), seed, f"subset.{part}_size", keep=keep
        )

    if "val" in labels:
        val, pool = take("val", labels["val"], val_size)[0], np.arange(len(labels["train"]))
    elif val_size == "all":
        raise UserError(
            "subset.val_size is all: the data set has no validation images of its own, use a number"
        )
    else:
        classes, count = len(np.unique(labels["train"])), len(labels["train"])
        if int(val_size) > count - classes:
            raise UserError(
                f"subset.val_size is {val_size}: of the {count} images that are not for testing, of {classes} classes, "
                f"training needs one of each class; use {classes} to {count - classes}"
            )
        val, pool = take("val", labels["train"], val_size, keep=True)
    train = pool[take("train", labels["train"][pool], train_size)[0]]
    return {"train": train, "val": val, "test": take("test", labels["test"], test_size)[0]}


def require_every_class(
    split: str, labels: NDArray[Any], classes: Sequence[str], part: NDArray[Any]
) -> None:
    """UserError unless a split has an image of every class.

    Args:
        part: the labels among which the split was drawn.
    """
    there = np.bincount(part, minlength=len(classes))
    if absent := [
        f"{name} ({there[k]} to take from)" for k, name in enumerate(classes) if k not in labels
    ]:
        raise UserError(
            f"no image of {', '.join(absent)} is in {split}, and each class needs one in train, val and test: add "
            "images of it, remove the class, or take fewer for validation (subset.val_size)"
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
            (`checks.same_pixels`).
    """
    rng, numbers, chosen = np.random.default_rng(seed), same["train"], dict(chosen)
    leaks, dropped = np.isin(numbers, same["test"]), 0
    if "val" in labels:
        leaks |= np.isin(numbers, same["val"])
        order = ["train"]
    else:
        order = ["val", "train"]
    for split in order:
        if split == "train" and "val" in order:
            leaks = leaks | np.isin(numbers, numbers[chosen["val"]])
        spare = ~leaks
        spare[np.concatenate([chosen[name] for name in order])] = False
        leaked = leaks[chosen[split]]
        out, kept = chosen[split][leaked], [chosen[split][~leaked]]
        for label, count in zip(*np.unique(labels["train"][out], return_counts=True), strict=True):
            there = np.flatnonzero(spare & (labels["train"] == label))
            kept.append(rng.choice(there, min(count, len(there)), replace=False))
        chosen[split], dropped = np.sort(np.concatenate(kept)), dropped + len(out)
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
    said = f"{dropped} images to train or validate on have the pixels of a test or validation image"
    if mode == "error":
        raise UserError(f"{said}; remove them from the training part, or set subset.leaks to drop")
    drawn = sum(map(len, clean.values())) - sum(map(len, chosen.values())) + dropped
    print(
        f"subset: {said}: {f'dropped, {drawn} others drawn' if mode == 'drop' else 'kept'} (subset.leaks)"
    )
    return clean if mode == "drop" else chosen
