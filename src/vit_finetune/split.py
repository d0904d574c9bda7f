"""Stratified subsets by index."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

Indices = NDArray[np.intp]


def stratified(labels: NDArray[Any], size: int, seed: int) -> tuple[Indices, Indices]:
    """Sorted indices (size,) with every class in proportion, and the sorted indices of the rest.

    Raises:
        ValueError: size is less than one per class or more than there is.
    """
    everything = np.arange(len(labels))
    counts = np.unique(labels, return_counts=True)[1]
    classes = len(counts)
    if not classes <= size <= len(labels):
        raise ValueError(f"{size} images asked for; there are {len(labels)} of {classes} classes, one each at least")
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
    train_labels: NDArray[Any],
    test_labels: NDArray[Any],
    *,
    train_size: int | str,
    val_size: int,
    test_size: int | str,
    seed: int,
) -> dict[str, Indices]:
    """Indices of train and val into the training part, disjoint, and of test into the test part.

    `"all"` takes every image: of the training part, all that validation leaves. The validation images depend on
    the seed and their own number alone, so runs with more or fewer training images are compared on the same ones.
    """
    val, pool = stratified(train_labels, val_size, seed)
    train = pool if train_size == "all" else pool[stratified(train_labels[pool], int(train_size), seed)[0]]
    everything = len(test_labels) if test_size == "all" else int(test_size)
    return {"train": train, "val": val, "test": stratified(test_labels, everything, seed)[0]}
