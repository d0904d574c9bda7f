"""What rows are taken from: images, and stored activations."""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Rows = slice | Sequence[int] | Tensor


@dataclass(frozen=True)
class ImageView:
    """uint8 images (N, H, W, 3). Of a mapped file, only the rows that are taken are read."""

    array: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.array)

    @property
    def nbytes(self) -> int:
        return self.array.nbytes

    def __getitem__(self, rows: Rows) -> Tensor:
        """A copy, (B, H, W, 3)."""
        if isinstance(rows, slice):
            return torch.from_numpy(self.array[rows].copy())
        return torch.from_numpy(self.array[np.asarray(rows)])


@dataclass(frozen=True)
class ActivationView:
    """Activations in a mapped file. Only the rows that are taken are read.

    Attributes:
        array: the bytes of each row, (N, bytes): numpy has no bfloat16.
        dtype: of the activations.
        shape: theirs, (N, ...).
    """

    array: NDArray[np.uint8]
    dtype: torch.dtype
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.array)

    @property
    def nbytes(self) -> int:
        return self.array.nbytes

    def __getitem__(self, rows: Rows) -> Tensor:
        return self.tensor[rows]

    @property
    def tensor(self) -> Tensor:
        """All of them; nothing is read yet."""
        return torch.from_numpy(self.array).view(self.dtype).view(self.shape)


View = Tensor | ImageView | ActivationView


def read_at_random(view: View) -> None:
    """Tell the operating system that the rows of a mapped file are read in any order.

    It then reads a row and nothing around it. Otherwise it reads up to megabytes around each row,
    which are thrown away again if the file is larger than memory.
    """
    array = _mapped_array(view)
    if array is not None:
        array._mmap.madvise(mmap.MADV_RANDOM)


def announce(view: View, rows: Tensor) -> None:
    """Tell the operating system which rows of a mapped file come next. It reads them in the
    meantime."""
    array = _mapped_array(view)
    if array is None:
        return
    begin = array.offset % mmap.ALLOCATIONGRANULARITY  # of the array in its mapping
    size = array.strides[0]
    for row in rows.tolist():
        start = begin + row * size
        page = start - start % mmap.PAGESIZE
        array._mmap.madvise(mmap.MADV_WILLNEED, page, start + size - page)


def _mapped_array(view: View) -> Any:
    """The `np.memmap` of a view; None for a view in memory, and where there is no `madvise`, as on
    Windows."""
    if isinstance(view, Tensor) or not isinstance(view.array, np.memmap):
        return None
    return view.array if hasattr(mmap, "MADV_WILLNEED") else None
