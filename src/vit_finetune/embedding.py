"""The one pass through the frozen part, and the files it leaves: one raw file of activations per split and view.

A raw file is written in order, one batch at a time, and read by mapping it into memory: no activation is copied
into the process before it is used, and memory stays bounded by the batch. numpy has no bfloat16, hence torch.
"""

import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vit_finetune.files import read_json, write_json

MANIFEST = "embedded.json"
CHUNK = 16  # batches: what an interruption can cost
DTYPES = {dtype: getattr(torch, dtype) for dtype in ("float16", "bfloat16", "float32", "uint8")}


class ImageDataset(Dataset[Tensor]):
    """uint8 images (H, W, 3) of an array, optionally mirrored."""

    def __init__(self, images: NDArray[np.uint8], flip: bool) -> None:
        self.images, self.flip = images, flip

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        image = torch.from_numpy(np.array(self.images[index]))
        return image.flip(1) if self.flip else image


def image_loader(images: NDArray[np.uint8], *, flip: bool, batch_size: int, workers: int) -> DataLoader[Tensor]:
    """Batches of uint8 images (B, H, W, 3) in their stored order, so that row i belongs to label i."""
    return DataLoader(ImageDataset(images, flip), batch_size=batch_size, num_workers=workers, shuffle=False)


def storage_dtype(storage: str, sample: Tensor) -> torch.dtype:
    """The storage format; `auto` is float16 unless a sample comes within a factor of four of its largest number.

    float16 keeps 11 significant bits against bfloat16's 8, so it is preferred wherever its range is enough.
    """
    if storage == "auto":
        storage = "float16" if sample.abs().max() < torch.finfo(torch.float16).max / 4 else "bfloat16"
    return DTYPES[storage]


def write_activations(
    path: Path, record: Path, batches: Callable[[int], Iterable[Tensor]], dtype: torch.dtype
) -> list[int]:
    """Append batches (B, ...) to a raw file; returns the shape (N, ...) of the whole.

    What an interrupted run left is gone on with: `record` holds the shape of what the disk has confirmed, renewed
    every CHUNK batches.

    Args:
        batches: gives the batches that follow the first n images.

    Raises:
        ValueError: a value is not finite in that format.
    """
    count, *shape = read_json(record)["shape"] if record.is_file() else [0]
    if not path.is_file() or path.stat().st_size < count * math.prod(shape) * dtype.itemsize:
        count = 0
    with path.open("r+b" if count else "wb") as file:
        file.truncate(count * math.prod(shape) * dtype.itemsize)
        file.seek(0, os.SEEK_END)
        for number, batch in enumerate(batches(count), start=1):
            stored = batch.to(dtype)
            if not torch.isfinite(stored).all():
                where = f"images {count} to {count + len(batch) - 1}"
                if batch.isnan().any():
                    raise ValueError(f"the model gives NaN for {where}: its weights are damaged")
                raise ValueError(
                    f"activations of {where} are too large for {str(dtype).removeprefix('torch.')}; set embed.storage "
                    "to bfloat16 or float32"
                )
            file.write(stored.contiguous().view(torch.uint8).numpy().data)
            count, shape = count + len(batch), list(batch.shape[1:])
            if number % CHUNK == 0:
                _confirm(file, record, [count, *shape])
        _confirm(file, record, [count, *shape])
    return [count, *shape]


def _confirm(file: BinaryIO, record: Path, shape: list[int]) -> None:
    file.flush()
    os.fsync(file.fileno())
    write_json(record, {"shape": shape})


def map_activations(folder: str | Path, manifest: dict[str, Any], view: str) -> Tensor:
    """Memory-mapped activations of a view (`train`, `train_flip`, `val`, `test`), private and unchanged on disk.

    Raises:
        OSError: the file is missing or does not have the size that the manifest gives.
    """
    shape, dtype = manifest["shapes"][view], DTYPES[manifest["storage"]]
    path, items = Path(folder) / f"{view}.bin", int(np.prod(shape))
    if not path.is_file() or path.stat().st_size != items * dtype.itemsize:
        raise OSError(f"{path} is missing or damaged; run dvc repro")
    return torch.from_file(str(path), shared=False, size=items, dtype=dtype).view(shape)
