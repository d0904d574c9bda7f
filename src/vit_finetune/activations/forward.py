"""The one pass of every image through the frozen blocks."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vit_finetune.activations.files import DTYPES, ActivationFile, storage_dtype
from vit_finetune.activations.manifest import Manifest
from vit_finetune.activations.views import ImageView
from vit_finetune.core.files import require_disk
from vit_finetune.core.hashes import digest
from vit_finetune.core.progress import progress
from vit_finetune.core.ranks import Ranks
from vit_finetune.core.threads import parallel_map
from vit_finetune.model.boundary import SplitModel, boundary_of
from vit_finetune.model.saved import weights_digest

Images = Mapping[str, NDArray[np.uint8]]  # (N, H, W, 3) of `train`, `val` and `test`


@torch.inference_mode()
def activations(split_model: SplitModel, batch: Tensor) -> Tensor:
    """uint8 images (B, H, W, 3) -> what is stored of them; the images themselves if nothing is
    frozen."""
    if boundary_of(split_model.trainable_blocks) == "images":
        return batch
    return split_model.tokens(batch)


def _activations_of_rows(split_model: SplitModel, images: ImageView, rows: range) -> Tensor:
    return activations(split_model, images[rows])


def describe(split_model: SplitModel, images: Images, *, storage: str, batch_size: int) -> Manifest:
    """What the pass will store. One batch is computed to know its form.

    Args:
        storage: `auto`, or the format of the activations.
    """
    sample = activations(split_model, torch.tensor(images["train"][:batch_size]))
    boundary = boundary_of(split_model.trainable_blocks)
    dtype = sample.dtype if boundary == "images" else storage_dtype(storage, sample)
    return Manifest(
        weights_sha256=weights_digest(split_model.model),
        images_sha256={split: digest(array) for split, array in images.items()},
        preprocessing=split_model.preprocess.facts(),
        trainable_blocks=split_model.trainable_blocks,
        boundary=boundary,
        precision=str(split_model.precision).removeprefix("torch."),
        storage=str(dtype).removeprefix("torch."),
        shapes={split: [len(array), *sample.shape[1:]] for split, array in images.items()},
    )


def activation_files(
    folder: Path, checkpoint: Path, manifest: Manifest, batch_size: int
) -> dict[str, ActivationFile]:
    """The file of each split of the manifest.

    Args:
        folder: of the files.
        checkpoint: a folder that remembers which segments are confirmed.
    """
    dtype = DTYPES[manifest.storage]
    return {
        split: ActivationFile(folder / f"{split}.bin", checkpoint / split, shape, dtype, batch_size)
        for split, shape in manifest.shapes.items()
    }


def prepare_files(folder: Path, files: Mapping[str, ActivationFile]) -> list[str]:
    """Make the files; one process does it. Returns sentences on what takes
    much disk, and on what an interrupted run has begun.

    Raises:
        UserError: the disk has no room for them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    new_files = [file for file in files.values() if not file.path.exists()]
    messages = []
    if message := require_disk(folder, sum(file.total_bytes for file in new_files)):
        messages.append(message)
    for split, file in files.items():
        file.prepare()
        confirmed = file.shape[0] - sum(len(rows) for rows in file.missing(file.segments()))
        if confirmed:
            messages.append(f"{split} continues after {confirmed} images")
    return messages


def write_splits(
    split_model: SplitModel,
    images: Images,
    files: Mapping[str, ActivationFile],
    ranks: Ranks,
) -> None:
    """Compute every split, from where an interrupted run stopped.

    Each of the processes computes its own segments. On a CPU each core takes a batch of its own, on
    one thread, which gives the same bits on any number of cores.
    """
    ranks.barrier()  # until the files are made
    with parallel_map(split_model.device) as each:
        for split, file in files.items():
            segments = file.missing(file.segments()[ranks.rank :: ranks.world_size])
            batches = [batch for segment in segments for batch in file.batches(segment)]
            source = ImageView(images[split])
            results = each(partial(_activations_of_rows, split_model, source), batches)
            bar = progress(results, f"embed {split}", "batch", total=len(batches))
            file.write(segments, iter(bar))
    ranks.barrier()  # until all are written
