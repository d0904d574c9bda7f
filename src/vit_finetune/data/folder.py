"""A folder of the user's own images."""

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vit_finetune.core.arrays import decode_names, encode_names, new_rows, read_split
from vit_finetune.core.errors import UserError
from vit_finetune.core.files import new_file, require_disk
from vit_finetune.core.threads import ordered_map
from vit_finetune.data.dataset import Dataset
from vit_finetune.data.image_files import (
    LARGEST,
    UNREADABLE,
    fit_image,
    image_names,
    named_as_image,
    open_image,
)

PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
NAMED = 5  # files or classes in one message
INNER = "__"  # what folders begin with that programs keep beside images, like __MACOSX
TOGETHER = 8  # files that a thread decodes before it hands them over
FEW_LEVELS = 4096  # 16-bit images whose largest value is less would be nearly black

_Image = tuple[NDArray[np.uint8], tuple[int, int], int | None]


def load_folder(
    folder: str | Path,
    *,
    image_size: int,
    fit: str,
    test_share: float,
    broken: str,
    into: Path,
    threads: int | None = None,
    bar: Callable[[range], Iterable[int]] = iter,
) -> Dataset:
    """Images of `<class>/...`, or of `train/<class>/...`, with `val/` and `test/` beside it where
    they are given.

    Without a test part, `test_share` of every class is for testing, chosen by a hash of the file's
    path: it depends on no seed, and an image that is added moves one other at most.

    Args:
        into: the folder where images, labels and sizes are kept, as `<part>_images.npy` and so on,
            and mapped from.
        threads: that decode files side by side; one for each core by default.
        bar: shows progress over the files.

    Raises:
        UserError: folders that are neither classes nor parts, classes with too few images, files
            that are no images and `broken` is not `skip`, 16-bit images that use a small part of
            their range, or too little disk.
    """
    folder = Path(folder)
    files, ignored = _split_files(folder, test_share)
    classes = sorted(files["train"])
    count = sum(len(names) for by_class in files.values() for names in by_class.values())
    if message := require_disk(into, 3 * count * image_size**2):
        print(f"download: {message}", flush=True)
    ends = {part: _write_names(into, part, list(map(files[part].pop, classes))) for part in files}
    shown, decoded = iter(bar(range(count))), {}
    for part, of_classes in ends.items():
        target = _Target(into, part, image_size, fit)
        decoded[part] = _decode(folder, of_classes, target, threads or os.cpu_count() or 1, shown)
    unreadable = _require_readable(folder, [*decoded.values()], count, broken)
    images, labels, names, sizes = (
        {part: read_split(into, part, name)[0] for part in decoded}
        for name in ("images", "labels", "files", "sizes")
    )
    _require_enough(folder, labels, classes)
    left_out = [_name(path, folder) for path in ignored]
    return Dataset(classes, images, labels, names, sizes, broken=unreadable, ignored=left_out)


class _Target(NamedTuple):
    """Where the images of a part are written, and how they are fitted."""

    folder: Path
    part: str
    side: int
    fit: str

    @contextmanager
    def rows(self) -> Iterator[Callable[[NDArray[np.uint8], int, tuple[int, int]], None]]:
        """A function that appends an image, its label, and its height and width before it was
        fitted."""
        images, labels, sizes = (
            self.folder / f"{self.part}_{name}.npy" for name in ("images", "labels", "sizes")
        )
        with (
            new_rows(images, (self.side, self.side, 3), np.uint8) as add_images,
            new_rows(labels, (), np.int64) as add_labels,
            new_rows(sizes, (2,), np.int32) as add_sizes,
        ):

            def append(image: NDArray[np.uint8], label: int, size: tuple[int, int]) -> None:
                add_images(image[None])
                add_labels(np.array([label]))
                add_sizes(np.array([size]))

            yield append


@dataclass(frozen=True)
class _Decoded:
    """Of a part: what became images, the largest value of those with 16 bits, and what did not,
    with the reason."""

    largest: int | None
    problems: dict[str, str]


def _decode(
    folder: Path, ends: NDArray[np.int64], target: _Target, threads: int, shown: Iterator[int]
) -> _Decoded:
    """Write the images of a part in the order of their names, decoded side by side, a few in memory
    at a time.

    Args:
        ends: the row after the last of each class.
    """

    def read(some: NDArray[np.bytes_]) -> list[_Image | str]:
        return [_read(f"{folder}/{os.fsdecode(file)}", target.side, target.fit) for file in some]

    (files,) = read_split(target.folder, target.part, "files")
    kept, largest, problems = np.zeros(len(files), dtype=bool), None, {}
    with target.rows() as append:
        several = (files[start : start + TOGETHER] for start in range(0, len(files), TOGETHER))
        for row, found in enumerate(
            itertools.chain.from_iterable(ordered_map(read, several, threads))
        ):
            next(shown)
            if isinstance(found, str):
                problems[decode_names(files[row : row + 1])[0]] = found
                continue
            pixels, size, of_16_bits = found
            append(pixels, int(np.searchsorted(ends, row, side="right")), size)
            kept[row] = True
            largest = max((v for v in (largest, of_16_bits) if v is not None), default=None)
    if problems:
        _write_names(target.folder, target.part, [files[kept]])
    return _Decoded(largest, problems)


def _write_names(folder: Path, part: str, by_class: list[NDArray[np.bytes_]]) -> NDArray[np.int64]:
    """`<part>_files.npy`, in place of what is there; `by_class` is empty afterwards.

    Returns:
        The row after the last of each class.
    """
    path, ends = folder / f"{part}_files.npy", np.cumsum([len(names) for names in by_class])
    with new_file(path) as partial, new_rows(partial, (), np.result_type(*by_class)) as append:
        while by_class:
            append(by_class.pop(0))
    return ends


def _read(path: str, side: int, fit: str) -> _Image | str:
    """The image of a file, fitted, its size before, and its largest value of 16 bits; or why it is
    none."""
    try:
        image = open_image(path)
    except UNREADABLE as error:
        return str(error)
    return fit_image(image, (side, side), fit), image.size[::-1], image.info.get(LARGEST)


def _require_readable(folder: Path, decoded: list[_Decoded], count: int, broken: str) -> list[str]:
    """The files that are no images, with the reason; UserError if there may be none, or if 16 bits
    are nearly black."""
    unreadable = [f"{name} ({why})" for part in decoded for name, why in part.problems.items()]
    if unreadable and broken != "skip":
        raise UserError(
            f"{len(unreadable)} of {count} files in {folder} cannot be read as images: {_some(unreadable)}; "
            "remove them, or set data.broken to skip"
        )
    largest = max((part.largest for part in decoded if part.largest is not None), default=None)
    if largest is not None and largest < FEW_LEVELS:
        raise UserError(
            f"the 16-bit images in {folder} use only 0..{largest} of 0..65535 and would be nearly black; save them "
            "with 8 bits, or multiply their values by 16 if they have 12 bits"
        )
    return unreadable


def _split_files(
    folder: Path, test_share: float
) -> tuple[dict[str, dict[str, NDArray[np.bytes_]]], list[Path]]:
    """Part -> class -> image files below `folder`, in the order of their names; and what is left
    out."""
    folders = _parts(folder)
    files: dict[str, dict[str, NDArray[np.bytes_]]] = {}
    ignored = {path for root in (folder, *folders.values()) for path in _loose(root)}
    for part, root in folders.items():
        files[part] = {}
        for of_class in _folders(root):
            images, others = image_names(of_class)
            below = of_class.relative_to(folder).as_posix()
            files[part][of_class.name] = encode_names(f"{below}/{name}" for name in images)
            ignored.update(of_class / name for name in others)
    classes = set(files["train"])
    if len(classes) < 2:
        raise UserError(
            f"{folder} holds {'one class' if classes else 'no class'}, at least two are needed; put images in "
            f"{folder}/<class>/, or in {folder}/train/<class>/ and {folder}/test/<class>/"
        )
    for part, by_class in files.items():
        if not by_class and any(path.is_file() for path in _loose(folders[part])):
            raise UserError(
                f"{folders[part]} has images outside class folders; put them in {folders[part]}/<class>/, or move "
                f"{folders[part]} elsewhere if their classes are not known"
            )
        if unknown := sorted(set(by_class) - classes):
            raise UserError(
                f"{folders[part]} has classes that {folder}/train has not: {_some(unknown)}"
            )
        for name in classes - set(by_class):
            by_class[name] = encode_names([])
    if "test" not in files:
        files["test"] = {}
        for name, names in files["train"].items():
            drawn = _drawn(names, test_share)
            files["test"][name], files["train"][name] = names[drawn], names[~drawn]
    return files, sorted(ignored)


def _drawn(files: NDArray[np.bytes_], share: float) -> NDArray[np.bool_]:
    """A mask of the share of the files of a class whose hashes are the lowest, and of at least
    one."""
    hashes = np.fromiter(
        (hashlib.sha256(name).digest() for name in files), dtype="S32", count=len(files)
    )
    drawn = np.zeros(len(files), dtype=bool)
    drawn[hashes.argsort()[: max(1, round(share * len(files)))]] = True
    return drawn


def _parts(folder: Path) -> dict[str, Path]:
    """The folder of each part; where there are none, `folder` itself holds the classes of all."""
    top = [path.name for path in _folders(folder)]
    given = {name: PARTS[name.lower()] for name in top if name.lower() in PARTS}
    nested = any(image_names(path)[0] for name in given for path in _folders(folder / name))
    if not given or (set(given.values()) == {"train"} and len(top) > 1 and not nested):
        return {"train": folder}  # a class may be called train
    folders: dict[str, Path] = {
        part: folder / name
        for part in ("train", "val", "test")
        for name in given
        if given[name] == part
    }
    if "train" not in folders or len(folders) < len(top):
        raise UserError(
            f"{folder} has {_some(sorted(top, key=lambda name: name not in given))}: it may hold a folder for each "
            "class; or train (training) and beside it one of val (valid, validation), one of test (testing), and no "
            "other; rename or move what is neither"
        )
    return folders


def _folders(folder: Path) -> list[Path]:
    """What may be classes or parts."""
    folders = [path for path in _shown(folder) if path.is_dir() and not path.name.startswith(INNER)]
    if odd := [path.name for path in folders if not path.name.isprintable()]:
        raise UserError(
            f"{folder} holds a folder {odd[0]!a}: a class has a name that can be printed; rename the folder"
        )
    return folders


def _loose(folder: Path) -> list[Path]:
    """Images outside the folders in it, and folders that are no classes."""
    return [
        p for p in _shown(folder) if (p.name.startswith(INNER) if p.is_dir() else named_as_image(p))
    ]


def _shown(folder: Path) -> list[Path]:
    return (
        sorted(path for path in folder.iterdir() if path.name[0] != ".") if folder.is_dir() else []
    )


def _name(path: Path, folder: Path) -> str:
    name = path.relative_to(folder).as_posix() + ("/" if path.is_dir() else "")
    return name if name.isprintable() else ascii(name)


def _require_enough(folder: Path, labels: dict[str, NDArray[np.int64]], classes: list[str]) -> None:
    """Every class needs an image of each part, and one more to validate with where there is no such
    part."""
    counts = {part: np.bincount(found, minlength=len(classes)) for part, found in labels.items()}
    needed = {part: 2 if part == "train" and "val" not in labels else 1 for part in labels}
    few = [
        f"{name} ({', '.join(f'{part} {counts[part][k]}' for part in labels)})"
        for k, name in enumerate(classes)
        if any(counts[part][k] < needed[part] for part in labels)
    ]
    if few:
        least = ", ".join(f"{part} {count}" for part, count in needed.items())
        raise UserError(
            f"{folder}: classes with too few images: {_some(few)}; each needs at least {least}; add images or remove "
            "the folder"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (
        f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    )
