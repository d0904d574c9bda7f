"""Whether a mirrored image still shows its class."""

import torch
from torch import Tensor

from vit_finetune.model.boundary import SplitModel
from vit_finetune.training.data import TrainingData
from vit_finetune.training.features import Features

SAMPLE = 500  # mirrored training images that are looked at
FAR = 0.2  # difference of two accuracies that has no other cause


def mirrored_warnings(
    split_model: SplitModel, data: TrainingData, features: Features, name: str
) -> list[str]:
    """A sentence if mirrored images look like another class.

    A classifier of images as they are, the class with the nearest mean of the features, should be
    right on mirrored training images about as often as on validation images: more often, since it
    knows the images.

    Args:
        features: of the images as they are, before training.
        name: of the section of params.yaml that mirrors them.
    """
    assert data.images is not None
    step = -(-len(data.labels) // SAMPLE)
    mirrored = split_model.predict_features(data.images[::step].flip(2))
    means = class_means(features.train, data.labels)
    of_mirrored = nearest_mean_accuracy(means, mirrored, data.labels[::step])
    of_val = nearest_mean_accuracy(means, features.val, data.val_labels)
    if of_val - of_mirrored < FAR:
        return []
    return [
        f"mirrored images look like other classes: by their features, {of_mirrored:.3f} of "
        f"{len(mirrored)} mirrored training images belong to their class, and {of_val:.3f} of the "
        f"validation images as they are. Set {name}.flip to false"
    ]


def class_means(features: Tensor, labels: Tensor) -> Tensor:
    """The mean feature of each class, (K, D), from features (N, D) and labels (N,)."""
    means = [features[labels == label].mean(dim=0) for label in range(int(labels.max()) + 1)]
    return torch.stack(means)


def nearest_mean_accuracy(means: Tensor, features: Tensor, labels: Tensor) -> float:
    """How often the nearest of the means (K, D) of features (N, D) is that of the label (N,)."""
    nearest = torch.cdist(features, means).argmin(dim=1)
    return float((nearest == labels).double().mean())
