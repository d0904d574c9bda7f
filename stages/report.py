"""report: metrics, plot data, images, pictures, parameters, versions -> report.html"""

from pathlib import Path

from safetensors import safe_open

from vit_finetune.charts import render
from vit_finetune.core.arrays import decode_names, read_split
from vit_finetune.core.files import read_csv, read_json, write_text
from vit_finetune.report import page, tiles
from vit_finetune.stage import Stage

METRICS = ("subset", "train", "evaluation", "attention", "review")
PICTURES = ("attention_montage", "attention_classes", "attention_blocks")
SUBSET = "data/subset"
CHARTS = {  # picture of the page -> template, table
    "adaptation": ("history", "adaptation"),
    "training": ("history", "history"),
    "class_balance": ("class_balance", "class_balance"),
    "per_class": ("per_class", "per_class"),
    "reliability": ("reliability", "reliability"),
    "selective": ("selective", "selective"),
    "attention_curves": ("attention_curves", "attention_curves"),
    "attention_shape": ("attention_blocks", "attention_blocks"),
}
STAGES = ("download", "subset", "adapt", "embed", "review", "train", "evaluate", "attention")


def main(stage: Stage) -> None:
    metrics = {name: read_json(f"metrics/{name}.json") for name in METRICS}
    maps = read_csv("plots/attention_maps.csv")
    recorded = {name: read_json(f"versions/{name}.json") for name in STAGES}
    pins = page.pinned_versions(Path("requirements.lock").read_text(encoding="utf-8"))

    predictions = read_csv("plots/predictions.csv")

    pictures = {}
    for name in PICTURES:
        light = Path(f"plots/{name}.png").read_bytes()
        dark = Path(f"attention/dark/{name}.png").read_bytes()
        pictures[name] = page.Picture(light, dark)
    for name, (template, table) in CHARTS.items():
        rows = read_csv(f"plots/{table}.csv")
        if template == "history" and len(rows) < 2:  # no epoch was run
            continue
        pictures[name] = page.Picture(render.svg(template, rows))
    cells = render.counted(predictions, ["actual", "predicted"])
    pictures["confusion"] = page.Picture(render.svg("confusion", cells))

    versions = page.used_versions(recorded, pins)
    groups = image_groups(predictions, stage.params.evaluate.mistakes)
    text = page.compose(stage.params, metrics, maps, pictures, groups, versions)
    write_text("report.html", text)


def image_groups(predictions: list[dict[str, str]], mistakes: int) -> dict[str, list[tiles.Group]]:
    """The small images of each section of the page."""
    (test_images,) = read_split(SUBSET, "test", "images")
    train_images, labels, files = read_split(SUBSET, "train", "images", "labels", "files")
    with safe_open("attention/gallery.safetensors", framework="numpy") as gallery:
        explored = gallery.get_tensor("rows").tolist()
    classes = read_json(f"{SUBSET}/dataset.json")["classes"]
    return {
        "mistakes": [
            tiles.mistakes(predictions, test_images, explored, mistakes),
            *tiles.confused_pairs(predictions, test_images),
        ],
        "review": tiles.suspects(read_csv("plots/review.csv"), SUBSET),
        "data": [tiles.samples(train_images, labels, decode_names(files), classes)],
    }
