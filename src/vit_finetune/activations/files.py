"""Stored activations: one raw file for each split and view.

A raw file is written one batch at a time, each at its position, and read by mapping it into memory:
no activation is copied into the process before it is used, and memory stays bounded by the batch.
Several processes can write to one file, and the bytes do not depend on how many. numpy has no
bfloat16, hence torch.
"""

import math
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vit_finetune.activations.views import View
from vit_finetune.core.errors import UserError
from vit_finetune.model.boundary import SplitModel, to_device
from vit_finetune.model.build import preprocessing
from vit_finetune.model.saved import weights_digest

MANIFEST = "embedded.json"
SEGMENT = 32  # batches: what an interruption can cost each process
DTYPES = {dtype: getattr(torch, dtype) for dtype in ("float16", "bfloat16", "float32", "uint8")}


def storage_dtype(storage: str, sample: Tensor) -> torch.dtype:
    """The storage format; `auto` is float16 unless a sample comes within a factor of four of its
    largest number.

    float16 keeps 11 significant bits against bfloat16's 8, so it is preferred wherever its range is
    enough.
    """
    if storage == "auto":
        storage = (
            "float16" if sample.abs().max() < torch.finfo(torch.float16).max / 4 else "bfloat16"
        )
    return DTYPES[storage]


@dataclass(frozen=True)
class ActivationFile:
    """A raw file of activations (N, ...) that is being written, in segments that an interrupted run
    need not repeat.

    `done` is a folder; the name of a file in it is the first index of a segment that the disk has
    confirmed.
    """

    path: Path
    done: Path
    shape: list[int]
    dtype: torch.dtype
    batch_size: int

    @property
    def row(self) -> int:
        """Bytes of one image."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def prepare(self) -> None:
        """Give the file its size; whatever is confirmed of a file of another size is forgotten. One
        process does it."""
        if not self.path.is_file() or self.path.stat().st_size != self.shape[0] * self.row:
            shutil.rmtree(self.done, ignore_errors=True)
            with self.path.open("wb") as file:
                file.truncate(self.shape[0] * self.row)
        self.done.mkdir(parents=True, exist_ok=True)

    def segments(self) -> list[range]:
        """The images of each segment; the same for any number of processes."""
        length, count = SEGMENT * self.batch_size, self.shape[0]
        return [range(start, min(start + length, count)) for start in range(0, count, length)]

    def missing(self, segments: Iterable[range]) -> list[range]:
        """Those that are not confirmed."""
        return [segment for segment in segments if not (self.done / str(segment.start)).exists()]

    def batches(self, segment: range) -> list[range]:
        """The images of each of its batches."""
        return [
            segment[start : start + self.batch_size]
            for start in range(0, len(segment), self.batch_size)
        ]

    def write(self, segments: Iterable[range], activations: Iterator[Tensor]) -> None:
        """Write segments; `activations` gives their batches (B, ...), one after another.

        Raises:
            UserError: a value is not finite in that format.
        """
        with self.path.open("r+b") as file:
            for segment in segments:
                file.seek(segment.start * self.row)
                for indices in self.batches(segment):
                    stored = self._stored(next(activations), indices)
                    file.write(stored.view(torch.uint8).numpy().data)
                file.flush()
                os.fsync(file.fileno())
                (self.done / str(segment.start)).touch()

    def _stored(self, batch: Tensor, indices: range) -> Tensor:
        stored = batch.to(self.dtype).contiguous()
        if torch.isfinite(stored).all():
            return stored
        where = f"images {indices[0]} to {indices[-1]}"
        if batch.isnan().any():
            raise UserError(f"the model gives NaN for {where}: its weights are damaged")
        raise UserError(
            f"activations of {where} are too large for {str(self.dtype).removeprefix('torch.')}; set embed.storage to "
            "bfloat16 or float32"
        )


def map_activations(folder: str | Path, manifest: dict[str, Any], view: str) -> Tensor:
    """Memory-mapped activations of a view (`train`, `train_flip`, `val`, `test`), private and
    unchanged on disk.

    Raises:
        UserError: the file is missing or does not have the size that the manifest gives.
    """
    shape, dtype = manifest["shapes"][view], DTYPES[manifest["storage"]]
    path, items = Path(folder) / f"{view}.bin", int(np.prod(shape))
    if not path.is_file() or path.stat().st_size != items * dtype.itemsize:
        raise UserError(f"{path} is missing or damaged; run dvc repro")
    return torch.from_file(str(path), shared=False, size=items, dtype=dtype).view(shape)


def resident(views: Sequence[View], device: torch.device) -> Sequence[View]:
    """Activations in a GPU's memory where they take up to half of what is free there; else, and
    images, as they are."""
    stored = [view for view in views if isinstance(view, Tensor)]
    if (
        device.type != "cuda"
        or sum(view.nbytes for view in stored) > torch.cuda.mem_get_info(device)[0] / 2
    ):
        return views
    return [view.to(device) if isinstance(view, Tensor) else view for view in views]


def split_model_of(model: Any, manifest: dict[str, Any], device: torch.device) -> SplitModel:
    """The model on its device, split where the activations of the manifest were stored, in their
    precision."""
    precision = DTYPES[manifest["precision"]]
    placed = to_device(model, device, precision)
    return SplitModel(
        placed, manifest["trainable_blocks"], preprocessing(model, None), device, precision
    )


def require_weights(model: nn.Module, manifest: dict[str, Any]) -> None:
    """UserError unless the model has the weights that the activations of the manifest were computed
    with."""
    if weights_digest(model) != manifest["weights_sha256"]:
        raise UserError(
            "models/adapted is not the model that data/embedded was made with; run dvc repro"
        )
