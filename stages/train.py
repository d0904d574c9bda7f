"""train: data/embedded, models/adapted, labels -> models/finetuned, metrics/train.json,
plots/history.csv"""

from functools import partial

from vit_finetune.activations.files import MANIFEST, require_weights, split_model_of
from vit_finetune.core.files import new_folder, read_json, write_text
from vit_finetune.core.hashes import digest
from vit_finetune.model.freezing import freeze
from vit_finetune.model.saved import load_model, save_model
from vit_finetune.params.freeze import Freeze
from vit_finetune.params.train import Train
from vit_finetune.stage import Stage
from vit_finetune.training.adaptation import RECORD
from vit_finetune.training.card import CARD, model_card
from vit_finetune.training.recipe import Recipe, read_training_data
from vit_finetune.training.results import train_with_bar, warning_signs, write_progress
from vit_finetune.training.settings import Settings


def main(stage: Stage) -> None:
    settings = stage.params.section(Train)
    freezing = stage.params.section(Freeze)
    seed = stage.params.seed
    training = Settings("train", layer_decay=freezing.layer_decay, **settings.model_dump())
    recipe = Recipe(training, seed, stage.ranks)

    device = stage.device()
    manifest = read_json(f"data/embedded/{MANIFEST}")
    dataset = read_json("data/subset/dataset.json")
    data = read_training_data("data/embedded", "data/subset", manifest)
    model = load_model("models/adapted", num_classes=len(dataset["classes"]))
    require_weights(model, manifest)
    freeze(model, freezing.trainable_blocks, freezing.parameters)
    split_model = split_model_of(model, manifest, device)
    without_effect = recipe.without_effect(split_model)
    for sentence in [*without_effect, *recipe.cost(split_model, data)]:
        stage.say(sentence)

    labels = digest(data.labels.numpy(), data.val_labels.numpy())
    checkpoint = stage.checkpoint(
        seed, freezing.model_dump(), settings.model_dump(), manifest, labels
    )
    epochs = training.epochs_over(len(data.labels))
    adapted = read_json(f"models/adapted/{RECORD}")
    write = partial(write_progress, model, epochs, adapted, without_effect)
    history = train_with_bar(recipe, split_model, data, checkpoint / "last.pt", write)

    stage.ranks.barrier()
    if stage.ranks.is_first:
        with new_folder("models/finetuned") as folder:
            save_model(model.cpu(), folder, split_model.preprocess, dataset)
            write_text(folder / CARD, model_card(model, dataset, data, history, manifest))
        warnings = warning_signs(history, data.val_labels)
        write(history, warnings)
        for warning in warnings:
            stage.warn(warning)
        stage.forget_checkpoints()
