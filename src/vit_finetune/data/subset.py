"""The files of data/subset: the images of each split, with their labels, names and source
indices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vit_finetune.core.arrays import copy_rows, read_split, write_split
from vit_finetune.core.files import write_json
from vit_finetune.data.corrections import Correction, correct
from vit_finetune.data.dataset import RAW, Dataset
from vit_finetune.data.image_files import READING
from vit_finetune.data.split import Indices


@dataclass(frozen=True)
class Split:
    """What is taken of a part of the data set.

    Attributes:
        part: of the data set.
        indices: of the images in that part, sorted, (N,).
        labels: corrected, (N,).
        relabelled, dropped: how many images the corrections changed or took away.
    """

    part: str
    indices: Indices
    labels: NDArray[np.int64]
    relabelled: int
    dropped: int

    @property
    def corrections(self) -> str:
        """What was corrected, in words; empty if nothing was."""
        words = []
        if self.relabelled:
            words.append(f"{self.relabelled} relabelled")
        if self.dropped:
            words.append(f"{self.dropped} dropped")
        return ", ".join(words)


def corrected_splits(
    dataset: Dataset, chosen: Mapping[str, Indices], corrections: Sequence[Correction]
) -> dict[str, Split]:
    """The chosen images after the corrections. No other image takes the place of a dropped one."""
    labels, dropped = correct(corrections, dataset.classes, dataset.labels, dataset.files)
    splits = {}
    for name, indices in chosen.items():
        part = name if name in dataset.labels else "train"
        stays = ~dropped[part][indices]
        kept = indices[stays]
        changed = labels[part][kept] != dataset.labels[part][kept]
        splits[name] = Split(
            part=part,
            indices=kept,
            labels=labels[part][kept],
            relabelled=int(changed.sum()),
            dropped=int((~stays).sum()),
        )
    return splits


def subset_size(dataset: Dataset, splits: Mapping[str, Split]) -> int:
    """Bytes of the images."""
    images = sum(len(split.indices) for split in splits.values())
    height, width, channels = dataset.description["image_shape"]
    return images * height * width * channels


def write_subset(folder: Path, dataset: Dataset, splits: Mapping[str, Split]) -> None:
    """Copy the images with all that is known of them."""
    for name, split in splits.items():
        part = split.part
        indices = split.indices
        (images,) = read_split(RAW, part, "images")
        copy_rows(folder, name, "images", images, indices)
        write_split(
            folder,
            name,
            labels=split.labels,
            indices=indices,
            files=dataset.files[part][indices],
            groups=dataset.groups[part][indices],
        )
        if dataset.padded:
            write_split(folder, name, content=dataset.content(part)[indices])
    kept = ("name", "classes", "image_shape", "fit", "fitted")
    description = {key: dataset.description[key] for key in kept}
    description["corrections"] = {name: split.corrections for name, split in splits.items()}
    description["reading"] = READING
    write_json(folder / "dataset.json", description)
