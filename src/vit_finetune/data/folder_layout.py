"""Which files of a folder are images of which class and part."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vit_finetune.core.arrays import encode_names
from vit_finetune.core.errors import UserError
from vit_finetune.data.image_files import image_names, named_as_image

PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
NAMED = 5  # files or classes in one message
INNER = "__"  # what folders begin with that programs keep beside images, like __MACOSX

FilesOfClasses = dict[str, NDArray[np.bytes_]]  # {class: names of its files, in order}


@dataclass(frozen=True)
class Layout:
    """The image files of a folder.

    Attributes:
        classes: names in label order.
        files: of each part, the names of the image files relative to the folder, as `encode_names`
            returns them.
        labels: of each part, the index of the class of each file.
        ignored: files that belong to no class, readable.
    """

    classes: list[str]
    files: dict[str, NDArray[np.bytes_]]
    labels: dict[str, NDArray[np.int64]]
    ignored: list[str]


def read_layout(folder: Path, test_share: float) -> Layout:
    """Images of `<class>/...`, or of `train/<class>/...`, with `val/` and `test/` beside it where
    they are given.

    Without a test part, `test_share` of every class is for testing, chosen by a hash of the file's
    path: it depends on no seed, and an image that is added moves one other at most.

    Raises:
        UserError: folders that are neither classes nor parts, or fewer than two classes.
    """
    roots = _part_folders(folder)
    by_part: dict[str, FilesOfClasses] = {}
    ignored = set(_loose(folder))
    for part, root in roots.items():
        ignored.update(_loose(root))
        by_part[part] = {}
        for of_class in _folders(root):
            images, others = image_names(of_class)
            below = of_class.relative_to(folder).as_posix()
            by_part[part][of_class.name] = encode_names(f"{below}/{name}" for name in images)
            ignored.update(of_class / name for name in others)
    _require_known_classes(folder, roots, by_part)
    classes = sorted(by_part["train"])
    files = {}
    labels = {}
    for part, by_class in by_part.items():
        of_classes = [by_class.get(name, encode_names([])) for name in classes]
        files[part] = np.concatenate(of_classes)
        labels[part] = np.repeat(np.arange(len(classes)), [len(names) for names in of_classes])
    if "test" not in files:
        drawn = _drawn(files["train"], labels["train"], test_share)
        files["test"], files["train"] = files["train"][drawn], files["train"][~drawn]
        labels["test"], labels["train"] = labels["train"][drawn], labels["train"][~drawn]
    readable = [_readable(path, folder) for path in sorted(ignored)]
    return Layout(classes, files, labels, readable)


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _require_known_classes(
    folder: Path, roots: dict[str, Path], by_part: dict[str, FilesOfClasses]
) -> None:
    classes = set(by_part["train"])
    if len(classes) < 2:
        raise UserError(
            f"{folder} holds {'one class' if classes else 'no class'}, at least two are needed; "
            f"put images in {folder}/<class>/, or in {folder}/train/<class>/ and "
            f"{folder}/test/<class>/"
        )
    for part, by_class in by_part.items():
        root = roots[part]
        if not by_class and any(path.is_file() for path in _loose(root)):
            raise UserError(
                f"{root} has images outside class folders; put them in {root}/<class>/, or move "
                f"{root} elsewhere if their classes are not known"
            )
        unknown = sorted(set(by_class) - classes)
        if unknown:
            raise UserError(f"{root} has classes that {folder}/train has not: {some(unknown)}")


def _drawn(files: NDArray[np.bytes_], labels: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """A mask (N,): of each class the share of the files whose hashes are the lowest, and at least
    one."""
    hashes = np.fromiter(
        (hashlib.sha256(name).digest() for name in files), dtype="S32", count=len(files)
    )
    drawn = np.zeros(len(files), dtype=bool)
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        lowest_first = of_class[hashes[of_class].argsort()]
        drawn[lowest_first[: max(1, round(share * len(of_class)))]] = True
    return drawn


def _part_folders(folder: Path) -> dict[str, Path]:
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
            f"{folder} has {some(sorted(top, key=lambda name: name not in given))}: it may hold a "
            "folder for each class; or train (training) and beside it one of val (valid, "
            "validation), one of test (testing), and no other; rename or move what is neither"
        )
    return folders


def _folders(folder: Path) -> list[Path]:
    """What may be classes or parts."""
    folders = [path for path in _shown(folder) if path.is_dir() and not path.name.startswith(INNER)]
    if odd := [path.name for path in folders if not path.name.isprintable()]:
        raise UserError(
            f"{folder} holds a folder {odd[0]!a}: a class has a name that can be printed; "
            "rename the folder"
        )
    return folders


def _loose(folder: Path) -> list[Path]:
    """Images outside the folders in it, and folders that are no classes."""
    loose = []
    for path in _shown(folder):
        if path.name.startswith(INNER) if path.is_dir() else named_as_image(path):
            loose.append(path)
    return loose


def _shown(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.name[0] != ".")


def _readable(path: Path, folder: Path) -> str:
    name = path.relative_to(folder).as_posix() + ("/" if path.is_dir() else "")
    return name if name.isprintable() else ascii(name)
