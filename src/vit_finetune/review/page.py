"""review.html: each suspect beside its nearest images, and buttons that write corrections."""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from vit_finetune.data.corrections import COLUMNS
from vit_finetune.pages.images import thumbnail
from vit_finetune.pages.render import render
from vit_finetune.review.suspects import (
    COPIES,
    PARTS,
    WRONG_LABEL,
    Images,
    Review,
    Suspect,
    not_judged_in_words,
)

MOST = 150  # suspects of each kind: the page stays below 30 MB
NEIGHBOURS = 3
LARGE = 128  # pixels of the longest side of a suspect
SMALL = 64  # and of a neighbour


class Picture(NamedTuple):
    """An image of the page with its label and part."""

    image: bytes
    alt: str
    label: str
    part: str


class SuspectCard(NamedTuple):
    """A suspect on the page.

    Attributes:
        sentence: why it is listed, and how sure that is.
        suggestion: the class that the page proposes; empty where there is none.
        data: what filters look at.
    """

    picture: Picture
    neighbours: Sequence[Picture]
    sentence: str
    suggestion: str
    data: Mapping[str, str]


def compose(images: Images, review: Review, corrections: Sequence[Mapping[str, str]]) -> str:
    """The page as text.

    Args:
        corrections: the rows of data/corrections.csv; the page saves them with the new ones.
    """
    cards = []
    notes = []
    if review.not_judged:
        reason = not_judged_in_words(review.not_judged)
        notes.append(f"{reason[:1].upper()}{reason[1:]}.")
    for kind, suspects in groupby(review.suspects, key=lambda suspect: suspect.kind):
        of_kind = list(suspects)
        cards += [suspect_card(images, review, suspect) for suspect in of_kind[:MOST]]
        if len(of_kind) > MOST:
            notes.append(
                f"{kind}: the {MOST:,} with the highest score of {len(of_kind):,}; "
                "all are in plots/review.csv."
            )
    further = [column for row in corrections for column in row]  # the user's own
    return render(
        "review/page.html",
        name=images.name,
        classes=images.classes,
        columns=list(dict.fromkeys([*COLUMNS, *further])),
        cards=cards,
        notes=notes,
        corrections=corrections,
    )


def suspect_card(images: Images, review: Review, suspect: Suspect) -> SuspectCard:
    nearest = review.nearest.rows[suspect.row].tolist()
    rows = [suspect.neighbour, *(row for row in nearest if row != suspect.neighbour)]
    suggestion = "" if suspect.suggestion is None else images.classes[suspect.suggestion]
    file = images.file(suspect.row)
    label = images.classes[images.labels[suspect.row]]
    part = PARTS[images.part[suspect.row]]
    return SuspectCard(
        picture=picture(images, suspect.row, LARGE),
        neighbours=[picture(images, row, SMALL) for row in rows[:NEIGHBOURS]],
        sentence=in_words(suspect, label, suggestion, images.file(suspect.neighbour)),
        suggestion=suggestion,
        data={"kind": suspect.kind, "part": part, "label": label, "file": file},
    )


def picture(images: Images, row: int, longest: int) -> Picture:
    label = images.classes[images.labels[row]]
    return Picture(
        image=thumbnail(images.image(row), longest),
        alt=f"{images.file(row)}: {label}",
        label=label,
        part=PARTS[images.part[row]],
    )


def in_words(suspect: Suspect, label: str, suggestion: str, neighbour: str) -> str:
    """Why an image is listed, and how sure that is.

    Args:
        neighbour: the file of its near-copy.
    """
    if suspect.kind == WRONG_LABEL:
        percent = math.floor(1000 * suspect.score) / 10  # nothing but certainty is 100 %
        return f"{label} is wrong with probability {percent:.1f} %. Suggestion: {suggestion}"
    if suspect.kind in COPIES:
        score = math.floor(10_000 * suspect.score) / 10_000  # nothing but a copy has 1
        return f"{suspect.kind.capitalize()}: {neighbour}, score {score:.4f} (a copy has 1)"
    return f"Outlier, distance {suspect.score:.2f} from the images to train on"
