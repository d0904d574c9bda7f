"""The loss of a batch: augmentation, forward pass, cross-entropy."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vit_finetune.model.boundary import SplitModel
from vit_finetune.params import Training
from vit_finetune.training.augmentation import (
    augment,
    drop_tokens,
    flip_some,
    shift_brightness,
    to_device_of,
)


def changes_images(settings: Training) -> bool:
    """Whether images differ from epoch to epoch, so that nothing stored stands for them."""
    return settings.flip or changes_each_image(settings)


def changes_each_image(settings: Training) -> bool:
    """Whether images are changed one by one, which is done on the CPU."""
    return settings.crop_scale < 1 or settings.randaugment > 0


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """The weight of each class, (K,): the mean number of images of a class over the number of this
    one (King & Zeng 2001)."""
    counts = torch.bincount(labels, minlength=classes).clamp_min(1)
    return len(labels) / (classes * counts)


def training_loss(
    split_model: SplitModel,
    stored: Tensor,
    labels: Tensor,
    class_weights: Tensor | None,
    settings: Training,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """The summed cross-entropy of augmented images, and how many of them are predicted correctly.

    A mix of two images is predicted correctly if it gets the label of the image with the larger
    weight. Images are mixed before tokens are dropped, so that both tokens of a mix are of the same
    place.

    Args:
        stored: activations at the freeze boundary, or images (B, H, W, 3).
        labels: (B,).
        class_weights: (K,).
    """
    if settings.flip:
        stored = flip_some(stored, rng)
    if changes_each_image(settings):
        seed = int(rng.integers(2**63))
        stored = augment(stored, settings.crop_scale, settings.randaugment, seed)
    tokens = split_model.tokens(stored)
    if settings.brightness:
        tokens = shift_brightness(tokens, settings.brightness, rng)
    weight = 1.0
    partner = torch.arange(len(labels))
    if settings.mixup:
        weight = float(rng.beta(settings.mixup, settings.mixup))
        weight = max(weight, 1 - weight)
        partner = to_device_of(tokens, torch.from_numpy(rng.permutation(len(labels))))
        tokens = torch.lerp(tokens[partner], tokens, weight)
    if settings.token_dropout:
        prefix = split_model.model.num_prefix_tokens
        tokens = drop_tokens(tokens, prefix, settings.token_dropout, rng)
    logits = split_model.logits(tokens)

    def cross_entropy(targets: Tensor) -> Tensor:
        smoothing = settings.label_smoothing
        if class_weights is None:
            return F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="sum")
        # torch's own `weight` would weigh the smoothed classes by their weights, too: the best
        # answer to an image of a frequent class would be a rare one
        losses = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
        return (class_weights[targets] * losses).sum()

    loss = cross_entropy(labels)
    if weight < 1:
        loss = weight * loss + (1 - weight) * cross_entropy(labels[partner])
    hits = (logits.argmax(1) == labels).sum()
    return loss, hits
