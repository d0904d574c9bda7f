"""A folder of the user's own images."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vit_finetune.core.errors import UserError
from vit_finetune.core.files import new_rows, require_disk
from vit_finetune.core.threads import ordered_map
from vit_finetune.data.dataset import Dataset
from vit_finetune.data.image_files import LARGEST, UNREADABLE, fit_image, image_files, named_as_image, open_image

PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
NAMED = 5  # files or classes in one message
INNER = "__"  # what folders begin with that programs keep beside images, like __MACOSX
FEW_LEVELS = 4096  # 16-bit images whose largest value is less would be nearly black


def load_folder(
    folder: str | Path,
    *,
    image_size: int,
    fit: str,
    test_share: float,
    broken: str,
    into: Path,
    threads: int | None = None,
    bar: Callable[[list[Path]], Iterable[Path]] = iter,
) -> Dataset:
    """Images of `<class>/...`, or of `train/<class>/...`, with `val/` and `test/` beside it where they are given.

    Without a test part, `test_share` of every class is for testing, chosen by a hash of the file's path: it depends
    on no seed, and an image that is added moves one other at most.

    Args:
        into: the folder where the images are kept, as `<part>_images.npy`, and mapped from.
        bar: shows progress over the files, which `threads` decode side by side (by default one for each core).

    Raises:
        UserError: folders that are neither classes nor parts, classes with too few images, files that are no images
            and `broken` is not `skip`, or 16-bit images that use a small part of their range.
    """
    folder = Path(folder)
    files, ignored = _split_files(folder, test_share)
    classes = sorted({name for part in files.values() for name in part})
    count = sum(len(paths) for part in files.values() for paths in part.values())
    require_disk(into, 3 * count * image_size**2, "download")
    paths = {part: [path for name in classes for path in files[part][name]] for part in files}
    shown, threads = iter(bar([path for part in files for path in paths[part]])), threads or os.cpu_count() or 1
    decoded = {
        part: _decode(paths[part], into / f"{part}_images.npy", image_size, fit, threads, shown) for part in files
    }
    unreadable = _require_readable(folder, decoded, count, broken)
    label_of = {path: k for part in files.values() for k, name in enumerate(classes) for path in part[name]}
    labels = {part: np.array([label_of[path] for path in d.kept], dtype=np.int64) for part, d in decoded.items()}
    _require_enough(folder, labels, classes)
    return Dataset(
        classes,
        {part: np.lib.format.open_memmap(into / f"{part}_images.npy", mode="r") for part in decoded},
        labels,
        files={part: [_name(path, folder) for path in d.kept] for part, d in decoded.items()},
        sizes={part: np.array(d.sizes, dtype=np.int64).reshape(-1, 2) for part, d in decoded.items()},
        broken=unreadable,
        ignored=[_name(path, folder) for path in ignored],
    )


def _require_readable(folder: Path, decoded: dict[str, "_Decoded"], count: int, broken: str) -> list[str]:
    """The files that are no images, with the reason; UserError if there may be none, or if 16 bits are nearly black."""
    unreadable = [f"{_name(path, folder)} ({why})" for part in decoded.values() for path, why in part.problems.items()]
    if unreadable and broken != "skip":
        raise UserError(
            f"{len(unreadable)} of {count} files in {folder} cannot be read as images: {_some(unreadable)}; "
            "remove them, or set data.broken to skip"
        )
    largest = max((part.largest for part in decoded.values() if part.largest is not None), default=None)
    if largest is not None and largest < FEW_LEVELS:
        raise UserError(
            f"the 16-bit images in {folder} use only 0..{largest} of 0..65535 and would be nearly black; save them "
            "with 8 bits, or multiply their values by 16 if they have 12 bits"
        )
    return unreadable


@dataclass
class _Decoded:
    """The files of a part that became images, their sizes (height, width), the largest value of 16 bits, the others."""

    kept: list[Path] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    largest: int | None = None
    problems: dict[Path, str] = field(default_factory=dict)


def _decode(
    paths: list[Path], target: Path, image_size: int, fit: str, threads: int, shown: Iterator[Path]
) -> _Decoded:
    """Write the images of files to `target` in their order, decoded side by side, a few in memory at a time."""

    def read(path: Path) -> tuple[NDArray[np.uint8], tuple[int, int], int | None] | str:
        try:
            image = open_image(path)
        except UNREADABLE as error:
            return str(error)
        return fit_image(image, (image_size, image_size), fit), image.size[::-1], image.info.get(LARGEST)

    decoded = _Decoded()
    with new_rows(target, (image_size, image_size, 3), np.uint8) as append:
        for path, found in zip(paths, ordered_map(read, paths, threads), strict=True):
            next(shown)
            if isinstance(found, str):
                decoded.problems[path] = found
                continue
            pixels, size, largest = found
            append(pixels[None])
            decoded.kept.append(path)
            decoded.sizes.append(size)
            decoded.largest = max((v for v in (largest, decoded.largest) if v is not None), default=None)
    return decoded


def _split_files(folder: Path, test_share: float) -> tuple[dict[str, dict[str, list[Path]]], list[Path]]:
    """Part -> class -> image files, in the order of their names; and what is left out."""
    folders = _parts(folder)
    found = {part: {path.name: image_files(path) for path in _folders(root)} for part, root in folders.items()}
    ignored = {path for root in (folder, *folders.values()) for path in _loose(root)}
    ignored.update(path for by_class in found.values() for _, others in by_class.values() for path in others)
    files = {part: {name: images for name, (images, _) in by_class.items()} for part, by_class in found.items()}
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
            raise UserError(f"{folders[part]} has classes that {folder}/train has not: {_some(unknown)}")
        for name in classes - set(by_class):
            by_class[name] = []
    if "test" not in files:
        files["test"] = {name: _draw(folder, paths, test_share) for name, paths in files["train"].items()}
        files["train"] = {name: sorted({*paths} - {*files["test"][name]}) for name, paths in files["train"].items()}
    return files, sorted(ignored)


def _draw(folder: Path, paths: list[Path], share: float) -> list[Path]:
    """The share of the images of a class whose hashes are the lowest, and at least one, in the order of their names."""
    by_hash = {hashlib.sha256(os.fsencode(path.relative_to(folder).as_posix())).digest(): path for path in paths}
    return sorted([path for _, path in sorted(by_hash.items())][: max(1, round(share * len(paths)))])


def _parts(folder: Path) -> dict[str, Path]:
    """The folder of each part; where there are none, `folder` itself holds the classes of all."""
    top = [path.name for path in _folders(folder)]
    given = {name: PARTS[name.lower()] for name in top if name.lower() in PARTS}
    nested = any(image_files(path)[0] for name in given for path in _folders(folder / name))
    if not given or (set(given.values()) == {"train"} and len(top) > 1 and not nested):
        return {"train": folder}  # a class may be called train
    folders: dict[str, Path] = {
        part: folder / name for part in ("train", "val", "test") for name in given if given[name] == part
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
    return [p for p in _shown(folder) if (p.name.startswith(INNER) if p.is_dir() else named_as_image(p))]


def _shown(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name[0] != ".") if folder.is_dir() else []


def _name(path: Path, folder: Path) -> str:
    name = path.relative_to(folder).as_posix() + ("/" if path.is_dir() else "")
    return name if name.isprintable() else ascii(name)


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
