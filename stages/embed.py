"""embed: data/subset, models/adapted -> data/embedded (activations at the freeze boundary)"""

from vit_finetune.activations.files import DTYPES, MANIFEST
from vit_finetune.activations.forward import describe, write_views
from vit_finetune.core.arrays import read_split
from vit_finetune.core.files import read_json, replace_folder, write_json
from vit_finetune.model.boundary import SplitModel, to_device
from vit_finetune.model.build import preprocessing
from vit_finetune.model.freezing import freeze
from vit_finetune.model.saved import load_model
from vit_finetune.params.embed import Embed
from vit_finetune.params.freeze import Freeze
from vit_finetune.stage import Stage


def main(stage: Stage) -> None:
    settings = stage.params.section(Embed)
    blocks = stage.params.section(Freeze).trainable_blocks
    workers = stage.params.runtime.workers

    device = stage.device()
    precision = DTYPES[read_json("models/adapted/adapted.json")["precision"]]
    model = load_model("models/adapted")
    freeze(model, blocks)  # an error here, before the work, if there are fewer blocks
    placed = to_device(model, device, precision)
    split_model = SplitModel(placed, blocks, preprocessing(model, None), device, precision)
    images = {}
    for split in ("train", "val", "test"):
        (images[split],) = read_split("data/subset", split, "images")

    manifest = describe(split_model, images, **settings.model_dump())
    checkpoint = stage.checkpoint(manifest, settings.batch_size, device.type)
    folder = write_views(
        split_model,
        images,
        manifest,
        checkpoint,
        batch_size=settings.batch_size,
        workers=workers,
        ranks=stage.ranks,
    )

    if stage.ranks.is_first:
        write_json(folder / MANIFEST, manifest)
        replace_folder("data/embedded", folder)
        stage.forget_checkpoints()
