"""embed: data/subset, pretrained weights -> data/embedded (activations at the freeze boundary), models/pretrained"""

from vit_finetune.activations.files import MANIFEST
from vit_finetune.activations.forward import describe, write_views
from vit_finetune.core.checkpoints import checkpoint_folder, forget_checkpoints
from vit_finetune.core.device import resolve_precision, set_up_torch
from vit_finetune.core.experiment_copies import require_whole
from vit_finetune.core.files import new_folder, read_split, replace_folder, write_json
from vit_finetune.core.process import run_stage
from vit_finetune.core.ranks import Ranks, side_by_side
from vit_finetune.model.boundary import SplitModel, to_device
from vit_finetune.model.build import build_model, preprocessing
from vit_finetune.model.freezing import freeze
from vit_finetune.model.saved import save_model
from vit_finetune.params import Params, read_params
from vit_finetune.params.embed import Embed
from vit_finetune.params.freeze import Freeze
from vit_finetune.params.model import Model


def main() -> None:
    params = read_params()
    with side_by_side(params.runtime.processes) as ranks:
        embed(params, ranks)


def embed(params: Params, ranks: Ranks) -> None:
    """What each of the processes does: its own segments of every view; the first one also writes what is small."""
    options, embedding, runtime = params.section(Model), params.section(Embed), params.runtime
    blocks = params.section(Freeze).trainable_blocks
    device = set_up_torch(runtime.device, runtime.threads, ranks.local_rank, ranks.local_size)
    precision = resolve_precision(options.precision, device)
    if options.name.startswith("local-dir:"):
        require_whole(options.name.removeprefix("local-dir:"))
    model = build_model(options.name, pretrained=options.pretrained, image_size=options.image_size, seed=params.seed)
    freeze(model, blocks)  # an error here, before the work, if there are fewer blocks
    preprocess = preprocessing(model, options.crop_pct)
    split_model = SplitModel(to_device(model, device, precision), blocks, preprocess, device, precision)

    images = {split: read_split("data/subset", split, "images")[0] for split in ("train", "val", "test")}
    manifest = {"model": options.name, **describe(split_model, images, **embedding.model_dump())}
    checkpoint = checkpoint_folder("embed", manifest, embedding.batch_size, device.type)
    sizes = {"batch_size": embedding.batch_size, "workers": runtime.workers}
    folder = write_views(split_model, images, manifest, checkpoint, **sizes, ranks=ranks)
    if ranks.first:
        write_json(folder / MANIFEST, manifest)
        with new_folder("models/pretrained") as models:
            save_model(model.cpu(), models, preprocess)
        replace_folder("data/embedded", folder)
        forget_checkpoints("embed")


if __name__ == "__main__":
    run_stage("embed", main, several=True, smaller="embed.batch_size")
