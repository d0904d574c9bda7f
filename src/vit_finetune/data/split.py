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
    """Sorted indices (size,) with every class, as far as that allows in proportion, and those of the rest.

    Args:
        keep: whether the rest must have every class too that has two images, as far as it has room.

    Raises:
        UserError: size is less than one per class or more than there is; names the key it came from.
    """
    everything = np.arange(len(labels))
    counts = np.unique(labels, return_counts=True)[1]
    classes = len(counts)
    if not classes <= size <= len(labels):
        raise UserError(
            f"{key} is {size}: there are {len(labels)} images to take from, of {classes} classes; use {classes} to "
            f"{len(labels)}"
        )
    if size > len(labels) - classes or counts.min() < 2:  # scikit-learn wants every class on both sides
        rng = np.random.default_rng(seed)
        shuffled = rng.permutation(len(labels))
        by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
        evenly = (np.arange(size) * len(labels) + rng.integers(len(labels))) // size  # so each class has its share
        chosen = by_class[evenly]
    else:
        chosen = train_test_split(everything, train_size=size, stratify=labels, random_state=seed)[0]
    inside = _with_every_class(labels, np.isin(everything, chosen), seed)
    if keep:
        inside = ~_with_every_class(labels, ~inside, seed, least=2)
    return np.flatnonzero(inside), np.flatnonzero(~inside)


def _with_every_class(labels: NDArray[Any], inside: NDArray[np.bool_], seed: int, least: int = 1) -> NDArray[np.bool_]:
    """A mask (N,) with as many images and every class that has `least`: of one that is absent an image comes in, and
    of the one that has most beyond its share, and keeps another, an image goes out."""
    names, label, there = np.unique(labels, return_inverse=True, return_counts=True)
    inside, rng, share = inside.copy(), np.random.default_rng(seed), there * inside.mean()
    for absent in np.setdiff1d(np.flatnonzero(there >= least), label[inside]):
        count = np.bincount(label[inside], minlength=len(names))
        if count.max(initial=0) < 2:
            break
        most = np.argmax(np.where(count > 1, count - share, -np.inf))
        goes, comes = (rng.choice(np.flatnonzero(of)) for of in (inside & (label == most), label == absent))
        inside[goes], inside[comes] = False, True
    return inside


def train_val_test(
    labels: Mapping[str, NDArray[Any]], *, train_size: int | str, val_size: int | str, test_size: int | str, seed: int
) -> dict[str, Indices]:
    """Indices of train, val and test, each into its own part, or of val into the training part, disjoint from train.

    `"all"` takes every image: of the training part, all that validation leaves. Without a part of its own the
    validation images depend on the seed and their number alone, so runs with more or fewer training images are
    compared on the same ones.

    Args:
        labels: of the parts `train` and `test`, and of `val` where the data set has it.

    Raises:
        UserError: a size is out of range, or `all` validation images of a data set that has none of its own.
    """

    def take(part: str, of: NDArray[Any], size: int | str, *, keep: bool = False) -> tuple[Indices, Indices]:
        return stratified(of, len(of) if size == "all" else int(size), seed, f"subset.{part}_size", keep=keep)

    if "val" in labels:
        val, pool = take("val", labels["val"], val_size)[0], np.arange(len(labels["train"]))
    elif val_size == "all":
        raise UserError("subset.val_size is all: the data set has no validation images of its own, use a number")
    else:
        val, pool = take("val", labels["train"], val_size, keep=True)
        if not len(pool):
            raise UserError(f"subset.val_size is {val_size}: no image is left to train on, use less")
    train = pool[take("train", labels["train"][pool], train_size)[0]]
    return {"train": train, "val": val, "test": take("test", labels["test"], test_size)[0]}


def require_every_class(split: str, labels: NDArray[Any], classes: Sequence[str], part: NDArray[Any]) -> None:
    """UserError unless a split has an image of every class.

    Args:
        part: the labels among which the split was drawn.
    """
    there = np.bincount(part, minlength=len(classes))
    if absent := [f"{name} ({there[k]} to take from)" for k, name in enumerate(classes) if k not in labels]:
        raise UserError(
            f"no image of {', '.join(absent)} is in {split}, and each class needs one in train, val and test: add "
            "images of it, remove the class, or take fewer for validation (subset.val_size)"
        )
