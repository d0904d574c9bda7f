"""train: data/embedded, models/pretrained, labels -> models/finetuned, metrics/train.json, plots/history.csv"""

import shutil
from pathlib import Path

import torch

from vit_finetune.backbone import Suffix, load_model, preprocessing, save_model, to_device, weights_digest
from vit_finetune.embedding import DTYPES, MANIFEST, map_activations, resident
from vit_finetune.files import digest, key_of, new_folder, read_json, read_split, write_csv, write_json
from vit_finetune.fit import View, fit, image_cost, predict, probe_head
from vit_finetune.freezing import count_parameters, freeze
from vit_finetune.images import ImageView
from vit_finetune.params import Params, read_params
from vit_finetune.params.freeze import Freeze
from vit_finetune.params.train import Train
from vit_finetune.ranks import Ranks, side_by_side
from vit_finetune.runtime import progress, run_stage, set_up_torch

CHECKPOINTS = Path(".checkpoints/train")  # outside DVC's outputs, which it deletes before a stage runs


def main() -> None:
    params = read_params()
    with side_by_side(params.runtime.processes) as ranks:
        train_suffix(params, ranks)


def train_suffix(params: Params, ranks: Ranks) -> None:
    """What each of the processes does: its own shards of every batch; the first one writes."""
    train, freezing, runtime = params.section(Train), params.section(Freeze), params.runtime
    blocks = freezing.trainable_blocks
    if train.shards % ranks.size:
        raise ValueError(
            f"there are {ranks.size} processes: their number must divide train.shards ({train.shards}), whose parts of "
            "a batch they share"
        )
    device = set_up_torch(runtime.device, runtime.threads, ranks.local_rank, ranks.local_size)
    manifest = read_json(f"data/embedded/{MANIFEST}")
    dataset = read_json("data/subset/dataset.json")
    labels, val_labels = (read_split("data/subset", split, "labels")[0] for split in ("train", "val"))
    views = [map_activations("data/embedded", manifest, v) for v in ("train", "train_flip") if v in manifest["shapes"]]
    val = map_activations("data/embedded", manifest, "val")

    model = load_model("models/pretrained", num_classes=len(dataset["classes"]))
    if weights_digest(model) != manifest["weights_sha256"]:
        raise OSError("models/pretrained is not the model that data/embedded was made with; run dvc repro")
    freeze(model, blocks, freezing.parameters)
    preprocess = preprocessing(model, None)
    precision = DTYPES[manifest["precision"]]
    suffix = Suffix(to_device(model, device, precision), blocks, preprocess, device, precision)
    if blocks == 0 and (train.token_dropout or train.brightness):
        print("train: token_dropout and brightness have no effect on pooled features (freeze.trainable_blocks is 0)")
    if train.head_init == "probe":
        features = predict(suffix, views[0], ranks, features=True)
        if ranks.first:
            probe_head(model, features, labels, train.probe_c, train.class_weights)
        ranks.share(model.head.weight.data, model.head.bias.data)

    sources: list[View] = [*resident(views, device)]
    if train.changes_images:
        sources = changing_images(suffix, len(views), train, ranks)
    settings = [params.seed, freezing.model_dump(), train.model_dump()]
    checkpoints = CHECKPOINTS / key_of(*settings, manifest, digest(labels, val_labels))
    epochs = fit(
        suffix,
        sources,
        torch.tensor(labels),
        val,
        torch.tensor(val_labels),
        train,
        params.seed,
        layer_decay=freezing.layer_decay,
        checkpoint=checkpoints / "last.pt",
        ranks=ranks,
    )
    with progress(epochs, "train", "epoch", total=train.epochs) as bar:
        for state in bar:
            last = state.history[-1]
            bar.set_postfix({key: f"{last[key]:.3f}" for key in ("train_loss", "val_loss", "val_accuracy")})

    ranks.wait()
    if not ranks.first:
        return
    trainable, frozen = count_parameters(model)
    with new_folder("models/finetuned") as folder:
        save_model(model.cpu(), folder, preprocess, dataset)
    write_csv("plots/history.csv", [{key: round(value, 6) for key, value in row.items()} for row in state.history])
    write_json(
        "metrics/train.json",
        {
            "parameters_trainable": trainable,
            "parameters_frozen": frozen,
            "epochs": len(state.history),
            "best_epoch": state.best_epoch,
            **{key: round(state.best[key], 6) for key in ("train_loss", "train_accuracy", "val_loss", "val_accuracy")},
            "images": {"train": len(labels), "val": len(val_labels)},
            "precision": manifest["precision"],
            "storage": manifest["storage"],
            "boundary": manifest["boundary"],
        },
    )
    shutil.rmtree(checkpoints, ignore_errors=True)


def changing_images(suffix: Suffix, views: int, train: Train, ranks: Ranks) -> list[View]:
    """The images instead of their activations, as they are and mirrored, and a word of what that costs."""
    (images,) = read_split("data/subset", "train", "images")
    sources = [ImageView(images, mirrored) for mirrored in (False, True)[:views]]
    some = sources[0][range(min(len(images), train.batch_size // train.shards))]
    seconds = image_cost(suffix, some, train) * len(images) / ranks.size
    print(
        "train: train.crop_scale and train.randaugment change the images in every epoch, and all before the trained "
        f"blocks is computed again: about {seconds:.0f} s an epoch, {seconds * train.epochs / 60:.1f} min in all",
        flush=True,
    )
    return [*sources]


if __name__ == "__main__":
    run_stage("train", main, several=True)
