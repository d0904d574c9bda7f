"""From stored uint8 images to the model's input: one batched resize, crop and normalisation on the
device."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import center_crop

from vit_finetune.core.errors import UserError


def _bicubic(x: Tensor) -> Tensor:
    """Keys' kernel with a = -1/2, as PIL has it."""
    x = x.abs()
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))


def _bilinear(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp_min(0)


FILTERS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "bicubic": (_bicubic, 2),
    "bilinear": (_bilinear, 1),
}


@lru_cache
def resize_weights(interpolation: str, source: int, target: int) -> Tensor:
    """PIL's weights of each source pixel in each target pixel, rounded to 22 bits as PIL does:
    (target, source).

    The kernel is widened by the factor when the image shrinks (antialiasing).
    """
    kernel, support = FILTERS[interpolation]
    scale = source / target
    width = max(scale, 1.0)
    centre = (torch.arange(target, dtype=torch.float64) + 0.5) * scale
    pixel = torch.arange(source, dtype=torch.float64) + 0.5
    distance = (pixel - centre[:, None]) / width
    first, last = (centre - support * width + 0.5).floor(), (centre + support * width + 0.5).floor()
    inside = (pixel - 0.5 >= first[:, None]) & (pixel - 0.5 < last[:, None])
    weights = torch.where(inside, kernel(distance), 0)
    weights = weights / weights.sum(dim=1, keepdim=True) * 2**22
    return (weights.abs() + 0.5).floor() * weights.sign() / 2**22


def resize(images: Tensor, height: int, width: int, interpolation: str) -> Tensor:
    """Grey levels (B, C, H, W) in 0..255 -> (B, C, height, width), rounded, bit for bit as PIL:
    columns, then rows.

    Exact, since products of 8 and 22 bits and their sums fit float64. torchvision's own batched
    resize differs from PIL by up to 2 levels on a CPU and 24 on a GPU, where it keeps the overshoot
    of the first pass.
    """
    dtype = torch.float32 if images.device.type == "mps" else torch.float64  # mps has no float64
    columns = resize_weights(interpolation, images.shape[-1], width).to(images.device, dtype)
    rows = resize_weights(interpolation, images.shape[-2], height).to(images.device, dtype)
    narrowed = _whole(images.to(dtype) @ columns.T)
    resized = torch.empty(*images.shape[:2], height, width, device=images.device)
    # one by one: what a core's own cache holds
    for image, source in zip(resized, narrowed, strict=True):
        image.copy_(_whole(rows @ source))
    return resized


def _whole(levels: Tensor) -> Tensor:
    """Rounded to grey levels, in place."""
    return levels.add_(0.5).floor_().clamp_(0, 255)


@dataclass(frozen=True)
class Preprocessing:
    """A timm data configuration, resolved. Sizes are (height, width) in pixels."""

    input_size: tuple[int, int]
    interpolation: str
    crop_pct: float
    crop_mode: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Preprocessing":
        """From what `timm.data.resolve_model_data_config` returns (UserError for what is not known
        here)."""
        for key, known in (("crop_mode", ("center", "squash")), ("interpolation", tuple(FILTERS))):
            if config[key] not in known:
                raise UserError(
                    f"the model wants {key} {config[key]!r}; supported: {', '.join(known)}"
                )
        height, width = config["input_size"][1:]
        mean, std = tuple(config["mean"]), tuple(config["std"])
        return cls(
            (height, width),
            config["interpolation"],
            config["crop_pct"],
            config["crop_mode"],
            mean,
            std,
        )

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Size of an image after the resize and before the crop."""
        target = [math.floor(side / self.crop_pct) for side in self.input_size]
        if self.crop_mode == "squash":
            return target[0], target[1]
        if target[0] == target[1]:  # as torchvision's Resize(int): the shorter side fits
            short = target[0]
            return (
                (short, int(short * width / height))
                if height <= width
                else (int(short * height / width), short)
            )
        scale = max(target[0] / height, target[1] / width)
        return round(height * scale), round(width * scale)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) -> float32 (B, 3, h, w); equals timm's PIL transform."""
        pixels = images.permute(0, 3, 1, 2)
        pixels = resize(pixels, *self.resized(*pixels.shape[-2:]), self.interpolation)
        pixels = center_crop(pixels, list(self.input_size))
        mean, std = (
            torch.tensor(v, device=images.device).view(-1, 1, 1) for v in (self.mean, self.std)
        )
        return pixels.div_(255).sub_(mean).div_(std)
