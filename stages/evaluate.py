"""evaluate: models/finetuned, test activations and labels -> metrics/evaluation.json, tables,
pictures"""

from vit_finetune.activations.files import map_activations
from vit_finetune.activations.manifest import Manifest
from vit_finetune.core.device import set_up_torch
from vit_finetune.core.files import (
    read_split,
    unpacked,
    write_bytes,
    write_csv,
    write_json,
)
from vit_finetune.core.process import run_stage
from vit_finetune.evaluation import figures
from vit_finetune.evaluation.measures import (
    classification_summary,
    find_warnings,
    per_class,
    reliability,
)
from vit_finetune.evaluation.predictions import (
    confusion,
    most_confused,
    prediction_rows,
    worst_mistakes,
)
from vit_finetune.model.saved import class_names, load_model
from vit_finetune.params import read_params
from vit_finetune.params.evaluate import Evaluate
from vit_finetune.style import png

CONFUSED_PAIRS = 6


def main() -> None:
    params = read_params()
    evaluate, runtime = params.section(Evaluate), params.runtime
    device = set_up_torch(runtime.device, runtime.threads)
    manifest = Manifest.read("data/embedded")
    classes = class_names("models/finetuned")
    images, labels, indices, files = read_split(
        "data/subset", "test", "images", "labels", "indices", "files"
    )
    names = unpacked(files)
    split_model = manifest.split_model(load_model("models/finetuned"), device)
    logits = split_model.predict_logits(map_activations("data/embedded", manifest, "test")).double()
    probabilities = logits.softmax(dim=1).numpy()
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)

    summary = classification_summary(
        labels, logits.numpy(), classes, bins=evaluate.calibration_bins
    )
    rows = per_class(labels, predicted, classes)
    warnings = find_warnings(labels, predicted, classes)
    bins = reliability(labels, probabilities, bins=evaluate.calibration_bins)
    counts = confusion(labels, predicted, len(classes))
    worst = worst_mistakes(labels, probabilities, evaluate.mistakes)
    pairs = most_confused(counts, classes, CONFUSED_PAIRS)
    pictures = {
        "confusion": figures.confusion_matrix(counts, classes),
        "per_class": figures.per_class_bars({row["class"]: row for row in rows}),
        "reliability": figures.reliability_diagram(bins),
        "mistakes": figures.mistakes(
            images[worst],
            labels[worst],
            predicted[worst],
            confidence[worst],
            classes,
            [names[i] for i in worst],
        ),
        "confused_pairs": figures.most_confused_pairs(
            pairs, images, labels, predicted, classes, names
        ),
    }
    write_json(
        "metrics/evaluation.json", summary | ({"warning": "; ".join(warnings)} if warnings else {})
    )
    for warning in warnings:
        print(f"evaluate: warning: {warning}")
    write_csv(
        "plots/predictions.csv",
        prediction_rows(indices, names, labels, predicted, confidence, classes),
    )
    write_csv("plots/per_class.csv", rows)
    write_csv("plots/reliability.csv", bins)
    for name, picture in pictures.items():
        write_bytes(f"plots/{name}.png", png(picture))


if __name__ == "__main__":
    run_stage("evaluate", main)
