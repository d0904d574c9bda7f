"""Does a map point at the class it is asked for? The grid pointing game (Böhle et al. 2021,
arXiv:2104.00032)."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[Any]


def mosaics(
    images: Array, labels: Array, count: int, rng: np.random.Generator
) -> tuple[Array, Array, Array]:
    """2 x 2 mosaics of four images, uint8 (count, 2H, 2W, 3), their numbers (count, 4), and the
    quadrant asked for.

    Quadrants are top left, top right, bottom left, bottom right: the grid pointing game of Böhle et
    al. 2021 (arXiv:2104.00032). The classes are four; where there are fewer, only the one asked for
    is in one place alone.
    """
    classes, chosen, asked = np.unique(labels), [], rng.integers(4, size=count)
    for quadrant in asked:
        order = rng.permutation(classes)
        others = np.resize(order[1:4], 3)
        chosen.append(
            [rng.choice(np.flatnonzero(labels == k)) for k in np.insert(others, quadrant, order[0])]
        )
    numbers = np.array(chosen)
    height, width = images.shape[1:3]
    tiles = images[numbers].reshape(count, 2, 2, height, width, 3)
    return (
        tiles.transpose(0, 1, 3, 2, 4, 5).reshape(count, 2 * height, 2 * width, 3),
        numbers,
        asked,
    )


def quadrant_share(maps: Tensor, quadrants: Tensor) -> Array:
    """Share of the positive relevance that lies in quadrant 0..3 of each map, (B,); chance is .25.

    On an odd grid the middle row and column count half to either side. A map without positive
    relevance points nowhere, which is chance.
    """
    low, left = ((n / 2 - torch.arange(n)).clamp(0, 1) for n in maps.shape[1:])
    down, across = torch.stack([low, 1 - low]), torch.stack([left, 1 - left])
    weights = down[quadrants // 2][:, :, None] * across[quadrants % 2][:, None, :]
    positive = maps.cpu().clamp_min(0)
    total = positive.sum(dim=(1, 2))
    share = (positive * weights).sum(dim=(1, 2)) / total.clamp_min(torch.finfo(total.dtype).tiny)
    return torch.where(total > 0, share, 0.25).numpy()
