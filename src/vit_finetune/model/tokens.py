"""Which token is what."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["token", "avg", "map"]


@dataclass(frozen=True)
class TokenLayout:
    """Which token is what: the prefix tokens, then the patches row by row.

    Attributes:
        prefix: names of the first tokens, such as ("CLS", "REG1").
        grid: rows and columns of patches, (G_h, G_w).
        patch: height and width in pixels of the model's input.
        pooling: how the head reads the tokens: one of them, their mean, or attention pooling.
        pooled: the tokens that it reads (those of DeiT's two heads count as their mean).
    """

    prefix: tuple[str, ...]
    grid: tuple[int, int]
    patch: tuple[int, int]
    pooling: Pooling
    pooled: range

    @property
    def tokens(self) -> int:
        """How many there are, T."""
        return len(self.prefix) + self.grid[0] * self.grid[1]

    def readout(self, pooling: Tensor | None = None) -> Tensor:
        """The weight of each token in what the head reads: (T,), or (B, T) with attention pooling.
        The weights sum to one.

        Args:
            pooling: of a model with attention pooling, that attention (B, H, queries, T). Its first
                row counts, as the mean over the heads.

        Raises:
            ValueError: the model pools by attention, and `pooling` is missing or does not fit.
        """
        if self.pooling != "map":
            weights = torch.zeros(self.tokens)
            weights[list(self.pooled)] = 1 / len(self.pooled)
            return weights
        if pooling is None or pooling.shape[-1] != len(self.pooled):
            shape = None if pooling is None else tuple(pooling.shape)
            raise ValueError(
                f"the model pools by attention over {len(self.pooled)} tokens, so its readout "
                f"needs that attention, (B, H, queries, {len(self.pooled)}); got {shape}"
            )
        weights = pooling.new_zeros(len(pooling), self.tokens)
        weights[:, list(self.pooled)] = pooling[:, :, 0].mean(dim=1)
        return weights

    def to_grid(self, values: Tensor) -> Tensor:
        """Values per token (..., T) -> those of the patches (..., G_h, G_w); ValueError if T does
        not fit."""
        if values.shape[-1] != self.tokens:
            raise ValueError(
                f"{values.shape[-1]} tokens, but {len(self.prefix)} prefix tokens and a grid of "
                f"{self.grid[0]} x {self.grid[1]} patches make {self.tokens}"
            )
        return values[..., len(self.prefix) :].unflatten(-1, self.grid)
