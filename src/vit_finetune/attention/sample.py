"""Which test images are judged, mixed into mosaics, and shown."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vit_finetune.attention.pointing import mosaics
from vit_finetune.core.arrays import one_of_each, read_split
from vit_finetune.core.errors import UserError
from vit_finetune.core.files import read_csv
from vit_finetune.intervals import above_chance

Preprocess = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class PredictedImages:
    """Images (N, H, W, 3) uint8 with their labels, groups, the predicted classes and their
    probabilities, (N,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]
    files: list[str]
    # without bars: top, left, bottom, right in pixels, (N, 4)
    content: NDArray[np.int32] | None = None

    @property
    def above_chance(self) -> bool:
        """Whether the model is right clearly more often than by chance."""
        return above_chance(self.labels, self.predicted, self.groups)

    def take(self, rows: NDArray[np.intp]) -> "PredictedImages":
        files = [self.files[row] for row in rows]
        content = None if self.content is None else self.content[rows]
        return PredictedImages(
            np.array(self.images[rows]),
            self.labels[rows],
            self.groups[rows],
            self.predicted[rows],
            self.confidence[rows],
            files,
            content,
        )


def read_predicted_images(subset: str, predictions: str, classes: Sequence[str]) -> PredictedImages:
    """From the subset's folder and the table of predictions (UserError if a file is missing or
    damaged)."""
    images, labels, groups = read_split(subset, "test", "images", "labels", "groups")
    rows = read_csv(predictions)
    predicted = np.array([classes.index(row["predicted"]) for row in rows])
    content = (
        read_split(subset, "test", "content")[0]
        if (Path(subset) / "test_content.npy").is_file()
        else None
    )
    confidence = np.array([float(row["confidence"]) for row in rows])
    files = [row["file"] for row in rows]
    return PredictedImages(
        images, np.array(labels), np.array(groups), predicted, confidence, files, content
    )


@dataclass(frozen=True)
class Sample:
    """Images on which the maps are judged: `pixels` (B, 3, h, w) as the model takes them, the rest
    (B,)."""

    rows: NDArray[np.intp]
    pixels: Tensor
    predicted: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Mosaics:
    """Mosaics of side x side images (M, 3, h, w) as the model takes them, the class that each is
    asked for and its cell, (M,)."""

    pixels: Tensor
    classes: Tensor
    cells: Tensor
    side: int


@dataclass(frozen=True)
class Trial:
    """What maps are judged on: images, mosaics of 2 x 2 and of 3 x 3 images, and whether the
    accuracy of the model is above chance."""

    sample: Sample
    mosaics: Mosaics
    mosaics_3x3: Mosaics
    above_chance: bool


def draw_sample(
    test: PredictedImages, preprocess: Preprocess, count: int, rng: np.random.Generator
) -> Sample:
    """`count` test images at random, or all if there are fewer, in the order of the test part. One
    of each group, so that they are independent.

    Raises:
        UserError: there is one group alone.
    """
    independent = one_of_each(test.groups, rng)
    if len(independent) < 2:
        raise UserError(
            "all test images are of one group (data.group), and maps are judged on at least two "
            "independent images; put images of other groups into the test part"
        )
    rows = np.sort(rng.choice(independent, min(count, len(independent)), replace=False))
    drawn = test.take(rows)
    predicted = torch.from_numpy(drawn.predicted)
    labels = torch.from_numpy(drawn.labels)
    return Sample(rows, preprocess(torch.from_numpy(drawn.images)), predicted, labels)


def draw_mosaics(
    test: PredictedImages,
    preprocess: Preprocess,
    count: int,
    rng: np.random.Generator,
    side: int = 2,
) -> Mosaics:
    """`count` mosaics of side x side classes, each with the class that it is asked for. Of each
    group, one image of each class may be in them.

    Raises:
        UserError: all images are of one class.
    """
    groups_of_classes = test.groups * (test.labels.max() + 1) + test.labels
    independent = one_of_each(groups_of_classes, rng)
    if len(np.unique(test.labels)) < 2:
        raise UserError(
            "all test images are of one class, and a mosaic needs images of two; put images of "
            "other classes into the test part"
        )
    tiles, sources, cells = mosaics(test.images, test.labels, independent, count, rng, side)
    classes = test.labels[sources[np.arange(count), cells]]
    return Mosaics(
        preprocess(torch.from_numpy(tiles)),
        torch.from_numpy(classes),
        torch.from_numpy(cells),
        side,
    )


def draw_for_classes(
    predicted: NDArray[np.int64], taken: NDArray[np.intp], each: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """Rows of further test images, so that each predicted class has `each` with those `taken`, as
    far as there are any.

    As many as are taken at most; classes with the fewest come first.
    """
    rows = []
    levels = []
    free = np.ones(len(predicted), dtype=bool)
    free[taken] = False
    for k in np.unique(predicted):
        has = int((predicted[taken] == k).sum())
        rows.append(rng.permutation(np.flatnonzero(free & (predicted == k)))[: max(0, each - has)])
        levels.append(has + np.arange(len(rows[-1])))
    order = np.argsort(np.concatenate(levels), kind="stable")[: len(taken)]
    return np.sort(np.concatenate(rows)[order])


def choose_gallery(test: PredictedImages, count: int) -> NDArray[np.intp]:
    """Rows of up to `count` images: the most confident mistakes, then the least confident right
    predictions. Half are mistakes if there are so many of both."""
    right = test.predicted == test.labels
    count = min(count, len(right))
    by_confidence = np.argsort(test.confidence, kind="stable")
    mistakes = [row for row in by_confidence[::-1] if not right[row]]
    near_misses = [row for row in by_confidence if right[row]]
    wrong = min(len(mistakes), max(count // 2, count - len(near_misses)))
    return np.array([*mistakes[:wrong], *near_misses[: count - wrong]], dtype=np.intp)
