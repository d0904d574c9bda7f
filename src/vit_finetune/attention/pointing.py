"""Does a map point at the class it is asked for? The grid pointing game (Böhle et al. 2021,
arXiv:2104.00032), on mosaics of side x side images."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[Any]


def mosaics(
    images: Array,
    labels: Array,
    rows: Array,
    count: int,
    rng: np.random.Generator,
    side: int = 2,
) -> tuple[Array, Array, Array]:
    """Mosaics of side x side images, uint8 (count, side H, side W, 3), their numbers (count,
    side^2), and the cell asked for.

    Cells are numbered row by row. Each image of a mosaic is of another class. Where there are too
    few classes, only the one asked for is in one place alone.

    Args:
        rows: of the images that may be drawn.
    """
    cells = side**2
    classes = np.unique(labels[rows])
    chosen = []
    asked = rng.integers(cells, size=count)
    for cell in asked:
        order = rng.permutation(classes)
        others = np.resize(order[1:cells], cells - 1)
        wanted = np.insert(others, cell, order[0])
        chosen.append([rng.choice(rows[labels[rows] == k]) for k in wanted])
    numbers = np.array(chosen)
    height, width = images.shape[1:3]
    tiles = images[numbers].reshape(count, side, side, height, width, 3)
    joined = tiles.transpose(0, 1, 3, 2, 4, 5)
    return joined.reshape(count, side * height, side * width, 3), numbers, asked


def cell_weights(size: int, side: int) -> Tensor:
    """How much of each of `size` patches in a row lies in each of `side` equal cells, (side,
    size)."""
    patch = torch.arange(size)
    edges = torch.arange(side + 1) * size / side
    first = torch.maximum(patch, edges[:-1, None])
    last = torch.minimum(patch + 1, edges[1:, None])
    return (last - first).clamp_min(0)


def cell_share(maps: Tensor, cells: Tensor, side: int = 2) -> Array:
    """Share of the positive relevance that lies in one cell of each map, (B,); chance is
    1 / side^2.

    A patch on the border of cells counts for each by its area. A map without positive relevance
    points nowhere, which is chance.
    """
    height, width = maps.shape[1:]
    down = cell_weights(height, side)[cells // side]
    across = cell_weights(width, side)[cells % side]
    weights = down[:, :, None] * across[:, None, :]
    positive = maps.cpu().clamp_min(0)
    total = positive.sum(dim=(1, 2))
    share = (positive * weights).sum(dim=(1, 2)) / total.clamp_min(torch.finfo(total.dtype).tiny)
    return torch.where(total > 0, share, 1 / side**2).numpy()
