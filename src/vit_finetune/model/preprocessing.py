"""From stored images to the model's input: resize, centre crop and normalisation of a batch, on its
device."""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vit_finetune.core.errors import UserError

Weights = NDArray[np.float64]


def _bicubic(x: Weights) -> Weights:
    """Keys' kernel with a = -1/2, as in PIL."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.select([x < 1, x < 2], [near, far], 0)


def _bilinear(x: Weights) -> Weights:
    return np.maximum(1 - np.abs(x), 0)


# name of the interpolation -> its kernel, and how far the kernel reaches
FILTERS: dict[str, tuple[Callable[[Weights], Weights], float]] = {
    "bicubic": (_bicubic, 2),
    "bilinear": (_bilinear, 1),
}
CROP_MODES = ("center", "squash")


@lru_cache
def resize_weights(interpolation: str, source: int, target: int) -> Weights:
    """PIL's weight of each source pixel in each target pixel, (target, source).

    PIL rounds weights to 22 bits. When the image shrinks, the kernel is as much wider
    (antialiasing).
    """
    kernel, support = FILTERS[interpolation]
    scale = source / target
    width = max(scale, 1.0)
    centre = (np.arange(target) + 0.5) * scale
    pixel = np.arange(source)
    first = np.floor(centre - support * width + 0.5)
    last = np.floor(centre + support * width + 0.5)
    inside = (pixel >= first[:, None]) & (pixel < last[:, None])
    weights = np.where(inside, kernel((pixel + 0.5 - centre[:, None]) / width), 0)
    weights = weights / weights.sum(axis=1, keepdims=True) * 2**22
    return np.floor(np.abs(weights) + 0.5) * np.sign(weights) / 2**22


def first_kept(resized: int, kept: int) -> int:
    """Where the middle begins, in pixels; rounded to the even one, as timm does."""
    return round((resized - kept) / 2)


def resize_rows(levels: Tensor, interpolation: str, resized: int, kept: int) -> Tensor:
    """Whole grey levels (..., source, n) -> the `kept` rows in the middle of `resized` rows, whole
    grey levels again: (..., kept, n).

    The sums are exact in float32, although the product of a level (8 bits) and a weight (22 bits)
    takes more than its 24 bits. Each weight is split into a multiple of 2^-15 and a rest. For
    images of up to 1024 pixels the sums of either part take at most 24 bits, so no order of adding
    rounds them; nor does adding the rest to what lies behind the point of the first sum.
    """
    source = levels.shape[-2]
    first = first_kept(resized, kept)
    if resized == source:
        return levels[..., first : first + kept, :]
    weights = resize_weights(interpolation, source, resized)[first : first + kept]
    coarse = np.round(weights * 2**15) / 2**15
    rest = weights - coarse
    sums = _as_on(levels, coarse) @ levels
    sums.add_(0.5)  # so that floor rounds
    whole = sums.floor()
    sums.sub_(whole).add_(_as_on(levels, rest) @ levels)
    return whole.add_(sums.floor_()).clamp_(0, 255)


def _as_on(tensor: Tensor, values: Any) -> Tensor:
    """Values on the device and in the type of a tensor, without waiting for a GPU."""
    return torch.as_tensor(values).to(tensor, non_blocking=True)


class Preprocessing(nn.Module):
    """uint8 images (B, H, W, 3) of any one size -> float32 (B, 3, h, w), the model's input.

    The resize equals PIL's bit for bit, so all of it equals timm's transform. (torchvision's resize
    of a batch differs from PIL by up to 2 grey levels on a CPU and 24 on a GPU.) The ONNX export
    takes this module as it is.

    Attributes:
        input_size: (h, w) in pixels.
        crop_pct: the fraction of the resized image's side that the crop keeps.
        crop_mode: `center`, the resize keeps the proportions; `squash`, it does not.
        mean, std: of each colour, of values from 0 to 1.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        """`config` is what `timm.data.resolve_model_data_config` returns.

        Raises:
            UserError: the model wants a crop or an interpolation that is not known here.
        """
        super().__init__()
        for key, known in (("crop_mode", CROP_MODES), ("interpolation", tuple(FILTERS))):
            if config[key] not in known:
                raise UserError(
                    f"the model wants {key} {config[key]!r}; supported: {', '.join(known)}"
                )
        if config["crop_pct"] > 1:
            raise UserError(f"the model wants crop_pct {config['crop_pct']}; supported: up to 1")
        height, width = config["input_size"][1:]
        self.input_size: tuple[int, int] = (height, width)
        self.interpolation: str = config["interpolation"]
        self.crop_pct: float = config["crop_pct"]
        self.crop_mode: str = config["crop_mode"]
        self.mean: tuple[float, ...] = tuple(config["mean"])
        self.std: tuple[float, ...] = tuple(config["std"])

    def facts(self) -> dict[str, Any]:
        """The attributes by their names, for files that record them."""
        names = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
        return {name: getattr(self, name) for name in names}

    def steps(self, height: int, width: int) -> dict[str, Any]:
        """What `forward` does with images of a size, in numbers that other programs need.

        `resize` (height, width) with the antialiased `interpolation` of Pillow, rounded to whole
        levels; `crop` (top, left, height, width); `divide_by`, then subtract `mean` and divide by
        `std`.
        """
        resized_height, resized_width = self.resized(height, width)
        kept_height, kept_width = self.input_size
        top = first_kept(resized_height, kept_height)
        left = first_kept(resized_width, kept_width)
        return {
            "resize": (resized_height, resized_width),
            "interpolation": self.interpolation,
            "crop": (top, left, kept_height, kept_width),
            "divide_by": 255,
            "mean": self.mean,
            "std": self.std,
        }

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of an image after the resize and before the crop."""
        target_height = math.floor(self.input_size[0] / self.crop_pct)
        target_width = math.floor(self.input_size[1] / self.crop_pct)
        if self.crop_mode == "squash":
            return target_height, target_width
        if target_height != target_width:
            scale = max(target_height / height, target_width / width)
            return round(height * scale), round(width * scale)
        # as torchvision's Resize(int): the shorter side fits
        if height <= width:
            return target_height, int(target_height * width / height)
        return int(target_height * height / width), target_height

    def forward(self, images: Tensor) -> Tensor:
        pixels = self._resize_and_crop(images.permute(0, 3, 1, 2)).contiguous()
        mean = _as_on(pixels, self.mean).view(-1, 1, 1)
        std = _as_on(pixels, self.std).view(-1, 1, 1)
        return pixels.div_(255).sub_(mean).div_(std)

    def _resize_and_crop(self, images: Tensor) -> Tensor:
        """Grey levels (B, 3, H, W) -> whole grey levels (B, 3, h, w): columns, then rows, as PIL.

        Each pass is a matrix product, without what the crop cuts away.
        """
        resized_height, resized_width = self.resized(*images.shape[-2:])
        kept_height, kept_width = self.input_size
        columns = images.float().mT
        narrow = resize_rows(columns, self.interpolation, resized_width, kept_width).mT
        return resize_rows(narrow, self.interpolation, resized_height, kept_height)
