"""evaluate: models/finetuned, test activations and labels -> metrics/evaluation.json, tables,
pictures"""

from pathlib import Path

import numpy as np

from vit_finetune.activations.files import map_activations
from vit_finetune.activations.manifest import Manifest
from vit_finetune.charts import render
from vit_finetune.core.arrays import decode_names, read_split
from vit_finetune.core.files import read_json, write_bytes, write_csv, write_json
from vit_finetune.evaluation import figures, measures, predictions
from vit_finetune.model.calibrated import read_validation
from vit_finetune.model.saved import class_names, load_model
from vit_finetune.stage import Stage
from vit_finetune.style import font_warnings, png

CONFUSED_PAIRS = 6


def main(stage: Stage) -> None:
    settings = stage.params.evaluate

    manifest = Manifest.read("data/embedded")
    split_model = manifest.split_model(load_model("models/finetuned"), stage.device())
    classes = class_names("models/finetuned")
    images, labels, indices, names, groups = read_split(
        "data/subset", "test", "images", "labels", "indices", "files", "groups"
    )
    files = decode_names(names)
    stored = map_activations("data/embedded", manifest, "test")
    logits = split_model.predict_logits(stored).double()
    probabilities = logits.softmax(dim=1).numpy()
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)

    summary = measures.classification_summary(
        labels, logits.numpy(), classes, settings.calibration_bins, groups
    )
    corrections = read_json("data/subset/dataset.json")["corrections"]["test"]
    if corrections:
        summary["corrected"] = corrections
    _, validation_right = read_validation(Path("models/finetuned"))
    warnings = measures.find_warnings(labels, predicted, classes, validation_right, groups)
    if warnings:
        summary["warning"] = "; ".join(warnings)
    write_json("metrics/evaluation.json", summary)
    for warning in warnings:
        stage.warn(warning)

    class_rows = measures.per_class(labels, predicted, classes)
    bins = measures.reliability(labels, probabilities, settings.calibration_bins, groups)
    selective_rows = measures.selective(labels, predicted, confidence, groups)
    rows = predictions.prediction_rows(indices, files, labels, predicted, confidence, classes)
    if len(np.unique(groups)) < len(groups):
        for row, group in zip(rows, groups.tolist(), strict=True):
            row["group"] = group
    write_csv("plots/predictions.csv", rows)
    write_csv("plots/per_class.csv", class_rows)
    write_csv("plots/reliability.csv", bins)
    write_csv("plots/selective.csv", selective_rows)

    counts = predictions.confusion(labels, predicted, len(classes))
    worst = predictions.worst_mistakes(labels, probabilities, settings.mistakes)
    worst_files = [files[index] for index in worst]
    pairs = predictions.most_confused(counts, classes, CONFUSED_PAIRS)
    pictures = {
        "mistakes": figures.mistakes(
            images[worst],
            labels[worst],
            predicted[worst],
            confidence[worst],
            classes,
            worst_files,
        ),
        "confused_pairs": figures.most_confused_pairs(
            pairs, images, labels, predicted, classes, files
        ),
    }
    for name, picture in pictures.items():
        write_bytes(f"plots/{name}.png", png(picture))
    for warning in font_warnings(pictures.values()):
        stage.warn(warning)
    cells = render.counted(rows, ["actual", "predicted"])
    write_bytes("plots/confusion.png", render.png("confusion", cells))
    stage.record_versions()
