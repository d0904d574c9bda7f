"""Stratified subsets by index."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from vit_finetune.core.errors import UserError

Indices = NDArray[np.intp]


def stratified(labels: NDArray[Any], size: int, seed: int, key: str = "size") -> tuple[Indices, Indices]:
    """Sorted indices (size,) with every class in proportion, and the sorted indices of the rest.

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
        chosen = np.sort(by_class[evenly])
        return chosen, np.delete(everything, chosen)
    chosen, rest = train_test_split(everything, train_size=size, stratify=labels, random_state=seed)
    return np.sort(chosen), np.sort(rest)


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

    def take(part: str, of: NDArray[Any], size: int | str) -> tuple[Indices, Indices]:
        return stratified(of, len(of) if size == "all" else int(size), seed, f"subset.{part}_size")

    if "val" in labels:
        val, pool = take("val", labels["val"], val_size)[0], np.arange(len(labels["train"]))
    elif val_size == "all":
        raise UserError("subset.val_size is all: the data set has no validation images of its own, use a number")
    else:
        val, pool = take("val", labels["train"], val_size)
        if not len(pool):
            raise UserError(f"subset.val_size is {val_size}: no image is left to train on, use less")
    train = pool[take("train", labels["train"][pool], train_size)[0]]
    return {"train": train, "val": val, "test": take("test", labels["test"], test_size)[0]}


def require_every_class(split: str, labels: NDArray[Any], classes: Sequence[str]) -> None:
    """UserError unless a split has an image of every class."""
    if absent := [name for k, name in enumerate(classes) if k not in labels]:
        raise UserError(
            f"subset.{split}_size is {len(labels)}: no image of {', '.join(absent)} is among them; use more"
        )
