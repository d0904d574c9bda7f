"""evaluate: models/finetuned, test activations and labels -> metrics/evaluation.json, predictions, mistakes"""

from vit_finetune import figures
from vit_finetune.backbone import Suffix, class_names, load_model, preprocessing, to_device
from vit_finetune.embedding import DTYPES, MANIFEST, map_activations
from vit_finetune.files import read_json, read_split, write_csv, write_json
from vit_finetune.metrics import classification_summary, confusion, most_confused, reliability, worst_mistakes
from vit_finetune.params import read_params
from vit_finetune.params.evaluate import Evaluate
from vit_finetune.runtime import run_stage, set_up_torch

CONFUSED_PAIRS = 6


def main() -> None:
    params = read_params()
    evaluate, runtime = params.section(Evaluate), params.runtime
    device = set_up_torch(runtime.device, runtime.threads)
    manifest = read_json(f"data/embedded/{MANIFEST}")
    classes = class_names("models/finetuned")
    images, labels, indices = read_split("data/subset", "test", "images", "labels", "indices")
    model = load_model("models/finetuned")
    blocks, precision = manifest["trainable_blocks"], DTYPES[manifest["precision"]]
    suffix = Suffix(to_device(model, device, precision), blocks, preprocessing(model, None), device, precision)
    logits = suffix.predict(map_activations("data/embedded", manifest, "test")).double()
    probabilities = logits.softmax(dim=1).numpy()
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)

    summary = classification_summary(labels, probabilities, classes, bins=evaluate.calibration_bins)
    bins = reliability(labels, probabilities, bins=evaluate.calibration_bins)
    counts = confusion(labels, predicted, len(classes))
    worst = worst_mistakes(labels, probabilities, evaluate.mistakes)
    pairs = most_confused(counts, classes, CONFUSED_PAIRS)
    pictures = {
        "confusion": figures.confusion_matrix(counts, classes),
        "per_class": figures.per_class_bars(summary["per_class"]),
        "reliability": figures.reliability_diagram(bins),
        "mistakes": figures.mistakes(images[worst], labels[worst], predicted[worst], confidence[worst], classes),
        "confused_pairs": figures.most_confused_pairs(pairs, images, labels, predicted, classes),
    }
    write_json("metrics/evaluation.json", summary)
    write_csv(
        "plots/predictions.csv",
        [
            {"index": int(i), "actual": classes[a], "predicted": classes[p], "confidence": round(float(c), 6)}
            for i, a, p, c in zip(indices, labels, predicted, confidence, strict=True)
        ],
    )
    write_csv("plots/per_class.csv", [{"class": name, **row} for name, row in summary["per_class"].items()])
    write_csv("plots/reliability.csv", bins)
    for name, picture in pictures.items():
        figures.save_png(picture, f"plots/{name}.png")


if __name__ == "__main__":
    run_stage("evaluate", main)
