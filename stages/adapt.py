"""adapt: data/subset, pretrained weights -> models/pretrained, models/adapted,
data/pretrained_features, plots/adaptation.csv"""

from vit_finetune.core.device import resolve_precision
from vit_finetune.core.files import new_folder, read_json, write_csv
from vit_finetune.model.boundary import SplitModel, to_device
from vit_finetune.model.build import build_model, preprocessing
from vit_finetune.model.freezing import freeze
from vit_finetune.model.saved import head_digest, save_model, weights_digest
from vit_finetune.stage import Stage
from vit_finetune.training import adaptation, features, results
from vit_finetune.training.data import read_training_images
from vit_finetune.training.mirrored import mirrored_warnings
from vit_finetune.training.trainer import Trainer, possible_settings


def main(stage: Stage) -> None:
    params = stage.params
    dataset = read_json("data/subset/dataset.json")
    device = stage.device()
    options = params.model
    precision = resolve_precision(options.precision, device)
    backbone = build_model(
        options.name,
        pretrained=options.pretrained,
        image_size=options.image_size,
        seed=params.seed,
    )
    preprocess = preprocessing(backbone, options.crop_pct)
    other_size = adaptation.other_size(dataset, preprocess.input_size)
    if other_size:
        stage.say(other_size)
    head, message = adaptation.find_head(params, backbone, dataset["classes"])
    if message:
        stage.say(message)
    model = adaptation.with_head(backbone, len(dataset["classes"]), head)
    for warning in adaptation.check_later_stages(model, params):
        stage.warn(warning)

    freeze(model, "all", params.adapt.parameters, "adapt.parameters")
    model = to_device(model, device, precision)
    split_model = SplitModel(model, "all", preprocess, device, precision)
    data, images = read_training_images("data/subset")
    checkpoint = stage.checkpoint(
        params.seed,
        params.adapt.model_dump(),
        preprocess.facts(),
        str(precision),
        device.type,
        images,
        weights_digest(backbone),
        head_digest(model),
    )
    pretrained = features.read_or_compute(
        checkpoint / "features.pt", split_model, data, stage.ranks
    )
    history = results.History()
    warnings: list[str] = []
    if params.adapt.epochs:
        settings, warnings = possible_settings(params.adapt, split_model)
        if settings.flip and stage.ranks.is_first:
            warnings += mirrored_warnings(split_model, data, pretrained, stage.name)
        for warning in warnings:
            stage.warn(warning)
        trainer = Trainer(
            split_model, data, settings, name=stage.name, seed=params.seed, ranks=stage.ranks
        )
        last = checkpoint / "last.pt"
        history = results.fit_with_bar(trainer, pretrained, last, write_history, stage.say)

    if not stage.ranks.is_first:
        return
    pretrained.write("data/pretrained_features")
    with new_folder("models/pretrained") as folder:
        save_model(backbone, folder, preprocess)
    adapted = adaptation.adopt(
        backbone,
        model,
        history,
        str(precision).removeprefix("torch."),
        kept_head=head is not None,
        warnings=warnings,
    )
    with new_folder("models/adapted") as folder:
        # a kept head belongs to the model that training starts from
        save_model(backbone if head is None else model.cpu(), folder, preprocess)
        adapted.write(folder)
    write_history(history)
    stage.record_versions()
    if params.adapt.epochs and not adapted.parameters_adapted:
        probe_accuracy = history.rows[0]["val_accuracy"]
        last_accuracy = history.rows[-1]["val_accuracy"]
        stage.say(
            f"the backbone stays as it was: a linear probe of it has {probe_accuracy:.4f} on the "
            f"validation images, clearly more than the last epoch's {last_accuracy:.4f}"
        )
    stage.forget_checkpoints()


def write_history(history: results.History) -> None:
    write_csv("plots/adaptation.csv", results.history_rows(history), results.COLUMNS)
