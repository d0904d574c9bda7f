"""Outputs that are whole or absent: everything is written under a temporary name, then renamed."""

import csv
import itertools
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vit_finetune.core.errors import UserError

PARTIAL = ".partial"  # git and DVC ignore names that end so
MANY_BYTES = 10**9  # worth a sentence before they are written


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """A temporary path to write to; it becomes `path` when the block ends, and vanishes when it
    fails."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL)
    partial.unlink(missing_ok=True)  # what a killed run left
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A temporary empty folder to fill; it becomes `path`, replacing it, when the block ends
    without an error."""
    path = Path(path)
    partial = path.with_name(path.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)  # what a killed run left
    partial.mkdir(parents=True)
    try:
        yield partial
        replace_folder(path, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def replace_folder(path: str | Path, new: Path) -> None:
    """Rename the folder `new` to `path`, in place of what is there."""
    path = Path(path)
    old = path.with_name(path.name + ".old" + PARTIAL)
    shutil.rmtree(old, ignore_errors=True)  # what a killed run left
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if path.exists():
            # at once: deleting it in place could be cut short and leave half of it
            path.replace(old)
        new.replace(path)
    finally:
        shutil.rmtree(old, ignore_errors=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    with new_file(path) as partial:
        partial.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: str | Path, values: Mapping[str, Any]) -> None:
    """Indented JSON in the given order; NaN is a bug (ValueError)."""
    write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path) -> dict[str, Any]:
    """What `write_json` wrote; a missing or broken file is a UserError."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run dvc repro") from None
    except ValueError as error:
        raise UserError(f"{path} is not readable ({error}); delete it and run dvc repro") from None


def write_csv(
    path: str | Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str] = ()
) -> None:
    """Rows with the same keys; the header is `columns`, or the keys of the first row in their
    order."""
    rows = iter(rows)
    if not columns:
        first = next(rows)
        columns = list(first)
        rows = itertools.chain([first], rows)
    with new_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: str | Path) -> list[dict[str, str]]:
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def require_disk(folder: Path, size: int) -> str | None:
    """UserError if the disk of a folder has less than `size` bytes left.

    Returns:
        Where they are many, a sentence for the user, who may have to wait for them.
    """
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"{str(folder).removesuffix(PARTIAL)} will take {readable_size(size)}, and the disk "
            f"has {readable_size(free)} left; free some of it, or take fewer or smaller images"
        )
    if size < MANY_BYTES:
        return None
    return f"writes {readable_size(size)}; {readable_size(free)} of the disk are free"


def refuse_link_to_folder(path: Path) -> None:
    """UserError for a link inside a folder that a stage depends on: DVC hashes the files that a
    link to a folder leads to neither here nor in an experiment's copy of the project."""
    if path.is_symlink() and path.is_dir():
        raise UserError(
            f"{path} is a link to a folder: DVC does not follow it, and would not notice when the "
            "files in it change; move or copy the folder here, or make a folder of links to its "
            "files (cp -rs)"
        )


def readable_size(size: int) -> str:
    """A number of bytes in the unit that suits it: `3.1 GB`."""
    units = ("bytes", "kB", "MB", "GB", "TB")
    power = min((len(str(size)) - 1) // 3, len(units) - 1)
    value = size / 1000**power
    digits = 1 if power and value < 100 else 0
    return f"{value:.{digits}f} {units[power]}"
