"""The data sources, each as uint8 images (N, H, W, 3) and int64 labels (N,) of a train and a test part."""

import hashlib
import http.client
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

FOLDER_VARIABLE = "VIT_DATA_DIR"


@dataclass(frozen=True)
class Dataset:
    """A whole data set in memory.

    Attributes:
        classes: names in label order.
        images, labels: for `train` and `test`, and for `val` where the data set has a part of that kind.
        checksums: md5 of each original file; empty where the data come with a package or are the user's.
        broken: files of the user's that are no readable images, with the reason.
        ignored: files among the user's images whose name is not one of an image.
    """

    classes: list[str]
    images: dict[str, NDArray[np.uint8]]
    labels: dict[str, NDArray[np.int64]]
    checksums: dict[str, str] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def load_dataset(name: str) -> Dataset:
    """`cifar10`, `cifar100` or `digits`."""
    return load_digits() if name == "digits" else load_cifar(name)


def load_digits() -> Dataset:
    """scikit-learn's handwritten digits (UCI, Alpaydin & Kaynak 1998): 8x8 grey images in 17 levels.

    They come as one set. Every second image of a class is the test part, so both parts hold the classes in
    proportion and neither depends on a seed.
    """
    from sklearn.datasets import load_digits as load

    bunch = load()
    labels = bunch.target.astype(np.int64)
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=-1)
    rank = np.empty_like(labels)  # position of an image within its class
    for label in np.unique(labels):
        rank[labels == label] = np.arange((labels == label).sum())
    part = {"train": rank % 2 == 0, "test": rank % 2 == 1}
    return Dataset(
        classes=[str(name) for name in bunch.target_names],
        images={split: images[chosen] for split, chosen in part.items()},
        labels={split: labels[chosen] for split, chosen in part.items()},
    )


def channel_statistics(images: NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel in units of the full range, from (N, H, W, C) images.

    Taken from the 256 counts of each channel, so no floating-point copy of the images is made.
    """
    levels = np.arange(256) / 255
    shares = [np.bincount(images[..., c].ravel(), minlength=256) / images[..., 0].size for c in range(images.shape[-1])]
    means = [float(share @ levels) for share in shares]
    stds = [float(np.sqrt(share @ (levels - mean) ** 2)) for share, mean in zip(shares, means, strict=True)]
    return [round(mean, 6) for mean in means], [round(std, 6) for std in stds]


# CIFAR


def load_cifar(name: str) -> Dataset:
    """CIFAR-10 or CIFAR-100 with its fine labels (Krizhevsky 2009), every original file checked by its published md5.

    They are taken from the folder that VIT_DATA_DIR names, which holds either the extracted batches or the
    archive; else from the user's cache folder, to which they are downloaded once.

    Raises:
        OSError: no file, a wrong checksum, or no network; the message names the way out.
    """
    from torchvision.datasets import CIFAR10, CIFAR100

    source = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        root = Path(named).expanduser()
        if not root.is_dir():
            raise OSError(
                f"{FOLDER_VARIABLE} is {named!r}, which is not a folder; it must hold {source.base_folder}/ or "
                f"{source.filename} (unset it to download them; `make demo` needs neither)"
            )
        if root.name == source.base_folder:
            root = root.parent
        if not (root / source.base_folder).is_dir() and (root / source.filename).is_file():
            with tempfile.TemporaryDirectory() as scratch:
                _extract(source, root / source.filename, Path(scratch))
                return _read_cifar(source, Path(scratch))
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vit_finetune"
        if _broken_file(source, root):
            _download(source, root)
    return _read_cifar(source, root)


def _read_cifar(source: Any, root: Path) -> Dataset:
    broken = _broken_file(source, root)
    if broken:
        raise OSError(
            f"{broken}; {FOLDER_VARIABLE} must name a folder with {source.base_folder}/ or {source.filename} "
            "as its author published them (unset it to download them; `make demo` needs neither)"
        )
    parts = {"train": source(root, train=True), "test": source(root, train=False)}
    return Dataset(
        classes=list(parts["train"].classes),
        images={split: np.ascontiguousarray(part.data) for split, part in parts.items()},
        labels={split: np.array(part.targets, dtype=np.int64) for split, part in parts.items()},
        checksums=dict(_files(source)),
    )


def _broken_file(source: Any, root: Path) -> str | None:
    """The first original file that is missing or not the published one, in words."""
    folder = root / source.base_folder
    for name, md5 in _files(source):
        if not (folder / name).is_file():
            return f"{folder / name} is missing"
        found = _md5(folder / name)
        if found != md5:
            return f"{folder / name} has md5 {found}, not the published {md5}: it is damaged or another file"
    return None


def _download(source: Any, root: Path) -> None:
    """Fetch and unpack the archive; what does not match the published md5 is thrown away."""
    from torchvision.datasets.utils import download_url

    archive = root / source.filename
    try:
        download_url(source.url, root, source.filename, source.tgz_md5)  # checks the md5, with a progress bar
        _extract(source, archive, root)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, RuntimeError) and archive.is_file():
            reason = "what came is not the published archive (cut off, or a page that a proxy made)"
        archive.unlink(missing_ok=True)
        raise OSError(
            f"could not download {source.url}: {reason}. Either set {FOLDER_VARIABLE} to a folder that holds "
            f"{source.filename} or {source.base_folder}/, or run `make demo`, which downloads nothing"
        ) from None
    archive.unlink()  # the extracted batches have checksums of their own


def _extract(source: Any, archive: Path, target: Path) -> None:
    """Only the published files, each by its name: what else an archive may hold is never written anywhere."""
    found = _md5(archive)
    if found != source.tgz_md5:
        raise OSError(
            f"{archive} has md5 {found}, not the published {source.tgz_md5}: it is truncated, damaged or another file"
        )
    folder = target / source.base_folder
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(archive) as tar:
            for name, _ in _files(source):
                packed = tar.extractfile(f"{source.base_folder}/{name}")
                if packed is None:
                    raise KeyError(f"{name} is no file in it")
                with (folder / name).open("wb") as file:
                    shutil.copyfileobj(packed, file)
    except (tarfile.TarError, KeyError) as error:
        raise OSError(f"{archive} was not unpacked: {error}") from None


def _files(source: Any) -> list[tuple[str, str]]:
    """Name and published md5 of each original file."""
    meta = source.meta["filename"], source.meta["md5"]
    return [(name, md5) for name, md5 in [*source.train_list, *source.test_list, meta]]


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


# A folder of the user's own images

PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
UNREADABLE = (OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError)  # what Pillow raises
PAD = (127, 127, 127)
NAMED = 5  # files or classes in one message


def open_image(source: str | Path | IO[bytes]) -> Image.Image:
    """An image file as upright RGB: rotated as its EXIF says, transparency over white, 16 bits down to 8.

    Raises:
        OSError, SyntaxError, ValueError, RuntimeError, DecompressionBombError: it is no image that can be read whole.
    """
    with Image.open(source) as file:
        image = ImageOps.exif_transpose(file)
        if image.mode.startswith("I"):
            grey = np.asarray(image)
            image = Image.fromarray((grey >> (8 if grey.max(initial=0) > 255 else 0)).clip(0, 255).astype(np.uint8))
        if image.has_transparency_data:
            layer = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
        return image.convert("RGB")


def fit_image(image: Image.Image, size: tuple[int, int], fit: str) -> NDArray[np.uint8]:
    """An RGB image in another size (height, width), by `crop`, `pad` or `squash` -> uint8 (height, width, 3)."""
    target, bicubic = (size[1], size[0]), Image.Resampling.BICUBIC
    if fit == "crop":
        fitted = ImageOps.fit(image, target, bicubic)
    else:
        fitted = image.resize(target, bicubic) if fit == "squash" else ImageOps.pad(image, target, bicubic, PAD)
    return np.asarray(fitted)


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
        ValueError: no class folders, classes with too few images, or files that are no images and `broken` is not
            `skip`.
    """
    folder = Path(folder)
    files = _split_files(folder, test_share)
    classes = sorted({name for part in files.values() for name in part})
    listed = [(part, classes.index(name), path) for part in files for name in classes for path in files[part][name]]
    paths = [path for _, _, path in listed]
    kept = np.empty((len(listed), image_size, image_size, 3), dtype=np.uint8)

    def read(number: int) -> str | None:
        try:
            kept[number] = fit_image(open_image(paths[number]), (image_size, image_size), fit)
        except UNREADABLE as error:
            return f"{paths[number].relative_to(folder)} ({' '.join(str(error).split()) or type(error).__name__})"
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        problems = [problem for _, problem in zip(bar(paths), pool.map(read, range(len(paths))), strict=True)]
    unreadable = [problem for problem in problems if problem]
    if unreadable and broken != "skip":
        raise ValueError(
            f"{len(unreadable)} of {len(paths)} files in {folder} cannot be read as images: {_some(unreadable)}; "
            "remove them, or set data.broken to skip"
        )
    good = np.array([problem is None for problem in problems])
    images, labels = {}, {}
    for part in files:
        rows = good & np.array([of == part for of, _, _ in listed])
        images[part], labels[part] = kept[rows], np.array([label for _, label, _ in listed], dtype=np.int64)[rows]
    _require_enough(folder, labels, classes)
    ignored = [str(path.relative_to(folder)) for name in _folders(folder) for path in image_files(folder / name)[1]]
    return Dataset(classes, images, labels, broken=unreadable, ignored=ignored)


def _split_files(folder: Path, test_share: float) -> dict[str, dict[str, list[Path]]]:
    """Part -> class -> image files, in the order of their names."""
    top = _folders(folder)
    given = {name: PARTS[name.lower()] for name in top if name.lower() in PARTS}
    folders = {"train": folder}
    if "train" in given.values() and (len(given) > 1 or len(top) == 1):
        folders = {part: folder / name for part in ("train", "val", "test") for name in given if given[name] == part}
        if len(folders) < len(top):
            raise ValueError(
                f"{folder} has {_some(top)}: beside training images it may have one folder of validation and one of "
                "test images, and no other"
            )
    files = {part: _class_files(path) for part, path in folders.items()}
    classes = set(files["train"])
    if len(classes) < 2:
        raise ValueError(
            f"{folder} holds {'one class' if classes else 'no class'}, at least two are needed; put images in "
            f"{folder}/<class>/, or in {folder}/train/<class>/ and {folder}/test/<class>/"
        )
    for part, by_class in files.items():
        if unknown := sorted(set(by_class) - classes):
            raise ValueError(f"{folders[part]} has classes that {folder}/train has not: {_some(unknown)}")
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


def image_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files below a folder whose names are those of images, and the others, each in order; hidden ones are neither."""
    known = Image.registered_extensions()
    shown = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    images = [path for path in shown if path.suffix.lower() in known]
    return images, [path for path in shown if path.suffix.lower() not in known]


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
        raise ValueError(
            f"{folder}: classes with too few images: {_some(few)}; each needs at least {least}; add images or remove "
            "the folder"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
