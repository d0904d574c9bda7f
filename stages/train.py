"""train: data/embedded, models/adapted, labels -> models/finetuned, metrics/train.json,
plots/history.csv"""

import numpy as np

from vit_finetune.activations.manifest import Manifest
from vit_finetune.core.files import new_folder, read_json, write_csv, write_json, write_text
from vit_finetune.model.adapted import Adapted
from vit_finetune.model.calibrated import write_validation
from vit_finetune.model.freezing import freeze
from vit_finetune.model.saved import head_digest, load_model, save_model
from vit_finetune.stage import Stage
from vit_finetune.training import results, temperature
from vit_finetune.training.data import read_training_data
from vit_finetune.training.features import Features
from vit_finetune.training.mirrored import mirrored_warnings
from vit_finetune.training.model_card import CARD, model_card
from vit_finetune.training.trainer import Trainer, possible_settings


def main(stage: Stage) -> None:
    params = stage.params
    manifest = Manifest.read("data/embedded")
    dataset = read_json("data/subset/dataset.json")
    data = read_training_data("data/embedded", "data/subset", manifest)
    features = Features.read("data/embedded")
    adapted = Adapted.read("models/adapted")
    model = load_model("models/adapted", num_classes=len(dataset["classes"]))
    manifest.require_weights(model)
    freeze(model, params.freeze.trainable_blocks, params.freeze.parameters)
    device = stage.device()
    split_model = manifest.split_model(model, device)

    warnings = list(adapted.warnings)

    def warn(sentences: list[str]) -> None:
        for sentence in sentences:
            stage.warn(sentence)
        warnings.extend(sentences)

    settings, without_effect = possible_settings(params.train, split_model)
    warn(without_effect)
    trainer = Trainer(
        split_model, data, settings, name=stage.name, seed=params.seed, ranks=stage.ranks
    )
    checkpoint = stage.checkpoint(
        params.seed,
        params.freeze.model_dump(),
        params.train.model_dump(),
        manifest.to_json(),
        data.labels_digest(),
        head_digest(model),
        device.type,
    )

    def write(history: results.History) -> None:
        """Replace the history and the metrics, so that both can be watched while training runs."""
        metrics = results.training_metrics(history, data, trainer.epochs, model, adapted, warnings)
        write_csv("plots/history.csv", results.history_rows(history))
        write_json("metrics/train.json", metrics)

    if settings.flip and stage.ranks.is_first:
        warn(mirrored_warnings(split_model, data, features, stage.name))
    history = results.fit_with_bar(trainer, features, checkpoint / "last.pt", write, stage.say)
    stage.ranks.barrier()
    if not stage.ranks.is_first:
        return
    warn(results.training_warnings(history, data))
    write(history)
    calibration = temperature.calibrate(split_model, data)
    with new_folder("models/finetuned") as folder:
        save_model(model.cpu(), folder, split_model.preprocess, dataset)
        write_text(folder / CARD, model_card(model, dataset, data, history, manifest, calibration))
        rng = np.random.default_rng(params.seed)
        write_validation(folder, calibration.confidence, calibration.right, data.val_groups, rng)
    stage.record_versions()
    stage.forget_checkpoints()
