"""What a training reads: activations or images, and labels."""

from collections.abc import Sequence
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
        views: stored activations (N, ...) of the training images, or these images: as they are and,
            where that is wanted, mirrored.
        labels: (N,).
        val: the same for the validation images, (M, ...).
        val_labels: (M,).
        images: the training images (N, H, W, 3) uint8. They are needed where the settings change
            the images in every epoch.
    """

    views: Sequence[View]
    labels: Tensor
    val: View
    val_labels: Tensor
    images: NDArray[np.uint8] | None = None

    def labels_digest(self) -> str:
        """SHA-256 of the labels."""
        return digest(self.labels.numpy(), self.val_labels.numpy())

    def changing_views(self) -> list[View]:
        """The images themselves, in as many views as there are stored ones."""
        assert self.images is not None
        views: list[View] = [ImageView(self.images, mirrored=False)]
        if len(self.views) > 1:
            views.append(ImageView(self.images, mirrored=True))
        return views


def read_training_images(subset: str | Path, flip: bool) -> tuple[TrainingData, str]:
    """The images and labels of train and val, and their SHA-256.

    Args:
        flip: whether the training images are also seen mirrored.
    """
    images, labels = read_split(subset, "train", "images", "labels")
    val_images, val_labels = read_split(subset, "val", "images", "labels")
    views: list[View] = [ImageView(images, mirrored=False)]
    if flip:
        views.append(ImageView(images, mirrored=True))
    data = TrainingData(
        views=views,
        labels=torch.tensor(labels),
        val=ImageView(val_images, mirrored=False),
        val_labels=torch.tensor(val_labels),
        images=images,
    )
    return data, digest(images, labels, val_images, val_labels)


def read_training_data(
    embedded: str | Path, subset: str | Path, manifest: Manifest
) -> TrainingData:
    """The stored activations, labels and images of train and val, mapped into memory.

    Raises:
        UserError: a file is missing or damaged.
    """
    images, labels = read_split(subset, "train", "images", "labels")
    (val_labels,) = read_split(subset, "val", "labels")
    views: list[View] = [map_activations(embedded, manifest, "train")]
    if "train_flip" in manifest.shapes:
        views.append(map_activations(embedded, manifest, "train_flip"))
    return TrainingData(
        views=views,
        labels=torch.tensor(labels),
        val=map_activations(embedded, manifest, "val"),
        val_labels=torch.tensor(val_labels),
        images=images,
    )


def take(views: Sequence[View], view_of_image: Tensor, rows: Tensor) -> Tensor:
    """A batch (B, ...) in which each image comes from its own view.

    Args:
        view_of_image: the number of the view of every image, (N,).
        rows: the images of the batch, (B,).
    """
    batch = _rows_of(views[0], rows)
    for number, view in enumerate(views[1:], start=1):
        places = (view_of_image[rows] == number).nonzero().squeeze(1)
        batch[to_device_of(batch, places)] = _rows_of(view, rows[places])
    return batch


def _rows_of(view: View, rows: Tensor) -> Tensor:
    if isinstance(view, Tensor):
        rows = to_device_of(view, rows)
    return view[rows]
