"""What training does to the images, and to the tokens at the freeze boundary."""

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2


def to_device_of(tensor: Tensor, drawn: Tensor) -> Tensor:
    """Numbers drawn on the CPU, moved to where `tensor` is without waiting for a GPU."""
    return drawn.to(tensor.device, non_blocking=True)


def augment(images: Tensor, crop_scale: float, magnitude: int, seed: int) -> Tensor:
    """Each image by itself: a random part of it, enlarged to its size, then two operations of
    RandAugment.

    Args:
        images: uint8 (B, H, W, 3), on the CPU.
        crop_scale: smallest share of the area that is kept (Szegedy et al., arXiv:1409.4842); 1: no
            crop.
        magnitude: 0 to 30 (Cubuk et al., arXiv:1909.13719); 0: no operation.
    """
    steps: list[v2.Transform] = []
    if crop_scale < 1:
        size = list(images.shape[1:3])
        steps.append(
            v2.RandomResizedCrop(size, (crop_scale, 1), interpolation=InterpolationMode.BICUBIC)
        )
    if magnitude:
        steps.append(v2.RandAugment(magnitude=magnitude))
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
        torch.manual_seed(seed)
        changed = [v2.Compose(steps)(image) for image in images.permute(0, 3, 1, 2)]
    return torch.stack(changed).permute(0, 2, 3, 1)


def drop_tokens(tokens: Tensor, prefix: int, share: float, rng: np.random.Generator) -> Tensor:
    """Keep the prefix tokens and a random rest of the patch tokens of each image: (B, T, D) -> (B,
    T', D)."""
    patches = tokens.shape[1] - prefix
    kept = max(1, round(patches * (1 - share)))
    order = (
        torch.from_numpy(rng.random((len(tokens), patches)))
        .argsort(dim=1)[:, :kept]
        .sort(dim=1)
        .values
    )
    index = to_device_of(
        tokens, torch.cat([torch.arange(prefix).expand(len(tokens), -1), order + prefix], dim=1)
    )
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def shift_brightness(tokens: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Move each channel of each image by a random share of its range over the tokens (B, T, D), and
    stay within it.

    The pointwise "brightness" per channel of frozen features (Bär et al., arXiv:2403.10519).
    """
    low, high = tokens.amin(1, keepdim=True), tokens.amax(1, keepdim=True)
    share = to_device_of(
        tokens,
        torch.from_numpy(rng.uniform(-strength, strength, size=low.shape).astype(np.float32)),
    )
    return (tokens + share * (high - low)).clamp(low, high)
