"""What is wrong with a data set, found before anything is trained on it.

Images are compared by the hash of their pixels as they are kept. Near-duplicates and wrong labels need a model.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

COLUMNS = ("problem", "part", "class", "file", "detail")
RARE, SMALL = 10, 2  # a class is rare with a tenth of the images of the largest; an image small at half of the side
Row = dict[str, Any]


def same_pixels(hashes: Mapping[str, NDArray[np.uint64]]) -> dict[str, NDArray[np.intp]]:
    """For each part a number (N,) of each image: equal numbers, in one part or in two, are equal pixels."""
    together = np.concatenate([*hashes.values()])
    numbers = np.unique(together, axis=0, return_inverse=True)[1].ravel()
    ends = np.cumsum([len(part) for part in hashes.values()])[:-1]
    return dict(zip(hashes, np.split(numbers, ends), strict=True))


def copies(
    same: Mapping[str, NDArray[Any]],
    labels: Mapping[str, NDArray[Any]],
    files: Mapping[str, Sequence[str]],
    classes: Sequence[str],
) -> Iterator[Row]:
    """A row for each image that is in two parts, in two classes, or twice in a part; `detail` is the other file."""
    together = np.concatenate([*same.values()])
    where = [(part, row) for part, numbers in same.items() for row in range(len(numbers))]
    order = np.argsort(together, kind="stable")
    starts = np.flatnonzero(np.diff(together[order], prepend=-1))
    for group in np.split(order, starts[1:]):
        images = [where[index] for index in group] if len(group) > 1 else []
        for part, row in images:
            label = labels[part][row]
            others = [(p, r) for p, r in images if (p, r) != (part, row)]
            kinds = {
                "in two parts": [other for other in others if other[0] != part],
                "in two classes": [(p, r) for p, r in others if labels[p][r] != label],
                "twice in a part": [other for other in others if other[0] == part],
            }
            for problem, found in kinds.items():
                if found:
                    other, index = found[0]
                    yield _row(problem, part, classes[int(label)], files[part][row], files[other][int(index)])


def rare_classes(counts: Mapping[str, Mapping[str, int]]) -> Iterator[Row]:
    """A row for each class of the training part that has less than a tenth of the images of the largest."""
    most = max(counts["train"].values())
    for name, count in counts["train"].items():
        if count * RARE < most:
            yield _row("rare class", "train", name, "", f"{count} images, the largest class has {most}")


def small_images(
    sizes: Mapping[str, NDArray[Any]],
    labels: Mapping[str, NDArray[Any]],
    files: Mapping[str, Sequence[str]],
    classes: Sequence[str],
    side: int,
) -> Iterator[Row]:
    """A row for each image whose shorter side was less than half of the `side` to which it was enlarged."""
    for part, found in sizes.items():
        for row in np.flatnonzero(found.min(axis=1, initial=side) * SMALL < side):
            height, width = found[row]
            yield _row(
                "small image",
                part,
                classes[int(labels[part][row])],
                files[part][int(row)],
                f"{width} x {height} pixels",
            )


def left_out(broken: Sequence[str], ignored: Sequence[str]) -> Iterator[Row]:
    """A row for each file that is in no part."""
    for entry in broken:
        file, _, reason = entry.partition(" (")
        yield _row("unreadable", "", "", file, reason.removesuffix(")"))
    for file in ignored:
        yield _row("no image of a class", "", "", file, "")


def in_words(rows: Sequence[Row], table: str) -> list[str]:
    """A line for each kind of problem: how many, the first of them, and where all are."""
    lines = []
    for problem in dict.fromkeys(row["problem"] for row in rows):
        found = [row for row in rows if row["problem"] == problem]
        first = " ".join(filter(None, [found[0]["part"], found[0]["file"] or found[0]["class"]]))
        detail = f" ({found[0]['detail']})" if found[0]["detail"] else ""
        lines.append(f"{problem}: {len(found)}, the first {first}{detail}; all in {table}")
    return lines


def _row(*values: str) -> Row:
    return dict(zip(COLUMNS, values, strict=True))
