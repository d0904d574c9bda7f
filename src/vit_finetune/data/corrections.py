"""Corrections of labels, written by the user: data/corrections.csv, a row for each image."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vit_finetune.core.arrays import decode_names
from vit_finetune.core.errors import UserError
from vit_finetune.data.tables import normal, read_table

CORRECTIONS = "data/corrections.csv"
COLUMNS = ("data", "file", "action", "label", "note")
ACTIONS = ("keep", "relabel", "drop")


@dataclass(frozen=True)
class Correction:
    """A row of the file.

    Attributes:
        file: the image, by its name as `decode_names` returns it.
        action: `keep` (the image is right as it is), `relabel` or `drop`.
        label: the right class; empty unless the action is `relabel`.
    """

    file: str
    action: str
    label: str


@dataclass(frozen=True)
class Corrections:
    """The rows for one data set, in their order.

    Attributes:
        of_others: number of rows for other data sets.
    """

    rows: list[Correction]
    of_others: int


def read_corrections(
    path: str | Path, data_name: str, classes: Sequence[str], files: Iterable[str]
) -> Corrections:
    """The rows of the file for one data set, checked.

    Args:
        data_name: the data set; rows with another name in the column `data` are only counted.
        classes: names of all classes.
        files: names of all images of the data set, as `decode_names` returns them.

    Raises:
        UserError: the file is missing or no such table, or a row has an unknown action, class or
            file, or a file that an earlier row has; the message names the line.
    """
    rows: dict[str, Correction] = {}
    of_others = 0
    known_files: set[str] | None = None
    for place, row in read_table(path, COLUMNS):
        if row["data"] != data_name:
            of_others += 1
            continue
        if known_files is None:
            known_files = set(files)
        correction = Correction(row["file"], row["action"], normal(row["label"]))
        _check(place, correction, classes)
        if correction.file not in known_files:
            raise UserError(
                f"{place}: the data set {data_name} has no image {correction.file!r}; "
                "write its name as in plots/image_problems.csv, or remove the line"
            )
        if correction.file in rows:
            raise UserError(
                f"{place}: {correction.file!r} is in an earlier line too; remove one of them"
            )
        rows[correction.file] = correction
    return Corrections(list(rows.values()), of_others)


def _check(place: str, row: Correction, classes: Sequence[str]) -> None:
    if row.action not in ACTIONS:
        raise UserError(
            f"{place}: the action is {row.action!r}; it must be {', '.join(ACTIONS[:-1])} or "
            f"{ACTIONS[-1]}"
        )
    if row.action != "relabel":
        if row.label:
            raise UserError(
                f"{place}: the label is {row.label!r} and the action {row.action}; "
                "only relabel has a label"
            )
    elif row.label not in classes:
        close = difflib.get_close_matches(row.label, classes, n=1)
        hint = f"did you mean {close[0]}?" if close else f"classes: {', '.join(classes[:10])}"
        raise UserError(f"{place}: the label {row.label!r} is no class; {hint}")


def correct(
    rows: Sequence[Correction],
    classes: Sequence[str],
    labels: Mapping[str, NDArray[np.int64]],
    files: Mapping[str, NDArray[np.bytes_]],
) -> tuple[dict[str, NDArray[np.int64]], dict[str, NDArray[np.bool_]]]:
    """The corrected labels (N,) of each part, and a mask (N,) of the images to drop.

    Args:
        labels, files: of each part, (N,), as the data came; names as `encode_names` returns them.
    """
    by_file = {row.file: row for row in rows}
    corrected = {}
    dropped = {}
    for part in labels:
        corrected[part] = np.array(labels[part])
        dropped[part] = np.zeros(len(labels[part]), dtype=bool)
        if not by_file:
            continue
        for index, file in enumerate(decode_names(files[part])):
            row = by_file.get(file)
            if row is None:
                continue
            if row.action == "relabel":
                corrected[part][index] = classes.index(row.label)
            dropped[part][index] = row.action == "drop"
    return corrected, dropped
