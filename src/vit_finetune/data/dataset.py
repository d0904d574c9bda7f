"""A data set, whatever its source: images and labels of each part."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_finetune.core.files import chunks


@dataclass(frozen=True)
class Dataset:
    """A whole data set, in memory or mapped from files.

    Attributes:
        classes: names in label order.
        images, labels: for `train` and `test`, and for `val` where the data set has a part of that kind.
        files: of each part, where each image came from; where the data come with a package, part and index.
        sizes: of each part, height and width (N, 2) of each image before it was fitted; empty where none was.
        checksums: md5 of each original file; empty where the data come with a package or are the user's.
        broken: files of the user's that are no readable images, with the reason.
        ignored: files among the user's images whose name is not one of an image.
    """

    classes: list[str]
    images: dict[str, NDArray[np.uint8]]
    labels: dict[str, NDArray[np.int64]]
    files: dict[str, list[str]] = field(default_factory=dict)
    sizes: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for part, labels in self.labels.items():
            self.files.setdefault(part, [f"{part}/{index}" for index in range(len(labels))])


def pixel_hashes(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """A hash (N, 2) of the pixels of each image: 128 bits of BLAKE2b."""
    hashes = [hashlib.blake2b(image, digest_size=16).digest() for chunk in chunks(images) for image in chunk.copy()]
    return np.frombuffer(b"".join(hashes), dtype="<u8").reshape(-1, 2)


def channel_statistics(images: NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel in units of the full range, from (N, H, W, C) images.

    Taken from the 256 counts of each channel, so no floating-point copy of the images is made.
    """
    levels = np.arange(256) / 255
    counts = np.zeros((images.shape[-1], 256), dtype=np.int64)
    for chunk in chunks(images):
        counts += [np.bincount(chunk[..., c].ravel(), minlength=256) for c in range(images.shape[-1])]
    shares = counts / images[..., 0].size
    means = [float(share @ levels) for share in shares]
    stds = [float(np.sqrt(share @ (levels - mean) ** 2)) for share, mean in zip(shares, means, strict=True)]
    return [round(mean, 6) for mean in means], [round(std, 6) for std in stds]


def class_counts(labels_by_split: Mapping[str, NDArray[Any]], classes: Sequence[str]) -> dict[str, dict[str, int]]:
    """Images per split and class, absent classes included: {split: {class: count}}."""
    counts = {split: np.bincount(labels, minlength=len(classes)) for split, labels in labels_by_split.items()}
    return {split: dict(zip(classes, count.tolist(), strict=True)) for split, count in counts.items()}


def balance_rows(counts: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """A row for each split and class, from what `class_counts` returns."""
    return [
        {"split": split, "class": name, "images": count}
        for split, by_class in counts.items()
        for name, count in by_class.items()
    ]
