"""What is wrong with a data set, found before anything is trained on it.

Images are compared by the hash of their pixels as they are kept. Near-copies and wrong labels need
a model.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vit_finetune.data.dataset import Dataset

COLUMNS = ("problem", "part", "class", "file", "detail")
# a class is rare with a tenth of the images of the largest; an image small at half of the side
RARE, SMALL = 10, 2
TWO_PARTS = "in two parts"
TWO_CLASSES = "in two classes"
TWICE = "twice in a part"
REMEDIES = {TWO_CLASSES: "; those of one part stay under both labels, so remove the wrong one"}


class Problem(NamedTuple):
    """Something that is wrong with an image, a class or a file: a row of the table of problems.

    Attributes:
        part, class_name, file: where; empty if it does not apply.
        detail: the other file of a copy, a size, a reason.
    """

    problem: str
    part: str = ""
    class_name: str = ""
    file: str = ""
    detail: str = ""

    def row(self) -> dict[str, str]:
        return dict(zip(COLUMNS, self, strict=True))


class Place(NamedTuple):
    """An image of a data set."""

    part: str
    row: int


def find_problems(dataset: Dataset) -> list[Problem]:
    """All problems, those of a kind together."""
    description = dataset.description
    problems = [*copies(dataset), *rare_classes(description["counts"]["train"])]
    problems += small_images(dataset)
    for entry in description["broken"]:
        file, _, reason = entry.partition(" (")
        problems.append(Problem("unreadable", file=file, detail=reason.removesuffix(")")))
    for file in description["ignored"]:
        problems.append(Problem("no image of a class", file=file))
    return problems


def in_words(problems: Iterable[Problem], table: str) -> Iterator[str]:
    """A line for each kind of problem: how many, the first of them, and where all are."""
    by_kind: dict[str, list[Problem]] = {}
    for problem in problems:
        by_kind.setdefault(problem.problem, []).append(problem)
    for kind, found in by_kind.items():
        first = found[0]
        place = " ".join(filter(None, [first.part, first.file or first.class_name]))
        detail = f" ({first.detail})" if first.detail else ""
        remedy = REMEDIES.get(kind, "")
        yield f"{kind}: {len(found)}, the first: {place}{detail}{remedy}; all in {table}"


def copies(dataset: Dataset) -> Iterator[Problem]:
    """For each image that is in two parts, in two classes, or twice in a part; `detail` is the
    other one."""
    for equal in _equal_images(dataset):
        for place in equal:
            others = [other for other in equal if other != place]
            yield from _problems_of_copy(dataset, place, others)


def _equal_images(dataset: Dataset) -> list[list[Place]]:
    """The images of each set of equal pixels that has more than one."""
    together = np.concatenate([*dataset.same.values()])
    often = np.bincount(together) > 1
    sets: dict[int, list[Place]] = {}
    for part, numbers in dataset.same.items():
        for row in np.flatnonzero(often[numbers]).tolist():
            sets.setdefault(int(numbers[row]), []).append(Place(part, row))
    return list(sets.values())


def _problems_of_copy(dataset: Dataset, place: Place, others: Sequence[Place]) -> Iterator[Problem]:
    def label(of: Place) -> int:
        return int(dataset.labels[of.part][of.row])

    kinds = {
        TWO_PARTS: [other for other in others if other.part != place.part],
        TWO_CLASSES: [other for other in others if label(other) != label(place)],
        TWICE: [other for other in others if other.part == place.part],
    }
    for kind, found in kinds.items():
        if found:
            first = found[0]
            of_part = "" if first.part == place.part else f"{first.part} "
            yield _of_image(kind, dataset, place, f"{of_part}{dataset.file(*first)}")


def rare_classes(counts: Mapping[str, int]) -> Iterator[Problem]:
    """For each class of the training part that has less than a tenth of the images of the
    largest."""
    most = max(counts.values())
    for name, count in counts.items():
        if count * RARE < most:
            detail = f"{count} images, the largest class has {most}"
            yield Problem("rare class", "train", name, detail=detail)


def small_images(dataset: Dataset) -> Iterator[Problem]:
    """For each image whose shorter side was less than half of the side to which it was enlarged."""
    side = dataset.description["image_shape"][0]
    for part, sizes in dataset.sizes.items():
        for row in np.flatnonzero(sizes.min(axis=1) * SMALL < side).tolist():
            height, width = sizes[row]
            place = Place(part, row)
            yield _of_image("small image", dataset, place, f"{width} x {height} pixels")


def _of_image(kind: str, dataset: Dataset, place: Place, detail: str) -> Problem:
    class_name = dataset.classes[dataset.labels[place.part][place.row]]
    return Problem(kind, place.part, class_name, dataset.file(*place), detail)
