"""What is wrong with a data set, found before anything is trained on it.

Images are compared by the hash of their pixels as they are kept. Near-duplicates and wrong labels
need a model.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_finetune.core.arrays import decode_names, read_split
from vit_finetune.core.files import read_json
from vit_finetune.data.image_files import content_boxes

COLUMNS = ("problem", "part", "class", "file", "detail")
# a class is rare with a tenth of the images of the largest; an image small at half of the side
RARE, SMALL = 10, 2
STAYS = {"in two classes": "; those of one part stay under both labels, so remove the wrong one"}
Row = dict[str, str]


@dataclass(frozen=True)
class RawData:
    """What `download` kept of each part, besides the pixels.

    Attributes:
        description: dataset.json.
        labels, files: of each part, (N,).
        same: a number for each image (N,); equal numbers, in one part or in two, are equal pixels.
        sizes: height and width of each file's image, (N, 2); empty where the images were no files.
    """

    description: Mapping[str, Any]
    labels: dict[str, NDArray[np.int64]]
    files: dict[str, NDArray[np.bytes_]]
    same: dict[str, NDArray[np.intp]]
    sizes: dict[str, NDArray[np.int32]]

    @classmethod
    def read(cls, folder: str | Path) -> "RawData":
        description = read_json(Path(folder) / "dataset.json")
        parts = list(description["counts"])
        labels, files, hashes = (
            {part: read_split(folder, part, name)[0] for part in parts}
            for name in ("labels", "files", "hashes")
        )
        sized = parts if description["name"] == "folder" else []
        sizes = {part: read_split(folder, part, "sizes")[0] for part in sized}
        return cls(description, labels, files, same_pixels(hashes), sizes)

    @property
    def padded(self) -> bool:
        """Whether bars of grey were added to the images."""
        return bool(self.sizes) and self.description["fit"] == "pad"

    def content(self, part: str) -> NDArray[np.int32]:
        """Where the image lies between its bars: top, left, bottom and right in kept pixels, (N,
        4)."""
        height, width = self.description["image_shape"][:2]
        return content_boxes(self.sizes[part], (height, width), self.description["fit"])

    def row(self, problem: str, part: str, index: int, detail: str) -> Row:
        """A row of the table of problems, for one image."""
        name = self.description["classes"][self.labels[part][index]]
        return dict(
            zip(COLUMNS, (problem, part, name, self.file(part, index), detail), strict=True)
        )

    def file(self, part: str, index: int) -> str:
        return decode_names(self.files[part][index : index + 1])[0]


@dataclass
class Tally:
    """How many rows of each problem there are, and the first of each."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, Row] = field(default_factory=dict)

    def of(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows as they are, counted."""
        for row in rows:
            self.counts[row["problem"]] = self.counts.get(row["problem"], 0) + 1
            self.first.setdefault(row["problem"], row)
            yield row

    def in_words(self, table: str) -> Iterator[str]:
        """A line for each kind of problem: how many, the first of them, and where all are."""
        for problem, row in self.first.items():
            first = " ".join(filter(None, [row["part"], row["file"] or row["class"]]))
            detail = f" ({row['detail']})" if row["detail"] else ""
            said = f"{problem}: {self.counts[problem]}, the first: {first}{detail}{STAYS.get(problem, '')}"
            yield f"{said}; all in {table}"


def same_pixels(hashes: Mapping[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.intp]]:
    """For each part a number (N,) of each image, from hashes (N, 16): equal numbers are equal
    pixels."""
    together = np.concatenate([*hashes.values()]).view("<u8")
    numbers = np.unique(together, axis=0, return_inverse=True)[1].ravel()
    ends = np.cumsum([len(part) for part in hashes.values()])[:-1]
    return dict(zip(hashes, np.split(numbers, ends), strict=True))


def problems(raw: RawData) -> Iterator[Row]:
    """A row for each image, class or file with which something is wrong."""
    yield from copies(raw)
    yield from rare_classes(raw.description["counts"]["train"])
    yield from small_images(raw)
    for entry in raw.description["broken"]:
        file, _, reason = entry.partition(" (")
        yield dict(
            zip(COLUMNS, ("unreadable", "", "", file, reason.removesuffix(")")), strict=True)
        )
    for file in raw.description["ignored"]:
        yield dict(zip(COLUMNS, ("no image of a class", "", "", file, ""), strict=True))


def copies(raw: RawData) -> Iterator[Row]:
    """A row for each image that is in two parts, in two classes, or twice in a part; `detail` is
    the other one."""
    together = np.concatenate([*raw.same.values()])
    often = np.bincount(together) > 1
    groups: dict[int, list[tuple[str, int]]] = {}
    for part, numbers in raw.same.items():
        for index in np.flatnonzero(often[numbers]).tolist():
            groups.setdefault(int(numbers[index]), []).append((part, index))
    for images in groups.values():
        for part, index in images:
            others = [other for other in images if other != (part, index)]
            label = raw.labels[part][index]
            kinds = {
                "in two parts": [(p, i) for p, i in others if p != part],
                "in two classes": [(p, i) for p, i in others if raw.labels[p][i] != label],
                "twice in a part": [(p, i) for p, i in others if p == part],
            }
            for problem, found in kinds.items():
                if found:
                    (of_part, other), same = (
                        found[0],
                        "" if found[0][0] == part else f"{found[0][0]} ",
                    )
                    yield raw.row(problem, part, index, f"{same}{raw.file(of_part, other)}")


def rare_classes(counts: Mapping[str, int]) -> Iterator[Row]:
    """A row for each class of the training part that has less than a tenth of the images of the
    largest."""
    most = max(counts.values())
    for name, count in counts.items():
        if count * RARE < most:
            detail = f"{count} images, the largest class has {most}"
            yield dict(zip(COLUMNS, ("rare class", "train", name, "", detail), strict=True))


def small_images(raw: RawData) -> Iterator[Row]:
    """A row for each image whose shorter side was less than half of the side to which it was
    enlarged."""
    for part, sizes in raw.sizes.items():
        for index in np.flatnonzero(
            sizes.min(axis=1) * SMALL < raw.description["image_shape"][0]
        ).tolist():
            height, width = sizes[index]
            yield raw.row("small image", part, index, f"{width} x {height} pixels")
