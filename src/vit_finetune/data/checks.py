"""What is wrong with a data set, found before anything is trained on it.

Images are compared by the hash of their pixels as they are kept. Near-copies and wrong labels need
a model.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vit_finetune.data.dataset import Dataset
from vit_finetune.data.image_files import image_type

COLUMNS = ("problem", "part", "class", "file", "detail")
# a class is rare with a tenth of the images of the largest; an image small at half of the side
RARE = 10
SMALL = 2
# a shortcut is right for more than this fraction, and above a half by so many standard errors
SHORTCUT = 0.75
SURE = 3
FEW = 8  # images of a class, which tell nothing of it
STEPS = 4  # in which a size is told from its double
TWO_PARTS = "in two parts"
TWO_CLASSES = "in two classes"
TWICE = "twice in a part"
REMEDIES = {
    TWO_CLASSES: "; those of one part stay under both labels, so remove the wrong one",
    "class of copies": "; is the folder inside itself?",
    "shortcut": "; a model may learn that instead of what the images show",
}


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
    problems = [
        *classes_of_copies(dataset),
        *copies(dataset),
        *shortcuts(dataset),
        *rare_classes(description["counts"]["train"]),
        *small_images(dataset),
    ]
    for file, reason in description["broken"].items():
        problems.append(Problem("unreadable", file=file, detail=reason))
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


def classes_of_copies(dataset: Dataset) -> Iterator[Problem]:
    """For each class all of whose training images are in other classes of that part too, as in an
    archive that holds itself."""
    labels = dataset.labels["train"]
    same = dataset.same["train"]
    pairs = np.unique(np.stack([same, labels]), axis=1)
    classes_of_image = np.bincount(pairs[0])
    in_others = classes_of_image[same] > 1
    for k, name in enumerate(dataset.classes):
        of_class = labels == k
        if of_class.any() and in_others[of_class].all():
            detail = f"all of its {of_class.sum()} images are in other classes too"
            yield Problem("class of copies", "train", name, detail=detail)


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


def shortcuts(dataset: Dataset) -> Iterator[Problem]:
    """For each class that the type, the size or the shape of the files tells from the others, in
    the training part: a model may learn that instead of what the images show.

    The shape counts only where images are padded or squashed, since a crop hides it.
    """
    if not dataset.sizes:
        return
    height, width = dataset.sizes["train"].T
    properties = {
        "type": np.array([image_type(file) for file in dataset.files["train"].tolist()]),
        "size": np.rint(STEPS * np.log2(np.minimum(height, width))),
    }
    if dataset.description["fit"] != "crop":
        properties["shape"] = np.rint(STEPS * np.log2(width / height))
    labels = dataset.labels["train"]
    for k, name in enumerate(dataset.classes):
        is_class = labels == k
        if is_class.sum() < FEW:
            continue
        for what, values in properties.items():
            right, error = told_apart(values, is_class)
            if right > SHORTCUT and right - SURE * error > 0.5:
                detail = (
                    f"the {what} of the file alone tells it from the others: {right:.0%} right, "
                    "50% by chance"
                )
                yield Problem("shortcut", "train", name, detail=detail)


def told_apart(values: NDArray[Any], is_class: NDArray[np.bool_]) -> tuple[float, float]:
    """How well a property of images (N,) tells those of a class from the others: the fraction that
    is right, both sides counting the same, and its standard error.

    Each half of the images, every second one, is told by how frequent its values are in the other
    half.
    """
    value = np.unique(values, return_inverse=True)[1].ravel()
    half = np.zeros(len(values), dtype=np.intp)
    for side in (is_class, ~is_class):
        half[side] = np.arange(side.sum()) % 2
    right = np.zeros(len(values), dtype=bool)
    for h in (0, 1):
        known = half != h
        shares = [
            np.bincount(value[known & side], minlength=value.max() + 1)
            / max(1, (known & side).sum())
            for side in (is_class, ~is_class)
        ]
        said = (shares[0] > shares[1])[value]
        right[half == h] = (said == is_class)[half == h]
    rates = [right[side].mean() for side in (is_class, ~is_class)]
    variances = [
        rate * (1 - rate) / side.sum()
        for rate, side in zip(rates, (is_class, ~is_class), strict=True)
    ]
    return float(np.mean(rates)), float(np.sqrt(np.sum(variances)) / 2)


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
