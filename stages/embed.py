"""embed: data/subset, models/adapted -> data/embedded (activations at the freeze boundary)"""

from vit_finetune.activations.forward import (
    activation_files,
    describe,
    prepare_files,
    write_views,
)
from vit_finetune.core.checkpoints import checkpoint_folder, forget_checkpoints
from vit_finetune.core.device import set_up_torch
from vit_finetune.core.files import read_split, replace_folder
from vit_finetune.core.process import run_stage
from vit_finetune.core.ranks import Ranks, side_by_side
from vit_finetune.model.adapted import Adapted
from vit_finetune.model.boundary import SplitModel, to_device
from vit_finetune.model.build import preprocessing
from vit_finetune.model.freezing import freeze
from vit_finetune.model.saved import load_model
from vit_finetune.params import Params, read_params


def main() -> None:
    params = read_params()
    with side_by_side(params.runtime.processes) as ranks:
        embed(params, ranks)


def embed(params: Params, ranks: Ranks) -> None:
    """What each of the processes does: its own segments of every view; the first one also writes
    what is small."""
    embedding, runtime = params.embed, params.runtime
    blocks = params.freeze.trainable_blocks
    device = set_up_torch(runtime.device, runtime.threads, ranks.local_rank, ranks.local_size)
    precision = Adapted.read("models/adapted").dtype
    model = load_model("models/adapted")
    freeze(model, blocks)  # an error here, before the work, if there are fewer blocks
    split_model = SplitModel(
        to_device(model, device, precision), blocks, preprocessing(model, None), device, precision
    )

    images = {
        split: read_split("data/subset", split, "images")[0] for split in ("train", "val", "test")
    }
    manifest = describe(split_model, images, **embedding.model_dump())
    checkpoint = checkpoint_folder("embed", manifest.to_json(), embedding.batch_size, device.type)
    folder = checkpoint / "embedded"
    files = activation_files(folder, checkpoint, manifest, embedding.batch_size)
    if ranks.first:
        for message in prepare_files(folder, files):
            print(f"embed: {message}", flush=True)
    write_views(split_model, images, files, runtime.workers, ranks)
    if ranks.first:
        manifest.write(folder)
        replace_folder("data/embedded", folder)
        forget_checkpoints("embed")


if __name__ == "__main__":
    run_stage("embed", main, several=True, smaller="embed.batch_size")
