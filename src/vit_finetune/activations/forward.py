"""The one pass of every image through the frozen blocks."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vit_finetune.activations.files import ActivationFile, storage_dtype
from vit_finetune.activations.views import ImageView, image_loader
from vit_finetune.core.files import require_disk
from vit_finetune.core.hashes import digest
from vit_finetune.core.progress import progress
from vit_finetune.core.ranks import Ranks
from vit_finetune.core.threads import parallel_map
from vit_finetune.model.boundary import SplitModel, boundary_of
from vit_finetune.model.saved import weights_digest

MIRRORED = {"train": False, "train_flip": True, "val": False, "test": False}  # by view

Images = dict[str, NDArray[np.uint8]]  # (N, H, W, 3) of `train`, `val` and `test`


@torch.inference_mode()
def activations(split_model: SplitModel, batch: Tensor) -> Tensor:
    """uint8 images (B, H, W, 3) -> what is stored of them, on the CPU; images if nothing is
    frozen."""
    return (
        batch
        if boundary_of(split_model.trainable_blocks) == "images"
        else split_model.tokens(batch).cpu()
    )


def describe(
    split_model: SplitModel, images: Images, *, flip: bool, storage: str, batch_size: int
) -> dict[str, Any]:
    """The manifest of the pass: of which model and images, in which form. One batch is computed to
    know the form.

    Args:
        flip: whether the training images are also stored mirrored.
        storage: `auto` or the format of the activations.
    """
    sample = activations(split_model, torch.tensor(images["train"][:batch_size]))
    boundary = boundary_of(split_model.trainable_blocks)
    dtype = sample.dtype if boundary == "images" else storage_dtype(storage, sample)
    views = [view for view, mirrored in MIRRORED.items() if flip or not mirrored]
    return {
        "weights_sha256": weights_digest(split_model.model),
        "images_sha256": {split: digest(array) for split, array in images.items()},
        "preprocessing": vars(split_model.preprocess),
        "trainable_blocks": split_model.trainable_blocks,
        "boundary": boundary,
        "precision": str(split_model.precision).removeprefix("torch."),
        "storage": str(dtype).removeprefix("torch."),
        "shapes": {
            view: [len(images[view.removesuffix("_flip")]), *sample.shape[1:]] for view in views
        },
    }


def write_views(
    split_model: SplitModel,
    images: Images,
    manifest: dict[str, Any],
    checkpoint: Path,
    *,
    batch_size: int,
    workers: int,
    ranks: Ranks,
) -> Path:
    """Compute every view that the manifest names, from where an interrupted run stopped; returns
    their folder.

    Each of the processes computes its own segments of every view. On a CPU each core takes a batch
    of its own, on one thread, which gives the same bits on any number of cores.
    """
    folder = checkpoint / "embedded"
    files = {
        view: ActivationFile(
            folder / f"{view}.bin",
            checkpoint / view,
            shape,
            getattr(torch, manifest["storage"]),
            batch_size,
        )
        for view, shape in manifest["shapes"].items()
    }
    if ranks.is_first:
        folder.mkdir(parents=True, exist_ok=True)
        size = sum(file.shape[0] * file.row for file in files.values() if not file.path.exists())
        if message := require_disk(folder, size):
            print(f"embed: {message}", flush=True)
        for view, file in files.items():
            file.prepare()
            if kept := file.shape[0] - sum(map(len, file.missing(file.segments()))):
                print(f"embed: {view} goes on after {kept} images", flush=True)
    ranks.barrier()
    with parallel_map(split_model.device) as each:
        for view, file in files.items():
            missing = file.missing(file.segments()[ranks.rank :: ranks.world_size])
            batches = [batch for segment in missing for batch in file.batches(segment)]
            source = ImageView(images[view.removesuffix("_flip")], MIRRORED[view])
            loader = image_loader(source, batches, workers)
            results = each(partial(activations, split_model), loader)
            file.write(
                missing, iter(progress(results, f"embed {view}", "batch", total=len(loader)))
            )
    ranks.barrier()
    return folder
