"""embed: data/subset, models/adapted -> data/embedded (activations at the freeze boundary, pooled
features)"""

from vit_finetune.activations.files import map_activations
from vit_finetune.activations.forward import (
    activation_files,
    describe,
    prepare_files,
    write_splits,
)
from vit_finetune.core.arrays import read_split, write_split
from vit_finetune.core.files import replace_folder
from vit_finetune.model.adapted import Adapted
from vit_finetune.model.boundary import SplitModel, to_device
from vit_finetune.model.build import preprocessing
from vit_finetune.model.freezing import freeze
from vit_finetune.model.saved import load_model
from vit_finetune.stage import Stage


def main(stage: Stage) -> None:
    settings = stage.params.embed
    blocks = stage.params.freeze.trainable_blocks

    device = stage.device()
    precision = Adapted.read("models/adapted").dtype
    model = load_model("models/adapted")
    freeze(model, blocks)  # an error here, before the work, if there are fewer blocks
    placed = to_device(model, device, precision)
    split_model = SplitModel(placed, blocks, preprocessing(model, None), device, precision)
    images = {}
    for split in ("train", "val", "test"):
        (images[split],) = read_split("data/subset", split, "images")

    batch_size = split_model.batch_size if settings.batch_size == "auto" else settings.batch_size
    manifest = describe(split_model, images, storage=settings.storage, batch_size=batch_size)
    checkpoint = stage.checkpoint(manifest.to_json(), batch_size, device.type)
    folder = checkpoint / "embedded"
    files = activation_files(folder, checkpoint, manifest, batch_size)
    if stage.ranks.is_first:
        for message in prepare_files(folder, files):
            stage.say(message)
    write_splits(split_model, images, files, stage.ranks)

    if stage.ranks.is_first:
        for split in images:
            stored = map_activations(folder, manifest, split)
            write_split(folder, split, features=split_model.predict_features(stored).numpy())
        manifest.write(folder)
        replace_folder("data/embedded", folder)
        stage.record_versions()
        stage.forget_checkpoints()
