"""Which files of a folder are images of which class, part and group."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_finetune.core.arrays import encode_names, printable
from vit_finetune.core.errors import UserError
from vit_finetune.core.files import refuse_link_to_folder
from vit_finetune.data.groups import draw_groups, group_of, numbered
from vit_finetune.data.image_files import image_names, named_as_image
from vit_finetune.data.tables import normal, read_table
from vit_finetune.params import Data

PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
NAMED = 5  # files or classes in one message
INNER = "__"  # what folders begin with that programs keep beside images, like __MACOSX

FilesOfClasses = dict[str, NDArray[np.bytes_]]  # {class: its files}


@dataclass(frozen=True)
class Layout:
    """The image files of a folder.

    Attributes:
        classes: names in label order.
        files: of each part, the names of the image files relative to the folder, as `encode_names`
            returns them.
        labels: of each part, the index of the class of each file.
        groups: of each part, a number for each file; equal numbers are one group.
        ignored: files that belong to no class, readable.
        notes: sentences for the user.
    """

    classes: list[str]
    files: dict[str, NDArray[np.bytes_]]
    labels: dict[str, NDArray[np.int64]]
    groups: dict[str, NDArray[np.int64]]
    ignored: list[str]
    notes: list[str]


@dataclass(frozen=True)
class Listing:
    """The image files of a folder by part and class.

    Attributes:
        has_parts: whether each part has a folder.
        depth: number of folders in a file's path down to the one of its class.
        ignored: files that belong to no class.
    """

    by_part: Mapping[str, FilesOfClasses]
    has_parts: bool
    depth: int
    ignored: list[Path]


def read_layout(data: Data) -> Layout:
    """Images of `<class>/...`, or of `train/<class>/...`, with `val/` and `test/` beside it where
    they are given; or those that a table gives a class.

    Without a test part, about `test_share` of every class is for testing, in whole groups. They are
    chosen by a hash of the group's name, which without groups is the file's path. So the choice
    depends on no seed, and an image that is added moves one other at most.

    Raises:
        UserError: folders that are neither classes nor parts, links to folders, a table that does
            not fit the files, or fewer than two classes.
    """
    folder = Path(data.folder)
    _refuse_links_to_folders(folder)
    listing = _list_table(folder, data.labels) if data.labels else _list_class_folders(folder)
    classes = sorted(listing.by_part["train"])
    files = {}
    labels = {}
    for part, by_class in listing.by_part.items():
        of_classes = [by_class.get(name, encode_names([])) for name in classes]
        files[part] = np.concatenate(of_classes)
        labels[part] = np.repeat(np.arange(len(classes)), [len(names) for names in of_classes])
    notes: list[str] = []
    keys = files
    if data.group:
        keys, notes = _group_names(files, data.group, listing.depth)
    groups = numbered(keys)
    if "test" not in files:
        drawn = _draw_test(labels["train"], keys["train"], groups["train"], data.test_share)
        for columns in (files, labels, groups):
            _split_off(columns, drawn)
        if listing.has_parts:
            notes.append(
                f"{folder} has no test folder: {len(files['test'])} images of the training folder "
                "are for testing (data.test_share)"
            )
    ignored = [_readable(path, folder) for path in sorted(listing.ignored)]
    return Layout(classes, files, labels, groups, ignored, notes)


def _refuse_links_to_folders(folder: Path) -> None:
    """Below a folder; it may be a link itself."""
    for root, folders, _ in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            refuse_link_to_folder(Path(root, name))


def _split_off(columns: dict[str, NDArray[Any]], drawn: NDArray[np.bool_]) -> None:
    """Move the drawn rows of `train` to `test`."""
    whole = columns["train"]
    columns["train"] = whole[~drawn]
    columns["test"] = whole[drawn]


def _group_names(
    files: Mapping[str, NDArray[np.bytes_]], group: str, depth: int
) -> tuple[dict[str, NDArray[np.bytes_]], list[str]]:
    """Of each part the name of the group of each file, the file's own where it has none; and what
    to say of these.

    Raises:
        UserError: no file has a group.
    """
    names = {}
    alone: list[str] = []
    count = 0
    for part, of_part in files.items():
        found = []
        for encoded in of_part:
            file = os.fsdecode(encoded)
            below_class = file.split("/", depth)[depth]
            name = group_of(file, below_class, group)
            if name is None:
                alone.append(file)
            found.append(file if name is None else name)
        names[part] = encode_names(found)
        count += len(found)
    if not alone:
        return names, []
    sentence = f"data.group is {group!r}: {len(alone)} of {count} files have no group"
    if len(alone) == count:
        raise UserError(f"{sentence}, such as {alone[0]!a}; correct it, or set it to null")
    return names, [f"{sentence} and are groups of their own, such as {alone[0]!a}"]


def _draw_test(
    labels: NDArray[np.int64],
    names: NDArray[np.bytes_],
    groups: NDArray[np.int64],
    share: float,
) -> NDArray[np.bool_]:
    """A mask (N,) of the images for testing; the groups whose names have the lowest hashes come
    first."""
    numbers, first = np.unique(groups, return_index=True)
    hashes = np.fromiter(
        (hashlib.sha256(names[row]).digest() for row in first), dtype="S32", count=len(first)
    )
    return draw_groups(labels, groups, numbers[hashes.argsort()].tolist(), share)


def _list_class_folders(folder: Path) -> Listing:
    """Files in a folder for each class; names of classes are the same if Unicode calls them so."""
    roots = _part_folders(folder)
    by_part: dict[str, FilesOfClasses] = {}
    ignored = set(_loose(folder))
    for part, root in roots.items():
        ignored.update(_loose(root))
        by_part[part] = {}
        for of_class in _folders(root):
            images, others = image_names(of_class)
            below = of_class.relative_to(folder).as_posix()
            files = encode_names(f"{below}/{name}" for name in images)
            name = normal(of_class.name)
            known = by_part[part].get(name, encode_names([]))
            by_part[part][name] = np.concatenate([known, files])
            ignored.update(of_class / name for name in others)
    _require_known_classes(folder, roots, by_part)
    for root in roots.values():
        _refuse_classes_below_a_class(root)
    has_parts = roots["train"] != folder
    return Listing(by_part, has_parts, depth=1 + has_parts, ignored=sorted(ignored))


def _list_table(folder: Path, table: str) -> Listing:
    """Files to which a CSV file in the folder gives a class.

    If all of them lie in folders that have the names of parts, these are the parts.
    """
    path = folder / table
    images, others = image_names(folder)
    file_of = {normal(printable(name)): name for name in images}
    class_of: dict[str, str] = {}
    for place, row in read_table(path, ("file", "class")):
        file = file_of.get(normal(row["file"]))
        if file is None:
            raise UserError(f"{place}: {folder} has no image {row['file']!r}")
        if file in class_of:
            raise UserError(f"{place}: {row['file']!r} is in an earlier line too; remove one")
        if not row["class"] or not row["class"].isprintable():
            raise UserError(f"{place}: the class is {row['class']!a}; a class has a name")
        class_of[file] = normal(row["class"])
    tops = {file.partition("/")[0].lower() for file in class_of}
    has_parts = "train" in {PARTS.get(top) for top in tops} and tops <= set(PARTS)
    found: dict[str, dict[str, list[str]]] = {"train": {}}
    if has_parts:
        found = {part: {} for part in ("train", "val", "test") if part in map(PARTS.get, tops)}
    for file in images:
        if file in class_of:
            part = PARTS[file.partition("/")[0].lower()] if has_parts else "train"
            found[part].setdefault(class_of[file], []).append(file)
    by_part = {
        part: {name: encode_names(files) for name, files in by_class.items()}
        for part, by_class in found.items()
    }
    _require_known_classes(folder, dict.fromkeys(by_part, path), by_part)
    without = [name for name in (*images, *others) if name not in class_of and name != table]
    ignored = sorted(folder / name for name in without)
    return Listing(by_part, has_parts, depth=int(has_parts), ignored=ignored)


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
            f"{folder}/test/<class>/{_inner_folder(roots['train'])}"
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


def _inner_folder(root: Path) -> str:
    """The way out where the only folder of a folder seems to hold the classes."""
    for path in _folders(root):
        if len(_folders(path)) >= 2:
            return f"; if {path} holds them, set data.folder to it"
    return ""


def _refuse_classes_below_a_class(root: Path) -> None:
    """UserError if a class folder holds folders with the names of the other classes, as an archive
    does that holds itself."""
    folders = {normal(path.name): path for path in _folders(root)}
    for name, path in folders.items():
        others = set(folders) - {name}
        inner = {normal(below.name) for below in _folders(path)} & others
        if len(inner) >= min(2, len(folders) - 1) > 0:
            raise UserError(
                f"{path} holds folders with the names of other classes "
                f"({some(sorted(inner))}): it is no class, but may be a copy of {root}; move it "
                "elsewhere, or set data.folder to it"
            )


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
    return printable(path.relative_to(folder).as_posix() + ("/" if path.is_dir() else ""))
