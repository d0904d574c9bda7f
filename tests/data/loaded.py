"""A source as `download` writes it and `subset` reads it."""

import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from vit_finetune.core.arrays import read_split
from vit_finetune.data.dataset import Dataset, write_dataset


def load(source, name="folder", threads=2):
    """What data/raw holds of a source, in memory."""
    with tempfile.TemporaryDirectory() as scratch:
        write_dataset(Path(scratch), name, source, threads)
        dataset = Dataset.read(scratch)
        parts = dataset.labels
        return SimpleNamespace(
            classes=dataset.classes,
            labels={part: np.array(dataset.labels[part]) for part in parts},
            groups={part: np.array(dataset.groups[part]) for part in parts},
            files={part: np.array(dataset.files[part]) for part in parts},
            sizes={part: np.array(sizes) for part, sizes in dataset.sizes.items()},
            images={part: np.array(read_split(scratch, part, "images")[0]) for part in parts},
            checksums=dataset.description["md5"],
            broken=dataset.description["broken"],
            ignored=dataset.description["ignored"],
        )
