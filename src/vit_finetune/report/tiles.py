"""The small images of the report, in groups: mistakes, confused classes, suspects, samples."""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vit_finetune.core.arrays import decode_names, read_split
from vit_finetune.pages.images import thumbnail

LONGEST_SIDE = 160  # pixels
PAIRS = 6  # of classes that are mixed up
OF_A_GROUP = 6  # images
SAMPLES = 20  # images of all classes together, but at least one of each
MAP_PAGE = "attention/index.html"

Row = Mapping[str, Any]
Pixels = NDArray[np.uint8]


class Tile(NamedTuple):
    """An image with what is written below it.

    Attributes:
        lines: the first one stands out.
        file: where the image came from.
        link: to the maps of this image; empty without any.
    """

    image: bytes
    lines: Sequence[str]
    file: str
    link: str = ""

    @property
    def alt(self) -> str:
        return f"{self.file}: {', '.join(self.lines)}"


class Group(NamedTuple):
    """Tiles under a title; `paired` keeps two and two beside each other."""

    title: str
    tiles: Sequence[Tile]
    paired: bool = False


def mistakes(
    predictions: Sequence[Row], images: Pixels, gallery: Sequence[int], count: int
) -> Group:
    """The wrong predictions with the highest confidence.

    Args:
        predictions: rows of plots/predictions.csv, in the order of `images`, (N, H, W, 3).
        gallery: the rows of these that the page of attention shows, in its order.
    """
    wrong = [row for row, one in enumerate(predictions) if one["actual"] != one["predicted"]]
    wrong.sort(key=lambda row: -float(predictions[row]["confidence"]))
    tiles = []
    for row in wrong[:count]:
        prediction = predictions[row]
        lines = [in_percent(prediction), f"is {prediction['actual']}"]
        link = f"{MAP_PAGE}#image={gallery.index(row)}" if row in gallery else ""
        image = thumbnail(images[row], LONGEST_SIDE)
        tiles.append(Tile(image, lines, prediction["file"], link))
    return Group("The most confident mistakes: predicted class, its probability, true class", tiles)


def in_percent(prediction: Row) -> str:
    """The predicted class and its probability, rounded down: nothing but certainty is 100 %."""
    tenths = int(1000 * float(prediction["confidence"]))
    return f"{prediction['predicted']} {tenths / 10:.1f} %"


def confused_pairs(predictions: Sequence[Row], images: Pixels) -> list[Group]:
    """The pairs of classes that are mixed up most often, each with its first images."""
    rows: dict[tuple[str, str], list[int]] = {}
    of_class = Counter(prediction["actual"] for prediction in predictions)
    for row, prediction in enumerate(predictions):
        pair = prediction["actual"], prediction["predicted"]
        if pair[0] != pair[1]:
            rows.setdefault(pair, []).append(row)
    groups = []
    for actual, predicted in sorted(rows, key=lambda pair: (-len(rows[pair]), pair))[:PAIRS]:
        found = rows[actual, predicted]
        tiles = []
        for row in found[:OF_A_GROUP]:
            prediction = predictions[row]
            image = thumbnail(images[row], LONGEST_SIDE)
            tiles.append(Tile(image, [in_percent(prediction)], prediction["file"]))
        share = len(found) / of_class[actual]
        title = f"{actual} taken for {predicted}: {len(found):,}, {share:.1%} of {actual}"
        groups.append(Group(title, tiles))
    return groups


def suspects(rows: Sequence[Row], subset: str | Path) -> list[Group]:
    """For each kind the suspects with the highest scores, each before its nearest image.

    Args:
        rows: of plots/review.csv, those of a kind together.
        subset: the folder data/subset.
    """
    shown: dict[str, list[tuple[str, str, str]]] = {}  # title -> part, file and label of each image
    for kind, of_kind in groupby(rows, key=lambda row: row["kind"]):
        found = list(of_kind)
        places = []
        for row in found[: OF_A_GROUP // 2]:
            places.append((row["part"], row["file"], row["label"]))
            places.append((row["neighbour_part"], row["neighbour"], row["neighbour_label"]))
        shown[f"{kind}: {len(found):,}, each before its nearest image"] = places
    images = images_of(subset, {place[:2] for places in shown.values() for place in places})
    groups = []
    for title, places in shown.items():
        tiles = [Tile(images[part, file], [label, part], file) for part, file, label in places]
        groups.append(Group(title, tiles, paired=True))
    return groups


def images_of(subset: str | Path, wanted: Set[tuple[str, str]]) -> dict[tuple[str, str], bytes]:
    """Thumbnails of images that are named by part and file."""
    found = {}
    for part in sorted({part for part, _ in wanted}):
        pixels, files = read_split(subset, part, "images", "files")
        for row, file in enumerate(decode_names(files)):
            if (part, file) in wanted:
                found[part, file] = thumbnail(pixels[row], LONGEST_SIDE)
    return found


def samples(
    images: Pixels, labels: NDArray[np.int64], files: Sequence[str], classes: Sequence[str]
) -> Group:
    """The first images of each class."""
    each = max(1, SAMPLES // len(classes))
    tiles = []
    for label, name in enumerate(classes):
        for row in np.flatnonzero(labels == label)[:each].tolist():
            image = thumbnail(images[row], LONGEST_SIDE)
            tiles.append(Tile(image, [name], files[row]))
    return Group("Some of the training images", tiles)
