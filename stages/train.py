"""train: data/embedded, models/adapted, labels -> models/finetuned, metrics/train.json,
plots/history.csv"""

from functools import partial

from vit_finetune.activations.files import MANIFEST, require_weights, split_model_of
from vit_finetune.core.checkpoints import checkpoint_folder, forget_checkpoints
from vit_finetune.core.device import set_up_torch
from vit_finetune.core.files import digest, new_folder, read_json, write_text
from vit_finetune.core.process import run_stage
from vit_finetune.core.ranks import Ranks, side_by_side
from vit_finetune.model.freezing import freeze
from vit_finetune.model.saved import load_model, save_model
from vit_finetune.params import Params, read_params
from vit_finetune.training.adaptation import RECORD
from vit_finetune.training.card import CARD, model_card
from vit_finetune.training.recipe import Recipe, read_training_data
from vit_finetune.training.results import train_with_bar, warning_signs, write_progress
from vit_finetune.training.settings import Settings


def main() -> None:
    params = read_params()
    with side_by_side(params.runtime.processes) as ranks:
        train(params, ranks)


def train(params: Params, ranks: Ranks) -> None:
    """What each of the processes does: its own shards of every batch; the first one writes."""
    settings, freezing, runtime = params.train, params.freeze, params.runtime
    options = Settings("train", **settings.model_dump())
    recipe = Recipe(options, params.seed, ranks)
    device = set_up_torch(runtime.device, runtime.threads, ranks.local_rank, ranks.local_size)
    manifest, dataset = (
        read_json(f"data/embedded/{MANIFEST}"),
        read_json("data/subset/dataset.json"),
    )
    data = read_training_data("data/embedded", "data/subset", manifest)
    model = load_model("models/adapted", num_classes=len(dataset["classes"]))
    require_weights(model, manifest)
    freeze(model, freezing.trainable_blocks, freezing.parameters)
    split_model = split_model_of(model, manifest, device)
    ignored = recipe.without_effect(split_model)
    print(
        *(f"train: {note}\n" for note in [*ignored, *recipe.cost(split_model, data)]),
        sep="",
        end="",
        flush=True,
    )
    planned, adapted = options.epochs_over(len(data.labels)), read_json(f"models/adapted/{RECORD}")
    write = partial(write_progress, model, planned, adapted, ignored)
    labels = digest(data.labels.numpy(), data.val_labels.numpy())
    checkpoint = checkpoint_folder(
        "train", params.seed, freezing.model_dump(), settings.model_dump(), manifest, labels
    )
    history = train_with_bar(recipe, split_model, data, checkpoint / "last.pt", write)
    ranks.wait()
    if ranks.first:
        with new_folder("models/finetuned") as folder:
            save_model(model.cpu(), folder, split_model.preprocess, dataset)
            write_text(folder / CARD, model_card(model, dataset, data, history, manifest))
        signs = warning_signs(history, data.val_labels)
        write(history, signs)
        print(*(f"train: warning: {sign}\n" for sign in signs), sep="", end="")
        forget_checkpoints("train")


if __name__ == "__main__":
    run_stage("train", main, several=True, smaller="train.batch_size")
