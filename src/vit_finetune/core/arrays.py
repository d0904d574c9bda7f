"""The arrays of a split, each in a .npy file that is mapped into memory when it is read."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_finetune.core.errors import UserError

CHUNK = 2**20  # bytes of an array that are in memory at a time


def write_split(folder: Path, split: str, **arrays: NDArray[Any]) -> None:
    """`<folder>/<split>_<name>.npy` for each array."""
    for name, array in arrays.items():
        path = folder / f"{split}_{name}.npy"
        try:
            np.save(path, array, allow_pickle=False)
        except OSError as error:  # numpy's own words on a full disk: "96 requested and 32 written"
            raise UserError(f"{path} could not be written ({error}); is the disk full?") from None


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
    """The rows of an array, or those of the given indices, in their order, at most `CHUNK` bytes at
    a time."""
    step = max(1, CHUNK * len(array) // max(1, array.nbytes))
    count = len(array) if rows is None else len(rows)
    for start in range(0, count, step):
        chosen = slice(start, start + step)
        yield array[chosen] if rows is None else array[rows[chosen]]


def copy_rows(folder: Path, split: str, name: str, array: NDArray[Any], rows: NDArray[Any]) -> None:
    """`array[rows]` as `<folder>/<split>_<name>.npy`, without all of it in memory."""
    with new_rows(folder / f"{split}_{name}.npy", array.shape[1:], array.dtype) as append:
        for chunk in chunks(array, rows):
            append(chunk)


def one_of_each(groups: NDArray[Any], rng: np.random.Generator) -> NDArray[np.intp]:
    """Rows, in their order, of a random image of each group (N,): images that do not depend on each
    other. (The first would often be of the first class, since images are stored class by class.)

    What is drawn from `rng` later does not depend on whether there are groups.
    """
    order = rng.spawn(1)[0].permutation(len(groups))
    first = np.unique(groups[order], return_index=True)[1]
    return np.sort(order[first])


def encode_names(names: Iterable[str]) -> NDArray[np.bytes_]:
    """Names of files as one array of fixed width, which is small in memory and can be mapped from a
    file."""
    return np.array([os.fsencode(name) for name in names], dtype=np.bytes_)


def decode_names(names: NDArray[np.bytes_]) -> list[str]:
    """Names as a person can read them: escaped where they hold what cannot be printed."""
    return [printable(os.fsdecode(name)) for name in names.tolist()]


def printable(name: str) -> str:
    """A name in one line that can be printed, escaped if it holds what cannot be."""
    return name if name.isprintable() else ascii(name)
