"""What a training reads: activations or images, and labels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vit_finetune.activations.files import map_activations
from vit_finetune.activations.manifest import Manifest
from vit_finetune.activations.views import ImageView, View
from vit_finetune.core.arrays import read_split
from vit_finetune.core.hashes import digest
from vit_finetune.training.augmentation import to_device_of


@dataclass(frozen=True)
class TrainingData:
    """The training images, and the validation images.

    Attributes:
        train: stored activations (N, ...) of the training images, or these images.
        labels: (N,).
        groups: (N,); images with the same number show one subject, such as frames of a film.
        val: the same for the validation images, (M, ...).
        val_labels: (M,).
        val_groups: (M,), as `groups`.
        images: the training images (N, H, W, 3). They are needed where the settings change the
            images in every epoch.
    """

    train: View
    labels: Tensor
    groups: NDArray[np.int64]
    val: View
    val_labels: Tensor
    val_groups: NDArray[np.int64]
    images: ImageView | None = None

    def labels_digest(self) -> str:
        """SHA-256 of the labels and groups."""
        return digest(self.labels.numpy(), self.groups, self.val_labels.numpy(), self.val_groups)


def read_training_images(subset: str | Path) -> tuple[TrainingData, str]:
    """The images, labels and groups of train and val, and their SHA-256."""
    images, labels, groups = read_split(subset, "train", "images", "labels", "groups")
    val_images, val_labels, val_groups = read_split(subset, "val", "images", "labels", "groups")
    train = ImageView(images)
    data = TrainingData(
        train=train,
        labels=torch.tensor(labels),
        groups=np.array(groups),
        val=ImageView(val_images),
        val_labels=torch.tensor(val_labels),
        val_groups=np.array(val_groups),
        images=train,
    )
    return data, digest(images, labels, groups, val_images, val_labels, val_groups)


def read_training_data(
    embedded: str | Path, subset: str | Path, manifest: Manifest
) -> TrainingData:
    """The stored activations, labels and images of train and val, mapped into memory.

    Raises:
        UserError: a file is missing or damaged.
    """
    images, labels, groups = read_split(subset, "train", "images", "labels", "groups")
    val_labels, val_groups = read_split(subset, "val", "labels", "groups")
    return TrainingData(
        train=map_activations(embedded, manifest, "train"),
        labels=torch.tensor(labels),
        groups=np.array(groups),
        val=map_activations(embedded, manifest, "val"),
        val_labels=torch.tensor(val_labels),
        val_groups=np.array(val_groups),
        images=ImageView(images),
    )


def take(view: View, rows: Tensor) -> Tensor:
    """A batch (B, ...), the rows (B,) of a view."""
    if isinstance(view, Tensor):
        rows = to_device_of(view, rows)
    return view[rows]
