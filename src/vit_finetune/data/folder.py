"""A folder of the user's own images."""

import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vit_finetune.core.errors import UserError
from vit_finetune.data.dataset import Dataset
from vit_finetune.data.image_files import UNREADABLE, fit_image, image_files, open_image

PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
NAMED = 5  # files or classes in one message  # files or classes in one message


def load_folder(
    folder: str | Path,
    *,
    image_size: int,
    fit: str,
    test_share: float,
    broken: str,
    bar: Callable[[list[Path]], Iterable[Path]] = iter,
) -> Dataset:
    """Images of `<class>/...`, or of `train/<class>/...`, with `val/` and `test/` beside it where they are given.

    Without a test part, `test_share` of every class is for testing, chosen by a hash of the file's path: it depends
    on no seed, and an image that is added moves one other at most.

    Args:
        bar: shows progress over the files.

    Raises:
        UserError: no class folders, classes with too few images, or files that are no images and `broken` is not
            `skip`.
    """
    folder = Path(folder)
    files = _split_files(folder, test_share)
    classes = sorted({name for part in files.values() for name in part})
    listed = [(part, classes.index(name), path) for part in files for name in classes for path in files[part][name]]
    kept = np.empty((len(listed), image_size, image_size, 3), dtype=np.uint8)
    problems = _decode([path for _, _, path in listed], kept, fit, bar)
    unreadable = [f"{listed[row][2].relative_to(folder)} ({reason})" for row, reason in problems.items()]
    if unreadable and broken != "skip":
        raise UserError(
            f"{len(unreadable)} of {len(listed)} files in {folder} cannot be read as images: {_some(unreadable)}; "
            "remove them, or set data.broken to skip"
        )
    images, labels = {}, {}
    for part in files:
        rows = [row for row, (of, _, _) in enumerate(listed) if of == part and row not in problems]
        images[part], labels[part] = kept[rows], np.array([listed[row][1] for row in rows], dtype=np.int64)
    _require_enough(folder, labels, classes)
    ignored = [str(path.relative_to(folder)) for name in _folders(folder) for path in image_files(folder / name)[1]]
    return Dataset(classes, images, labels, broken=unreadable, ignored=ignored)


def _decode(
    paths: list[Path], images: NDArray[np.uint8], fit: str, bar: Callable[[list[Path]], Iterable[Path]]
) -> dict[int, str]:
    """Read files into images (N, H, W, 3), over all cores; returns the reason for each row that is not readable."""

    def read(row: int) -> str | None:
        try:
            images[row] = fit_image(open_image(paths[row]), images.shape[1:3], fit)
        except UNREADABLE as error:
            return " ".join(str(error).split()) or type(error).__name__
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        reasons = [reason for _, reason in zip(bar(paths), pool.map(read, range(len(paths))), strict=True)]
    return {row: reason for row, reason in enumerate(reasons) if reason}


def _split_files(folder: Path, test_share: float) -> dict[str, dict[str, list[Path]]]:
    """Part -> class -> image files, in the order of their names."""
    top = _folders(folder)
    given = {name: PARTS[name.lower()] for name in top if name.lower() in PARTS}
    folders = {"train": folder}
    if "train" in given.values() and (len(given) > 1 or len(top) == 1):
        folders = {part: folder / name for part in ("train", "val", "test") for name in given if given[name] == part}
        if len(folders) < len(top):
            raise UserError(
                f"{folder} has {_some(top)}: beside training images it may have one folder of validation and one of "
                "test images, and no other"
            )
    files = {part: _class_files(path) for part, path in folders.items()}
    classes = set(files["train"])
    if len(classes) < 2:
        raise UserError(
            f"{folder} holds {'one class' if classes else 'no class'}, at least two are needed; put images in "
            f"{folder}/<class>/, or in {folder}/train/<class>/ and {folder}/test/<class>/"
        )
    for part, by_class in files.items():
        if unknown := sorted(set(by_class) - classes):
            raise UserError(f"{folders[part]} has classes that {folder}/train has not: {_some(unknown)}")
        for name in classes - set(by_class):
            by_class[name] = []
    if "test" not in files:
        files["test"] = {}
        for name, paths in files["train"].items():
            by_hash = {hashlib.sha256(path.relative_to(folder).as_posix().encode()).digest(): path for path in paths}
            drawn, count = [path for _, path in sorted(by_hash.items())], max(1, round(test_share * len(paths)))
            files["test"][name], files["train"][name] = sorted(drawn[:count]), sorted(drawn[count:])
    return files


def _folders(folder: Path) -> list[str]:
    hidden = (".", "__")  # of version control, notebooks, file managers
    return sorted(path.name for path in folder.glob("*") if path.is_dir() and not path.name.startswith(hidden))


def _class_files(folder: Path) -> dict[str, list[Path]]:
    return {name: image_files(folder / name)[0] for name in _folders(folder)}


def _require_enough(folder: Path, labels: dict[str, NDArray[np.int64]], classes: list[str]) -> None:
    """Every class needs an image of each part, and one more to validate with where there is no such part."""
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
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
