"""Groups: images of one subject, which stay in one part of the data set."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

FOLDER = "folder"  # value of data.group: the folder below the class


def group_of(file: str, below_class: str, group: str) -> str | None:
    """The name of the group of an image; None if it has none.

    Args:
        file: its path in the data set.
        below_class: the end of that path after the folder of the class.
        group: `folder`, or a regular expression on the path. What its first parentheses match is
            the name; without parentheses, all that it matches.
    """
    if group == FOLDER:
        name, slash, _ = below_class.partition("/")
        return name if slash else None
    match = re.search(group, file)
    if match is None:
        return None
    return match.group(1) if match.re.groups else match.group()


def numbered(keys: dict[str, NDArray[np.bytes_]]) -> dict[str, NDArray[np.int64]]:
    """For each part a number (N,) of each image, from keys (N,): equal numbers are equal keys."""
    together = np.concatenate([*keys.values()])
    numbers = np.unique(together, return_inverse=True)[1].ravel().astype(np.int64)
    ends = np.cumsum([len(part) for part in keys.values()])[:-1]
    return dict(zip(keys, np.split(numbers, ends), strict=True))


def draw_groups(
    labels: NDArray[np.int64], groups: NDArray[np.int64], order: Iterable[int], share: float
) -> NDArray[np.bool_]:
    """A mask (N,) of whole groups that hold about a share of the images of each class.

    The groups are tried in their order. One is drawn if that brings the counts of the classes
    closer to the share. Then each class that is absent gets its first group. Of each class at least
    one group is left.

    Args:
        labels: (N,).
        groups: (N,), equal numbers are one group.
        order: every group once.
    """
    draw = _Draw(labels, groups, share)
    order = list(order)
    for group in order:
        if draw.comes_closer(group) and draw.leaves_every_class(group):
            draw.take(group)
    for group in order:
        if draw.has_absent_class(group) and draw.leaves_every_class(group):
            draw.take(group)
    return np.isin(groups, draw.drawn)


class _Draw:
    """The groups that are drawn so far, and the counts of the classes in them."""

    def __init__(self, labels: NDArray[np.int64], groups: NDArray[np.int64], share: float) -> None:
        classes = int(labels.max()) + 1
        self.drawn: list[int] = []
        self.wanted: Sequence[float] = (share * np.bincount(labels, minlength=classes)).tolist()
        self.taken = [0] * classes
        self.groups_left = [0] * classes
        self.counts: dict[int, dict[int, int]] = {}  # {group: {class: images}}
        pairs, counts = np.unique(groups * classes + labels, return_counts=True)
        for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
            group, label = divmod(pair, classes)
            self.counts.setdefault(group, {})[label] = count
            self.groups_left[label] += 1

    def comes_closer(self, group: int) -> bool:
        change = 0.0
        for label, count in self.counts[group].items():
            missing = self.wanted[label] - self.taken[label]
            change += abs(missing - count) - abs(missing)
        return change < 0

    def leaves_every_class(self, group: int) -> bool:
        return all(self.groups_left[label] > 1 for label in self.counts[group])

    def has_absent_class(self, group: int) -> bool:
        return any(self.taken[label] == 0 for label in self.counts[group])

    def take(self, group: int) -> None:
        self.drawn.append(group)
        for label, count in self.counts[group].items():
            self.taken[label] += count
            self.groups_left[label] -= 1
