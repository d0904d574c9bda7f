"""Images as they are or mirrored, read in batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader


@dataclass(frozen=True)
class ImageView:
    """uint8 images (N, H, W, 3), as they are or mirrored; of a mapped file, only those asked for are read."""

    images: NDArray[np.uint8]
    mirrored: bool

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice | Sequence[int] | Tensor) -> Tensor:
        """A copy, (B, H, W, 3)."""
        taken = torch.from_numpy(self.images[rows].copy() if isinstance(rows, slice) else self.images[np.asarray(rows)])
        return taken.flip(2) if self.mirrored else taken


View = Tensor | ImageView  # what rows are taken from: stored activations, or images


def image_loader(view: ImageView, batches: Sequence[range], workers: int) -> DataLoader[Tensor]:
    """uint8 images (B, H, W, 3), one batch for each range of indices."""
    rows = [list(batch) for batch in batches]
    return DataLoader(view, batch_size=None, sampler=rows, num_workers=workers)  # type: ignore[arg-type]  # a sequence
