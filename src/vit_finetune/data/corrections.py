"""Corrections of labels, written by the user: data/corrections.csv, a row for each image."""

import csv
import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vit_finetune.core.errors import UserError

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
    for place, row in _read_rows(path):
        if row["data"] != data_name:
            of_others += 1
            continue
        if known_files is None:
            known_files = set(files)
        correction = Correction(row["file"], row["action"], row["label"])
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


def _read_rows(path: str | Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Each row with its place in the file, in words."""
    header = ",".join(COLUMNS)
    try:
        # spreadsheets put a byte order mark before the header
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            if tuple(next(reader, ())) != COLUMNS:
                raise UserError(f"the first line of {path} is not {header}; restore it")
            for values in reader:
                if not values:
                    continue
                place = f"{path}, line {reader.line_num}"
                if len(values) != len(COLUMNS):
                    raise UserError(
                        f"{place} has {len(values)} values; there must be {len(COLUMNS)}: "
                        f'{header} (a value with a comma is written in "")'
                    )
                yield place, dict(zip(COLUMNS, values, strict=True))
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing; restore it, or write a file with the line {header}"
        ) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no CSV file in UTF-8 ({error}); save it as that") from None


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
