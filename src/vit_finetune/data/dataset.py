"""A data set, whatever its source: images and labels of each part."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_finetune.core.arrays import chunks, encode_names, new_rows, write_split
from vit_finetune.core.threads import ordered_map


@dataclass(frozen=True)
class Dataset:
    """A whole data set, in memory or mapped from files.

    Attributes:
        classes: names in label order.
        images, labels: for `train` and `test`, and for `val` where the data set has a part of that
            kind.
        files: of each part, the file of each image as `encode_names` has it; where there is none, part and index
            as in `test/123`.
        sizes: of each part, height and width (N, 2) of each image before it was fitted; empty where
            none was.
        checksums: md5 of each original file; empty where the data come with a package or are the
            user's.
        broken: files of the user's that are no readable images, with the reason.
        ignored: files among the user's images whose name is not one of an image.
    """

    classes: list[str]
    images: dict[str, NDArray[np.uint8]]
    labels: dict[str, NDArray[np.int64]]
    files: dict[str, NDArray[np.bytes_]] = field(default_factory=dict)
    sizes: dict[str, NDArray[np.int32]] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for part, labels in self.labels.items():
            self.files.setdefault(
                part, encode_names(f"{part}/{index}" for index in range(len(labels)))
            )

    @property
    def size_in_memory(self) -> int:
        """Bytes of the images that are not mapped from files."""
        return sum(
            images.nbytes for images in self.images.values() if not isinstance(images, np.memmap)
        )


def write_dataset(folder: Path, dataset: Dataset) -> None:
    """`<split>_images.npy`, `_labels`, `_files`, `_sizes` and `_hashes`; what is mapped from a file
    of the folder is there already."""
    for name in ("images", "labels", "files", "sizes"):
        for split, array in getattr(dataset, name).items():
            if not isinstance(array, np.memmap):
                write_split(folder, split, **{name: array})
    for split, images in dataset.images.items():
        with new_rows(folder / f"{split}_hashes.npy", (16,), np.uint8) as append:
            for hashes in pixel_hashes(images):
                append(hashes)


def describe(dataset: Dataset, name: str, fit: str) -> dict[str, Any]:
    """dataset.json of data/raw.

    Args:
        name: of the source.
        fit: how images were brought to one size.
    """
    mean, std = channel_statistics(dataset.images["train"])
    return {
        "name": name,
        "classes": dataset.classes,
        "counts": class_counts(dataset.labels, dataset.classes),
        "image_shape": list(dataset.images["train"].shape[1:]),
        "fit": fit,
        "broken": dataset.broken,
        "ignored": dataset.ignored,
        "channel_mean": mean,
        "channel_std": std,
        "md5": dataset.checksums,
    }


def left_out(dataset: Dataset) -> list[str]:
    """A sentence for each kind of file that is no part of the data set: how many, and the first."""
    sentences = []
    for files, reason in (
        (dataset.broken, "cannot be read as images"),
        (dataset.ignored, "are no images of a class"),
    ):
        if files:
            more = " and others, see data/raw/dataset.json" if len(files) > 1 else ""
            sentences.append(f"left out {len(files)} that {reason}: {files[0]}{more}")
    return sentences


def pixel_hashes(images: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """A hash of the pixels of each image, (n, 16) bytes of some at a time: 128 bits of BLAKE2b."""

    def hashes(chunk: NDArray[np.uint8]) -> bytes:
        return b"".join(
            hashlib.blake2b(image, digest_size=16).digest() for image in np.array(chunk)
        )

    for some in ordered_map(hashes, chunks(images), os.cpu_count() or 1):
        yield np.frombuffer(some, dtype=np.uint8).reshape(-1, 16)


def channel_statistics(images: NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel in units of the full range, from (N, H, W, C)
    images.

    Taken from exact sums of integers, a few images at a time.
    """

    def sums(chunk: NDArray[np.uint8]) -> NDArray[np.int64]:
        channels = np.moveaxis(chunk, -1, 0)
        squares = np.square(channels, dtype=np.uint16)
        return np.array(
            [[values.sum(dtype=np.int64) for values in part] for part in (channels, squares)]
        )

    total = sum(
        ordered_map(sums, chunks(images), os.cpu_count() or 1),
        start=np.zeros((2, 3), dtype=np.int64),
    )
    mean, mean_square = total / images[..., 0].size / [[255], [255**2]]
    return mean.round(6).tolist(), np.sqrt(mean_square - mean**2).round(6).tolist()


def class_counts(
    labels_by_split: Mapping[str, NDArray[Any]], classes: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Images per split and class, absent classes included: {split: {class: count}}."""
    counts = {
        split: np.bincount(labels, minlength=len(classes))
        for split, labels in labels_by_split.items()
    }
    return {
        split: dict(zip(classes, count.tolist(), strict=True)) for split, count in counts.items()
    }


def balance_rows(counts: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """A row for each split and class, from what `class_counts` returns."""
    return [
        {"split": split, "class": name, "images": count}
        for split, by_class in counts.items()
        for name, count in by_class.items()
    ]
