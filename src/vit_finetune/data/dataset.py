"""data/raw: a whole data set, whatever its source. `download` writes it, `subset` reads it."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_finetune.core.arrays import chunks, decode_names, new_rows, read_split, write_split
from vit_finetune.core.files import read_json, write_json
from vit_finetune.core.progress import progress
from vit_finetune.core.threads import ordered_map
from vit_finetune.data.image_files import content_boxes
from vit_finetune.data.source import Image, Source, Unreadable

RAW = "data/raw"
HASH_SIZE = 16  # bytes, of BLAKE2b


@dataclass(frozen=True)
class Dataset:
    """What data/raw holds of each part, besides the pixels.

    Attributes:
        description: dataset.json.
        labels, files: of each part, (N,); names are as `encode_names` returns them.
        same: a number for each image (N,); equal numbers, in one part or in two, are equal pixels.
        groups: a number for each image (N,); equal numbers, in one part or in two, are one group
            (`data.group`). Without groups each image has its own number.
        sizes: height and width of each file's image, (N, 2); empty where the images were no files.
    """

    description: Mapping[str, Any]
    labels: dict[str, NDArray[np.int64]]
    files: dict[str, NDArray[np.bytes_]]
    same: dict[str, NDArray[np.intp]]
    groups: dict[str, NDArray[np.int64]]
    sizes: dict[str, NDArray[np.int32]]

    @classmethod
    def read(cls, folder: str | Path) -> "Dataset":
        description = read_json(Path(folder) / "dataset.json")

        def column(name: str) -> dict[str, NDArray[Any]]:
            return {part: read_split(folder, part, name)[0] for part in description["counts"]}

        return cls(
            description=description,
            labels=column("labels"),
            files=column("files"),
            same=same_pixels(column("hashes")),
            groups=column("groups"),
            sizes=column("sizes") if description["fitted"] else {},
        )

    @property
    def name(self) -> str:
        return str(self.description["name"])

    @property
    def classes(self) -> list[str]:
        return list(self.description["classes"])

    def file_names(self) -> Iterator[str]:
        """The names of all images, as a person can read them."""
        for files in self.files.values():
            yield from decode_names(files)

    @property
    def padded(self) -> bool:
        """Whether bars of grey were added to the images."""
        return bool(self.sizes) and self.description["fit"] == "pad"

    def content(self, part: str) -> NDArray[np.int32]:
        """Where the image lies between its bars: top, left, bottom and right in kept pixels, (N,
        4)."""
        height, width = self.description["image_shape"][:2]
        return content_boxes(self.sizes[part], (height, width), self.description["fit"])

    def file(self, part: str, row: int) -> str:
        """The name of an image, as a person can read it."""
        return decode_names(self.files[part][row : row + 1])[0]


def write_dataset(folder: Path, name: str, source: Source, threads: int) -> list[str]:
    """Write all images of a source with what is known of them, and dataset.json.

    Args:
        name: of the source.
        threads: that compute side by side.

    Returns:
        Sentences for the user, such as how many files are left out.

    Raises:
        UserError: the source is no data set to work with.
    """
    labels = {}
    groups = {}
    unreadable: dict[str, str] = {}
    for part in source.files:
        labels[part], groups[part] = _write_part(folder, part, source, unreadable)
    for part, numbers in _renumbered(groups).items():
        write_split(folder, part, groups=numbers)
    unreadable_in_words = [f"{file} ({reason})" for file, reason in unreadable.items()]
    source.require_usable(labels, unreadable_in_words)
    (images,) = read_split(folder, "train", "images")
    mean, std = channel_statistics(images, threads)
    description = {
        "name": name,
        "classes": source.classes,
        "counts": class_counts(labels, source.classes),
        "image_shape": list(source.image_shape),
        "fit": source.fit,
        "fitted": (folder / "train_sizes.npy").is_file(),
        "broken": unreadable,
        "ignored": list(source.ignored),
        "channel_mean": mean,
        "channel_std": std,
        "md5": dict(source.checksums),
    }
    write_json(folder / "dataset.json", description)
    return [
        *source.notes,
        *_left_out(unreadable_in_words, "cannot be read as images"),
        *_left_out(source.ignored, "are no images of a class"),
    ]


def _write_part(
    folder: Path, part: str, source: Source, unreadable: dict[str, str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Write the images of a part. Returns their labels and groups.

    Args:
        unreadable: gets the name of each file that cannot be read, and why.
    """
    files = source.files[part]
    labels = np.zeros(len(files), dtype=np.int64)
    sizes = np.zeros((len(files), 2), dtype=np.int32)
    read = np.zeros(len(files), dtype=bool)
    sized = False
    with _new_images(folder, part, source.image_shape) as append:
        images = progress(source.read(part), f"{part} images", "image", len(files))
        for row, image in enumerate(images):
            if isinstance(image, Unreadable):
                name = decode_names(files[row : row + 1])[0]
                unreadable[name] = image.reason
                continue
            append(image)
            read[row] = True
            labels[row] = image.label
            if image.size:
                sized = True
                sizes[row] = image.size
    write_split(folder, part, labels=labels[read], files=files[read])
    if sized:
        write_split(folder, part, sizes=sizes[read])
    return labels[read], source.groups[part][read]


def _renumbered(groups: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[np.int64]]:
    """The groups of the images of each part, numbered from 0 on, so that files that are left out
    change no number."""
    _, numbers = np.unique(np.concatenate([*groups.values()]), return_inverse=True)
    ends = np.cumsum([len(part) for part in groups.values()])
    return dict(zip(groups, np.split(numbers, ends[:-1]), strict=True))


@contextmanager
def _new_images(
    folder: Path, part: str, shape: tuple[int, int, int]
) -> Iterator[Callable[[Image], None]]:
    """A function that appends an image and the hash of its pixels to the files of a part."""
    with (
        new_rows(folder / f"{part}_images.npy", shape, np.uint8) as append_pixels,
        new_rows(folder / f"{part}_hashes.npy", (HASH_SIZE,), np.uint8) as append_hash,
    ):

        def append(image: Image) -> None:
            pixels = np.ascontiguousarray(image.pixels)
            digest = hashlib.blake2b(pixels.data, digest_size=HASH_SIZE).digest()
            append_pixels(pixels[None])
            append_hash(np.frombuffer(digest, dtype=np.uint8)[None])

        yield append


def _left_out(files: Sequence[str], reason: str) -> list[str]:
    """How many files are left out, and the first; nothing if there is none."""
    if not files:
        return []
    more = " and others, see data/raw/dataset.json" if len(files) > 1 else ""
    return [f"left out {len(files)} that {reason}: {files[0]}{more}"]


def same_pixels(hashes: Mapping[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.intp]]:
    """For each part a number (N,) of each image, from hashes (N, 16): equal numbers are equal
    pixels."""
    together = np.concatenate([*hashes.values()]).view("<u8")
    numbers = np.unique(together, axis=0, return_inverse=True)[1].ravel()
    ends = np.cumsum([len(part) for part in hashes.values()])[:-1]
    return dict(zip(hashes, np.split(numbers, ends), strict=True))


def channel_statistics(
    images: NDArray[np.uint8], threads: int = 1
) -> tuple[list[float], list[float]]:
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
        ordered_map(sums, chunks(images), threads),
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
