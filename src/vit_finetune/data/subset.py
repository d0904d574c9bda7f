"""The files of data/subset: the images of each split, with their labels, names and source
indices."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from vit_finetune.core.arrays import copy_rows, read_split, write_split
from vit_finetune.core.files import write_json
from vit_finetune.data.dataset import RAW, Dataset
from vit_finetune.data.image_files import READING
from vit_finetune.data.split import Indices, require_every_class


def source_of(split: str, raw: Dataset) -> str:
    """The split of the data set that the images of a split are taken from."""
    return split if split in raw.labels else "train"


def subset_size(raw: Dataset, chosen: Mapping[str, Indices]) -> int:
    """Bytes of the chosen images."""
    images = sum(len(indices) for indices in chosen.values())
    height, width, channels = raw.description["image_shape"]
    return images * height * width * channels


def write_subset(
    folder: Path, raw: Dataset, chosen: Mapping[str, Indices]
) -> dict[str, NDArray[Any]]:
    """Copy the chosen images with all that is known of them; returns the labels of each split.

    Raises:
        UserError: a class has no image in a split.
    """
    classes = raw.description["classes"]
    labels_by_split = {}
    for split, indices in chosen.items():
        source = source_of(split, raw)
        labels = raw.labels[source][indices]
        require_every_class(split, labels, classes, raw.labels[source])
        (images,) = read_split(RAW, source, "images")
        copy_rows(folder, split, "images", images, indices)
        write_split(folder, split, labels=labels, indices=indices, files=raw.files[source][indices])
        if raw.padded:
            write_split(folder, split, content=raw.content(source)[indices])
        labels_by_split[split] = labels
    description = {key: raw.description[key] for key in ("name", "classes", "image_shape", "fit")}
    write_json(folder / "dataset.json", {**description, "reading": READING})
    return labels_by_split
