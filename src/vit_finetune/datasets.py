"""The data sources, each as uint8 images (N, H, W, 3) and int64 labels (N,) of a train and a test part."""

import hashlib
import http.client
import os
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDER_VARIABLE = "VIT_DATA_DIR"


@dataclass(frozen=True)
class Dataset:
    """A whole data set in memory.

    Attributes:
        classes: names in label order.
        images, labels: for `train` and `test`.
        checksums: md5 of each original file; empty where the data come with a package.
    """

    classes: list[str]
    images: dict[str, NDArray[np.uint8]]
    labels: dict[str, NDArray[np.int64]]
    checksums: dict[str, str]


def load_dataset(name: str) -> Dataset:
    return {"cifar10": load_cifar10, "digits": load_digits}[name]()


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
        checksums={},
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


def load_cifar10() -> Dataset:
    """CIFAR-10 (Krizhevsky 2009) from its original files, every one checked against its published md5.

    They are taken from the folder that VIT_DATA_DIR names, which holds either the extracted batches or the
    archive; else from the user's cache folder, to which they are downloaded once.

    Raises:
        OSError: no file, a wrong checksum, or no network; the message names the way out.
    """
    from torchvision.datasets import CIFAR10

    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        root = Path(named).expanduser()
        if not root.is_dir():
            raise OSError(
                f"{FOLDER_VARIABLE} is {named!r}, which is not a folder; it must hold {CIFAR10.base_folder}/ or "
                f"{CIFAR10.filename} (unset it to download them; `make demo` needs neither)"
            )
        if root.name == CIFAR10.base_folder:
            root = root.parent
        if not (root / CIFAR10.base_folder).is_dir() and (root / CIFAR10.filename).is_file():
            with tempfile.TemporaryDirectory() as scratch:
                _extract(root / CIFAR10.filename, CIFAR10.tgz_md5, Path(scratch))
                return _read_cifar10(CIFAR10, Path(scratch))
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vit_finetune"
        if _broken_file(CIFAR10, root):
            _download(CIFAR10, root)
    return _read_cifar10(CIFAR10, root)


def _read_cifar10(source: Any, root: Path) -> Dataset:
    broken = _broken_file(source, root)
    if broken:
        raise OSError(
            f"{broken}; {FOLDER_VARIABLE} must name a folder with {source.base_folder}/ or {source.filename} "
            "as its author published them (unset it to download them; `make demo` needs neither)"
        )
    parts = {"train": source(root, train=True), "test": source(root, train=False)}
    files = [*source.train_list, *source.test_list, [source.meta["filename"], source.meta["md5"]]]
    return Dataset(
        classes=list(parts["train"].classes),
        images={split: np.ascontiguousarray(part.data) for split, part in parts.items()},
        labels={split: np.array(part.targets, dtype=np.int64) for split, part in parts.items()},
        checksums=dict(files),
    )


def _broken_file(source: Any, root: Path) -> str | None:
    """The first original file that is missing or not the published one, in words."""
    folder = root / source.base_folder
    for name, md5 in [*source.train_list, *source.test_list, [source.meta["filename"], source.meta["md5"]]]:
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
        _extract(archive, source.tgz_md5, root)
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


def _extract(archive: Path, md5: str, target: Path) -> None:
    found = _md5(archive)
    if found != md5:
        raise OSError(f"{archive} has md5 {found}, not the published {md5}: it is truncated, damaged or another file")
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(target, filter="data")
    except tarfile.TarError as error:
        raise OSError(f"{archive} was not unpacked: {error}") from None


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
