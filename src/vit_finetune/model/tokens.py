"""Which token is what."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["token", "avg", "map"]


@dataclass(frozen=True)
class TokenLayout:
    """Which token is what: first the prefix tokens, then the patches row by row."""

    prefix: tuple[str, ...]  # such as ("CLS", "REG1")
    grid: tuple[int, int]  # (G_h, G_w)
    patch: tuple[int, int]  # (height, width) in pixels of the model's input
    pooling: Pooling
    # tokens of which the head takes the mean (token, avg) or its attention pooling (map)
    pooled: range

    @property
    def tokens(self) -> int:
        """T."""
        return len(self.prefix) + self.grid[0] * self.grid[1]

    def readout(self, pooling: Tensor | None = None) -> Tensor:
        """Weight of each token in what the head reads, (T,), or (B, T) with attention pooling; sums
        to one.

        The CLS row (with DIST, their mean), the mean of the patches, or the first row of attention
        pooling, mean over heads, for which `pooling` (B, H, queries, T) is needed (ValueError).
        """
        if self.pooling != "map":
            weights = torch.zeros(self.tokens)
            weights[list(self.pooled)] = 1 / len(self.pooled)
            return weights
        if pooling is None or pooling.shape[-1] != len(self.pooled):
            shape = None if pooling is None else tuple(pooling.shape)
            raise ValueError(
                f"the model pools by attention over {len(self.pooled)} tokens, so its readout needs that "
                f"attention, (B, H, queries, {len(self.pooled)}); got {shape}"
            )
        weights = pooling.new_zeros(len(pooling), self.tokens)
        weights[:, list(self.pooled)] = pooling[:, :, 0].mean(dim=1)
        return weights

    def to_grid(self, values: Tensor) -> Tensor:
        """Values per token (..., T) -> the patches' values (..., G_h, G_w); ValueError if T does
        not fit."""
        if values.shape[-1] != self.tokens:
            raise ValueError(
                f"{values.shape[-1]} tokens, but {len(self.prefix)} prefix tokens and a grid of "
                f"{self.grid[0]} x {self.grid[1]} patches make {self.tokens}"
            )
        return values[..., len(self.prefix) :].unflatten(-1, self.grid)
