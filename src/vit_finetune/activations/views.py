"""Images as they are or mirrored, read in batches."""

import ctypes
import mmap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

_MADVISE = getattr(ctypes.CDLL(None), "madvise", None) if hasattr(mmap, "MADV_WILLNEED") else None


@dataclass(frozen=True)
class ImageView:
    """uint8 images (N, H, W, 3), as they are or mirrored; of a mapped file, only those asked for
    are read."""

    images: NDArray[np.uint8]
    mirrored: bool

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice | Sequence[int] | Tensor) -> Tensor:
        """A copy, (B, H, W, 3)."""
        taken = torch.from_numpy(
            self.images[rows].copy() if isinstance(rows, slice) else self.images[np.asarray(rows)]
        )
        return taken.flip(2) if self.mirrored else taken


View = Tensor | ImageView  # what rows are taken from: stored activations, or images


def read_at_random(view: View) -> None:
    """Tell the operating system that rows of a mapped file are read in any order.

    It then reads what is asked for and nothing around it. What it reads around is up to megabytes
    for each row, which are thrown away again where the file is larger than memory.
    """
    if len(view):
        _advise(view, 0, len(view), "MADV_RANDOM")


def announce(view: View, rows: Tensor) -> None:
    """Tell the operating system which rows of a mapped file come next, so that it reads them in the
    meantime."""
    for row in rows.tolist():
        _advise(view, row, 1, "MADV_WILLNEED")


def _advise(view: View, row: int, count: int, advice: str) -> None:
    """Call `madvise` (POSIX) for some rows in memory; systems without it do without."""
    rows = view if isinstance(view, Tensor) else view.images
    if _MADVISE is None or (isinstance(rows, Tensor) and rows.device.type != "cpu"):
        return
    start = rows.data_ptr() if isinstance(rows, Tensor) else rows.ctypes.data
    size = rows.nbytes // len(rows)
    first = (start + row * size) // mmap.PAGESIZE * mmap.PAGESIZE
    length = start + (row + count) * size - first
    _MADVISE(ctypes.c_void_p(first), ctypes.c_size_t(length), getattr(mmap, advice))


def image_loader(view: ImageView, batches: Sequence[range], workers: int) -> DataLoader[Tensor]:
    """uint8 images (B, H, W, 3), one batch for each range of indices."""
    rows = [list(batch) for batch in batches]
    return DataLoader(view, batch_size=None, sampler=rows, num_workers=workers)  # type: ignore[arg-type]  # a sequence
