"""Outputs that are whole or absent: everything is written under a temporary name, then renamed."""

import csv
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_finetune.core.errors import UserError

PARTIAL = ".partial"  # git and DVC ignore names that end so
CHUNK = 2**20  # bytes of an array that are in memory at a time
WORTH_SAYING = 10**9  # bytes that a stage writes


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
        columns, rows = list(first), itertools.chain([first], rows)
    with new_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: str | Path) -> list[dict[str, str]]:
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_split(folder: Path, split: str, **arrays: NDArray[Any]) -> None:
    """`<folder>/<split>_<name>.npy` for each array."""
    for name, array in arrays.items():
        path = folder / f"{split}_{name}.npy"
        try:
            np.save(path, array, allow_pickle=False)
        except OSError as error:  # numpy's own words on a full disk: "96 requested and 32 written"
            raise UserError(f"{path} could not be written ({error}); is the disk full?") from None


@contextmanager
def new_rows(
    path: Path, shape: Sequence[int], dtype: Any
) -> Iterator[Callable[[NDArray[Any]], None]]:
    """A function that appends rows (n, *shape) to a new .npy file; the bytes are those of
    `np.save`.

    Rows that are written need no memory, and their number need not be known before.
    """
    count = 0
    try:
        with path.open("wb") as file:

            def write_header() -> None:
                header = {
                    "descr": np.dtype(dtype).str,
                    "fortran_order": False,
                    "shape": (count, *shape),
                }
                np.lib.format.write_array_header_1_0(file, header)  # has room for any count of rows

            def append(rows: NDArray[Any]) -> None:
                nonlocal count
                file.write(np.ascontiguousarray(rows, dtype=dtype).data)
                count += len(rows)

            write_header()
            yield append
            file.seek(0)
            write_header()
    except OSError as error:
        if error.filename:  # of a file that the block reads
            raise
        raise UserError(f"{path} could not be written ({error}); is the disk full?") from None


def chunks(array: NDArray[Any], rows: NDArray[Any] | None = None) -> Iterator[NDArray[Any]]:
    """The rows of an array, or those of the given indices, in their order, `CHUNK` bytes at a time
    at most."""
    count = len(array) if rows is None else len(rows)
    step = max(1, CHUNK * len(array) // max(1, array.nbytes))
    for start in range(0, count, step):
        yield array[start : start + step] if rows is None else array[rows[start : start + step]]


def copy_rows(folder: Path, split: str, name: str, array: NDArray[Any], rows: NDArray[Any]) -> None:
    """`array[rows]` as `<folder>/<split>_<name>.npy`, without all of it in memory."""
    with new_rows(folder / f"{split}_{name}.npy", array.shape[1:], array.dtype) as append:
        for chunk in chunks(array, rows):
            append(chunk)


def require_disk(folder: Path, size: int) -> str | None:
    """UserError if the disk of a folder has less than `size` bytes left.

    Returns:
        Where they are many, a sentence for the user, who may have to wait for them.
    """
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"{str(folder).removesuffix(PARTIAL)} will take {readable_size(size)}, and the disk has "
            f"{readable_size(free)} left; free some of it, or take fewer or smaller images"
        )
    if size < WORTH_SAYING:
        return None
    return f"writes {readable_size(size)}; {readable_size(free)} of the disk are free"


def readable_size(size: int) -> str:
    """A number of bytes in the unit that suits it: `3.1 GB`."""
    units = ("bytes", "kB", "MB", "GB", "TB")
    power = min((len(str(size)) - 1) // 3, len(units) - 1)
    value = size / 1000**power
    digits = 1 if power and value < 100 else 0
    return f"{value:.{digits}f} {units[power]}"


def packed(names: Iterable[str]) -> NDArray[np.bytes_]:
    """Names of files as one array of fixed width, which is small in memory and can be mapped from a
    file."""
    return np.array([os.fsencode(name) for name in names], dtype=np.bytes_)


def unpacked(names: NDArray[np.bytes_]) -> list[str]:
    """Names as a person can read them: escaped where they hold what cannot be printed."""
    decoded = (os.fsdecode(name) for name in names.tolist())
    return [name if name.isprintable() else ascii(name) for name in decoded]


def read_split(folder: str | Path, split: str, *names: str) -> list[NDArray[Any]]:
    """The named arrays of a split, memory-mapped and read-only; missing or broken files are a
    UserError."""
    paths = [Path(folder) / f"{split}_{name}.npy" for name in names]
    try:
        return [np.lib.format.open_memmap(path, mode="r") for path in paths]
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing; run dvc repro") from None
    except ValueError as error:
        raise UserError(
            f"{folder}: {split} is not readable ({error}); delete {folder} and run dvc repro"
        ) from None


def key_of(*values: Any) -> str:
    """A hash of plain values, 16 characters: the same values, the same key."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def digest(*arrays: NDArray[Any]) -> str:
    """SHA-256 over dtype, shape and bytes of arrays."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.dtype.str}{array.shape}".encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()
