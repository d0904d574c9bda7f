"""evaluate: models/finetuned, test activations and labels -> metrics/evaluation.json, tables,
pictures"""

from vit_finetune.activations.files import MANIFEST, map_activations, split_model_of
from vit_finetune.charts import render
from vit_finetune.core.device import set_up_torch
from vit_finetune.core.files import (
    read_json,
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
    per_class,
    reliability,
    warning_signs,
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
from vit_finetune.style import font_warnings, png

CONFUSED_PAIRS = 6


def main() -> None:
    params = read_params()
    evaluate, runtime = params.section(Evaluate), params.runtime
    device = set_up_torch(runtime.device, runtime.threads)
    manifest = read_json(f"data/embedded/{MANIFEST}")
    classes = class_names("models/finetuned")
    images, labels, indices, files = read_split(
        "data/subset", "test", "images", "labels", "indices", "files"
    )
    names = unpacked(files)
    split_model = split_model_of(load_model("models/finetuned"), manifest, device)
    logits = split_model.predict(map_activations("data/embedded", manifest, "test")).double()
    probabilities = logits.softmax(dim=1).numpy()
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)

    summary = classification_summary(
        labels, logits.numpy(), classes, bins=evaluate.calibration_bins
    )
    rows, signs = per_class(labels, predicted, classes), warning_signs(labels, predicted, classes)
    bins = reliability(labels, probabilities, bins=evaluate.calibration_bins)
    counts = confusion(labels, predicted, len(classes))
    worst = worst_mistakes(labels, probabilities, evaluate.mistakes)
    pairs = most_confused(counts, classes, CONFUSED_PAIRS)
    pictures = {
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
        "metrics/evaluation.json", summary | ({"warning": "; ".join(signs)} if signs else {})
    )
    for sign in signs:
        print(f"evaluate: warning: {sign}")
    table = prediction_rows(indices, names, labels, predicted, confidence, classes)
    write_csv("plots/predictions.csv", table)
    write_csv("plots/per_class.csv", rows)
    write_csv("plots/reliability.csv", bins)
    for name, picture in pictures.items():
        write_bytes(f"plots/{name}.png", png(picture))
    for warning in font_warnings(pictures.values()):
        print(f"evaluate: warning: {warning}")
    cells = render.counted(table, ["actual", "predicted"])
    write_bytes("plots/confusion.png", render.png("confusion", cells))


if __name__ == "__main__":
    run_stage("evaluate", main)
