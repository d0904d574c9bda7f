"""What training does to the images, and to the tokens at the freeze boundary."""

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2


def to_device_of(tensor: Tensor, drawn: Tensor) -> Tensor:
    """Numbers drawn on the CPU, moved to where `tensor` is without waiting for a GPU."""
    return drawn.to(tensor.device, non_blocking=True)


def flip_some(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Mirror each of the images (B, H, W, 3) with a probability of one half."""
    is_mirrored = torch.from_numpy(rng.random(len(images)) < 0.5)
    chosen = to_device_of(images, is_mirrored).view(-1, 1, 1, 1)
    return torch.where(chosen, images.flip(2), images)


def augment(images: Tensor, crop_scale: float, magnitude: int, seed: int) -> Tensor:
    """Change each image by itself: a random crop, enlarged to the image's size, then two operations
    of RandAugment.

    Args:
        images: uint8 (B, H, W, 3), on the CPU.
        crop_scale: the smallest fraction of the area that is kept (Szegedy et al.,
            arXiv:1409.4842); 1: no crop.
        magnitude: 0 to 30 (Cubuk et al., arXiv:1909.13719); 0: no operation.
    """
    steps: list[v2.Transform] = []
    if crop_scale < 1:
        size = list(images.shape[1:3])
        scale = (crop_scale, 1)
        steps.append(v2.RandomResizedCrop(size, scale, interpolation=InterpolationMode.BICUBIC))
    if magnitude:
        steps.append(v2.RandAugment(magnitude=magnitude))
    transform = v2.Compose(steps)
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
        torch.manual_seed(seed)
        changed = [transform(image) for image in images.permute(0, 3, 1, 2)]
    return torch.stack(changed).permute(0, 2, 3, 1)


def drop_tokens(tokens: Tensor, prefix: int, fraction: float, rng: np.random.Generator) -> Tensor:
    """Drop a random fraction of each image's patch tokens and keep the order of the others.

    Args:
        tokens: (B, T, D).
        prefix: the number of prefix tokens, which stay.

    Returns:
        (B, T', D), with at least one patch token.
    """
    images, length, _ = tokens.shape
    patches = length - prefix
    remaining = max(1, round(patches * (1 - fraction)))
    random_order = rng.random((images, patches)).argpartition(remaining - 1, axis=1)
    patch_index = np.sort(random_order[:, :remaining], axis=1) + prefix
    prefix_index = np.broadcast_to(np.arange(prefix), (images, prefix))
    index = torch.from_numpy(np.concatenate([prefix_index, patch_index], axis=1))
    image = torch.arange(images, device=tokens.device).unsqueeze(1)
    return tokens[image, to_device_of(tokens, index)]


def shift_brightness(tokens: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Shift each channel of each image by a random fraction of its range over the tokens (B, T, D),
    and clip it to that range.

    The pointwise "brightness" per channel of frozen features (Bär et al., arXiv:2403.10519).
    """
    low = tokens.amin(1, keepdim=True)
    high = tokens.amax(1, keepdim=True)
    drawn = rng.uniform(-strength, strength, size=low.shape).astype(np.float32)
    shift = to_device_of(tokens, torch.from_numpy(drawn))
    return (tokens + shift * (high - low)).clamp(low, high)
