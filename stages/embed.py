"""embed: data/subset, pretrained weights -> data/embedded (activations at the freeze boundary), models/pretrained"""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vit_finetune.backbone import (
    autocast,
    boundary_of,
    build_model,
    preprocessing,
    run_prefix,
    save_model,
    to_device,
    weights_digest,
)
from vit_finetune.embedding import MANIFEST, ActivationFile, image_loader, storage_dtype
from vit_finetune.files import digest, key_of, new_folder, read_split, replace_folder, write_json
from vit_finetune.freezing import freeze
from vit_finetune.images import ImageView
from vit_finetune.params import Params, read_params
from vit_finetune.params.embed import Embed
from vit_finetune.params.freeze import Freeze
from vit_finetune.params.model import Model
from vit_finetune.ranks import Ranks, side_by_side
from vit_finetune.runtime import ordered_map, progress, resolve_precision, run_stage, set_up_torch

CHECKPOINTS = Path(".checkpoints/embed")  # outside DVC's outputs, which it deletes before a stage runs
VIEWS = {"train": False, "train_flip": True, "val": False, "test": False}  # view: mirrored


@torch.inference_mode()
def activations(
    model: Any, preprocess: Any, device: torch.device, precision: torch.dtype, k: int, batch: Tensor
) -> Tensor:
    """uint8 images (B, H, W, 3) -> what the first of the last k blocks takes (or features, k = 0), on the CPU."""
    with autocast(device, precision):
        return run_prefix(model, preprocess(batch.to(device)), k).float().cpu()


def main() -> None:
    params = read_params()
    with side_by_side(params.runtime.processes) as ranks:
        embed_all(params, ranks)


def embed_all(params: Params, ranks: Ranks) -> None:
    """What each of the processes does: its own segments of every view; the first one also writes what is small."""
    model_params, embed, runtime = params.section(Model), params.section(Embed), params.runtime
    blocks = params.section(Freeze).trainable_blocks
    device = set_up_torch(runtime.device, runtime.threads, ranks.local_rank, ranks.local_size)
    precision = resolve_precision(model_params.precision, device)
    model = build_model(
        model_params.name, pretrained=model_params.pretrained, image_size=model_params.image_size, seed=params.seed
    )
    freeze(model, blocks)  # an error here, before the work, if there are fewer blocks
    preprocess = preprocessing(model, model_params.crop_pct)
    boundary = boundary_of(blocks)
    # One batch a core, each on one thread: faster than all cores on one batch, and the same bits on any number.
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    torch.set_num_threads(1)
    model = to_device(model, device, precision)
    run = partial(activations, model, preprocess, device, precision, 0 if blocks == "all" else int(blocks))

    images = {split: read_split("data/subset", split, "images")[0] for split in ("train", "val", "test")}
    sample, dtype = torch.tensor(images["train"][: embed.batch_size]), torch.uint8
    if boundary != "images":
        sample = run(sample)
        dtype = storage_dtype(embed.storage, sample)

    views = {view: mirrored for view, mirrored in VIEWS.items() if embed.flip or not mirrored}
    shapes = {view: [len(images[view.removesuffix("_flip")]), *sample.shape[1:]] for view in views}
    manifest = {
        "model": model_params.name,
        "weights_sha256": weights_digest(model),
        "images_sha256": {split: digest(array) for split, array in images.items()},
        "preprocessing": vars(preprocess),
        "trainable_blocks": blocks,
        "boundary": boundary,
        "precision": str(precision).removeprefix("torch."),
        "storage": str(dtype).removeprefix("torch."),
        "shapes": shapes,
    }
    checkpoint = CHECKPOINTS / key_of(manifest, embed.batch_size, device.type)
    folder = checkpoint / "embedded"
    files = {
        view: ActivationFile(folder / f"{view}.bin", checkpoint / view, shape, dtype, embed.batch_size)
        for view, shape in shapes.items()
    }
    if ranks.first:
        folder.mkdir(parents=True, exist_ok=True)
        for view, file in files.items():
            file.prepare()
            if kept := file.shape[0] - sum(map(len, file.missing(file.segments()))):
                print(f"embed: {view} goes on after {kept} images", flush=True)
    ranks.wait()
    for view, file in files.items():
        missing = file.missing(file.segments()[ranks.rank :: ranks.size])
        batches = [batch for segment in missing for batch in file.batches(segment)]
        loader = image_loader(ImageView(images[view.removesuffix("_flip")], views[view]), batches, runtime.workers)
        results = iter(loader) if boundary == "images" else ordered_map(run, loader, threads)
        file.write(missing, iter(progress(results, f"embed {view}", "batch", total=len(loader))))
    ranks.wait()
    if not ranks.first:
        return
    write_json(folder / MANIFEST, manifest)
    with new_folder("models/pretrained") as models:
        save_model(model.cpu(), models, preprocess)
    replace_folder("data/embedded", folder)
    shutil.rmtree(CHECKPOINTS, ignore_errors=True)  # those of other configurations too: they are large


if __name__ == "__main__":
    run_stage("embed", main, several=True)
