"""Suspects: images that may have a wrong label, near-copies, and outliers, each a row of
plots/review.csv."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vit_finetune.core.arrays import decode_names, read_split
from vit_finetune.core.files import read_json
from vit_finetune.review import labels, neighbours

PARTS = ("test", "val", "train")  # of two near-copies the one in the later part is listed
WRONG_LABEL = "wrong label"
OTHER_PART = "near-copy in another part"
OTHER_LABEL = "near-copy under another label"
SAME_PART = "near-copy in the same part"
OUTLIER = "outlier"
KINDS = (WRONG_LABEL, OTHER_LABEL, OTHER_PART, SAME_PART, OUTLIER)
COPIES = (OTHER_LABEL, OTHER_PART, SAME_PART)  # the worst first
COLUMNS = (
    "kind",
    "part",
    "file",
    "label",
    "suggestion",
    "score",
    "distance",
    "neighbour",
    "neighbour_label",
    "neighbour_part",
)

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Images:
    """All images of data/subset, one part after the other, N in all.

    Attributes:
        name: of the data set.
        classes: their names.
        pixels: of each part, (N_part, H, W, 3).
        part: the number of the part in PARTS, (N,).
        labels, files, groups: (N,).
        pretrained: features of the images to train on and to validate on, by the pretrained model.
        features: of all images, by the adapted model, (N, D).
    """

    name: str
    classes: Sequence[str]
    pixels: Sequence[NDArray[np.uint8]]
    part: NDArray[np.intp]
    labels: NDArray[np.int64]
    files: NDArray[np.bytes_]
    groups: NDArray[np.int64]
    pretrained: NDArray[np.float32]
    features: NDArray[np.float32]

    @classmethod
    def read(cls, subset: str | Path, pretrained: str | Path, embedded: str | Path) -> "Images":
        """UserError if a file is missing or broken."""
        description = read_json(Path(subset) / "dataset.json")

        def column(folder: str | Path, name: str, parts: Sequence[str] = PARTS) -> NDArray[Any]:
            return np.concatenate([read_split(folder, part, name)[0] for part in parts])

        pixels = [read_split(subset, part, "images")[0] for part in PARTS]
        return cls(
            name=description["name"],
            classes=description["classes"],
            pixels=pixels,
            part=np.repeat(np.arange(len(PARTS)), [len(part) for part in pixels]),
            labels=column(subset, "labels"),
            files=column(subset, "files"),
            groups=column(subset, "groups"),
            pretrained=column(pretrained, "features", PARTS[1:]),
            features=column(embedded, "features"),
        )

    def rows_of(self, part: int) -> range:
        start, stop = np.searchsorted(self.part, [part, part + 1])
        return range(int(start), int(stop))

    @property
    def tested(self) -> int:
        """How many test images there are, which come first."""
        return len(self.pixels[0])

    def file(self, row: int) -> str:
        """Its name, as a person can read it."""
        return decode_names(self.files[row : row + 1])[0]

    def image(self, row: int) -> NDArray[np.uint8]:
        """Its pixels, (H, W, 3)."""
        part = int(self.part[row])
        return np.asarray(self.pixels[part][row - self.rows_of(part).start])


class Suspect(NamedTuple):
    """An image to look at.

    Attributes:
        row: of the image.
        score: of a wrong label its probability; of a near-copy `neighbours.Copies.score`; of an
            outlier the distance.
        suggestion: another class; None where there is none.
        distance: of the features of the neighbour, 1 - cosine.
        neighbour: the row of the near-copy, or of the nearest image to train on.
    """

    kind: str
    row: int
    score: float
    suggestion: int | None
    distance: float
    neighbour: int


class Review(NamedTuple):
    """What was found.

    Attributes:
        suspects: one kind after the other, the highest score first.
        nearest: of every image, among those to train on.
        mirrored: how many near-copies under another label are mirror images.
        not_judged: parts whose labels no classifier could judge.
    """

    suspects: list[Suspect]
    nearest: neighbours.Nearest
    mirrored: int
    not_judged: list[str]


def review(
    images: Images, kept: NDArray[np.bool_], seed: int, wrong_labels: float, copies: float
) -> Review:
    """All suspects.

    Args:
        kept: images (N,) that are not listed.
        wrong_labels: the smallest probability at which a label is listed as wrong.
        copies: the smallest score of near-copies.
    """
    centre = images.features[images.tested :].mean(axis=0)
    vectors = neighbours.directions(images.features, centre)
    nearest = [
        neighbours.nearest_images(vectors, images.rows_of(part), neighbours.NEAREST)
        for part in range(len(PARTS))
    ]
    among_train = nearest[-1]
    small = neighbours.thumbnails(images.pixels)
    trained = slice(images.rows_of(2).start, None)
    typical = neighbours.typical_of(vectors[trained], small[trained], copies)
    pairs = neighbours.find_copies(small, nearest, typical, copies)
    probabilities = true_class_probabilities(images, seed)
    suspects = [
        *wrong_label_suspects(images, among_train, probabilities, wrong_labels),
        *copy_suspects(images, pairs),
        *outlier_suspects(among_train),
    ]
    listed = without_wrong_suggestions([each for each in suspects if not kept[each.row]])
    listed.sort(key=lambda suspect: (KINDS.index(suspect.kind), -suspect.score, suspect.row))
    other_label = images.labels[pairs.first] != images.labels[pairs.second]
    mirrored = int((pairs.mirrored & other_label).sum())
    return Review(listed, among_train, mirrored, parts_not_judged(images, probabilities))


def kept_rows(images: Images, corrections: Sequence[Mapping[str, str]]) -> NDArray[np.bool_]:
    """Images (N,) that the corrections, rows of data/corrections.csv, call right as they are."""
    kept = [
        row["file"] for row in corrections if row["data"] == images.name and row["action"] == "keep"
    ]
    return np.isin(decode_names(images.files), kept)


def parts_not_judged(images: Images, probabilities: NDArray[np.float64]) -> list[str]:
    """The parts of which no label could be judged, see `labels.true_classes`."""
    unknown = np.isnan(probabilities[:, 0])
    return [name for part, name in enumerate(PARTS) if unknown[images.part == part].all()]


def wrong_label_suspects(
    images: Images,
    nearest: neighbours.Nearest,
    probabilities: NDArray[np.float64],
    least: float,
) -> Iterator[Suspect]:
    """Images whose label is wrong with at least this probability.

    Args:
        probabilities: `true_class_probabilities`.
    """
    wrong = 1 - probabilities[np.arange(len(images.labels)), images.labels]
    for row in np.flatnonzero(wrong >= least):
        others = probabilities[row].copy()
        others[images.labels[row]] = -1
        yield Suspect(
            kind=WRONG_LABEL,
            row=int(row),
            score=float(wrong[row]),
            suggestion=int(others.argmax()),
            distance=float(nearest.distance[row, 0]),
            neighbour=int(nearest.rows[row, 0]),
        )


def true_class_probabilities(images: Images, seed: int) -> NDArray[np.float64]:
    """Probability of each true class of every image, given its label: (N, K). NaN as of
    `labels.true_classes`.

    The adapted model was trained with the labels of the images to train on, so these are judged by
    the features of the pretrained one. Validation images are judged with them.
    """
    tested = images.tested
    seen_labels = images.labels[tested:]
    folds = labels.fold_numbers(seen_labels, images.groups[tested:], seed)
    pretrained = labels.unit_features(images.pretrained, images.pretrained)
    seen = labels.judge_seen(pretrained, seen_labels, folds, len(images.classes))
    adapted = labels.unit_features(images.features, images.features[tested:])
    belongs = np.where(np.isnan(seen), np.eye(len(images.classes))[seen_labels], seen)
    unseen = labels.judge_unseen(
        adapted[:tested], images.labels[:tested], adapted[tested:], belongs
    )
    return np.concatenate([unseen, seen])


def copy_suspects(images: Images, pairs: neighbours.Copies) -> Iterator[Suspect]:
    """One image of each pair of near-copies: the one that can go without a change of the test
    images.

    An image has one row: of the worst kind, with the most similar image of that kind. Images of one
    group under one label are expected to be alike, and are not listed.
    """
    same_label = images.labels[pairs.first] == images.labels[pairs.second]
    same_part = images.part[pairs.first] == images.part[pairs.second]
    same_group = images.groups[pairs.first] == images.groups[pairs.second]
    kind = np.where(same_label, np.where(same_part, 2, 1), 0)  # numbers of COPIES
    order = np.lexsort((pairs.first, -pairs.score, kind, pairs.second))
    order = order[~(same_group & same_label)[order]]
    _, first_of_image = np.unique(pairs.second[order], return_index=True)
    for pair in order[first_of_image]:
        other = int(pairs.first[pair])
        yield Suspect(
            kind=COPIES[kind[pair]],
            row=int(pairs.second[pair]),
            score=float(pairs.score[pair]),
            suggestion=None if same_label[pair] else int(images.labels[other]),
            distance=float(pairs.distance[pair]),
            neighbour=other,
        )


def without_wrong_suggestions(suspects: Sequence[Suspect]) -> list[Suspect]:
    """The suspects, none suggesting the label of a near-copy that is listed as wrong itself."""
    wrong = {suspect.row for suspect in suspects if suspect.kind == WRONG_LABEL}
    return [
        suspect._replace(suggestion=None)
        if suspect.kind in COPIES and suspect.neighbour in wrong
        else suspect
        for suspect in suspects
    ]


def outlier_suspects(nearest: neighbours.Nearest) -> Iterator[Suspect]:
    """Images that are far from the images to train on (Sun et al., arXiv:2204.06507)."""
    distance = nearest.distance[:, -1]
    for row in np.flatnonzero(neighbours.is_far(distance)):
        yield Suspect(
            kind=OUTLIER,
            row=int(row),
            score=float(distance[row]),
            suggestion=None,
            distance=float(nearest.distance[row, 0]),
            neighbour=int(nearest.rows[row, 0]),
        )


def table(images: Images, suspects: Sequence[Suspect]) -> Iterator[dict[str, Any]]:
    """The rows of plots/review.csv."""
    for suspect in suspects:
        other = suspect.neighbour
        suggestion = "" if suspect.suggestion is None else images.classes[suspect.suggestion]
        values = (
            suspect.kind,
            PARTS[images.part[suspect.row]],
            images.file(suspect.row),
            images.classes[images.labels[suspect.row]],
            suggestion,
            round(suspect.score, 4),
            round(suspect.distance, 4),
            images.file(other),
            images.classes[images.labels[other]],
            PARTS[images.part[other]],
        )
        yield dict(zip(COLUMNS, values, strict=True))


def metrics(found: Review) -> dict[str, Any]:
    """metrics/review.json; `warning` only if there are labels that could not be judged."""
    kinds = [suspect.kind for suspect in found.suspects]
    numbers: dict[str, Any] = {
        "wrong_labels": kinds.count(WRONG_LABEL),
        "near_copies": sum(kind in COPIES for kind in kinds),
    }
    if found.not_judged:
        numbers["warning"] = not_judged_in_words(found.not_judged)
    return numbers


def not_judged_in_words(parts: Sequence[str]) -> str:
    """That labels of these parts were not judged, and why."""
    return (
        f"no wrong labels are listed in {', '.join(parts)}: a classifier of the features agrees "
        "with fewer than half of the labels, so it cannot tell which are wrong; more images of "
        "each class help"
    )


def in_words(suspects: Sequence[Suspect]) -> str:
    """How many there are of each kind."""
    kinds = [suspect.kind for suspect in suspects]
    numbers = [f"{kind}: {kinds.count(kind):,}" for kind in KINDS if kind in kinds]
    return "; ".join(numbers) if numbers else "nothing to look at"
