"""Stored activations: one raw file for each split.

A raw file is written one batch at a time, each at its position, and read by mapping it into memory.
So memory stays bounded by the batch, and nothing is copied before it is used. Several processes can
write to one file; the bytes do not depend on how many they are.
"""

import math
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vit_finetune.activations.manifest import Manifest
from vit_finetune.activations.views import ActivationView, View
from vit_finetune.core.errors import UserError

SEGMENT = 32  # batches: what each process may lose by an interruption
DTYPES = {dtype: getattr(torch, dtype) for dtype in ("float16", "bfloat16", "float32", "uint8")}


def storage_dtype(storage: str, sample: Tensor) -> torch.dtype:
    """The storage format.

    `auto` is float16, whose 11 significant bits are more than bfloat16's 8, unless the sample comes
    within a factor of four of its largest number.
    """
    if storage != "auto":
        return DTYPES[storage]
    limit = torch.finfo(torch.float16).max / 4
    return torch.float16 if sample.abs().max() < limit else torch.bfloat16


@dataclass(frozen=True)
class ActivationFile:
    """A raw file of activations (N, ...) that is written in segments. An interrupted run repeats
    only those that the disk has not confirmed.

    Attributes:
        done: a folder with an empty file for each confirmed segment, named by its first index.
        shape: of all activations, (N, ...).
    """

    path: Path
    done: Path
    shape: list[int]
    dtype: torch.dtype
    batch_size: int

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def total_bytes(self) -> int:
        return self.shape[0] * self.row_bytes

    def prepare(self) -> None:
        """Give the file its size. One process does it. If the file had another size, nothing of it
        counts as confirmed."""
        if not self.path.is_file() or self.path.stat().st_size != self.total_bytes:
            shutil.rmtree(self.done, ignore_errors=True)
            with self.path.open("wb") as file:
                file.truncate(self.total_bytes)
        self.done.mkdir(parents=True, exist_ok=True)

    def segments(self) -> list[range]:
        """The rows of each segment; the same for any number of processes."""
        length = SEGMENT * self.batch_size
        count = self.shape[0]
        return [range(start, min(start + length, count)) for start in range(0, count, length)]

    def missing(self, segments: Iterable[range]) -> list[range]:
        """Those that are not confirmed."""
        return [segment for segment in segments if not (self.done / str(segment.start)).exists()]

    def batches(self, segment: range) -> list[range]:
        """The rows of each of its batches."""
        starts = range(0, len(segment), self.batch_size)
        return [segment[start : start + self.batch_size] for start in starts]

    def write(self, segments: Iterable[range], activations: Iterator[Tensor]) -> None:
        """Write segments; `activations` gives their batches (B, ...), one after another.

        Raises:
            UserError: a value is not finite in the storage format.
        """
        with self.path.open("r+b") as file:
            for segment in segments:
                file.seek(segment.start * self.row_bytes)
                for rows in self.batches(segment):
                    stored = self._convert(next(activations), rows)
                    file.write(stored.cpu().view(torch.uint8).numpy().data)
                file.flush()
                os.fsync(file.fileno())
                (self.done / str(segment.start)).touch()

    def _convert(self, batch: Tensor, rows: range) -> Tensor:
        stored = batch.to(self.dtype).contiguous()
        if torch.isfinite(stored).all():
            return stored
        where = f"images {rows[0]} to {rows[-1]}"
        if batch.isnan().any():
            raise UserError(f"the model gives NaN for {where}: its weights are damaged")
        storage = str(self.dtype).removeprefix("torch.")
        raise UserError(
            f"activations of {where} are too large for {storage}; set embed.storage to bfloat16 or "
            "float32"
        )


def map_activations(folder: str | Path, manifest: Manifest, split: str) -> ActivationView:
    """The activations of a split (`train`, `val`, `test`), mapped into memory.

    Raises:
        UserError: the file is missing or does not have the size that the manifest gives.
    """
    path = Path(folder) / f"{split}.bin"
    dtype = DTYPES[manifest.storage]
    shape = tuple(manifest.shapes[split])
    bytes_of_rows = (shape[0], math.prod(shape[1:]) * dtype.itemsize)
    if not path.is_file() or path.stat().st_size != math.prod(bytes_of_rows):
        raise UserError(f"{path} is missing or damaged; run dvc repro")
    # copy on write: torch wants arrays that can be written, and the file must stay as it is
    array = np.memmap(path, dtype=np.uint8, mode="c", shape=bytes_of_rows)
    return ActivationView(array, dtype, shape)


def resident(view: View, device: torch.device) -> View:
    """The same view, in the memory of a GPU if it takes at most half of what is free there."""
    if view.nbytes > free_memory(device) / 2:
        return view
    return view[:].to(device)


def free_memory(device: torch.device) -> int:
    """Bytes of a GPU's memory that are free; of other devices 0, since files stay mapped there."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
