"""report: metrics, plot data, pictures, parameters, versions -> report.html"""

from pathlib import Path

from vit_finetune.charts import render
from vit_finetune.core.files import read_csv, read_json, write_text
from vit_finetune.report import page
from vit_finetune.stage import Stage

METRICS = ("subset", "train", "evaluation", "attention", "review")
IMAGES = (
    "samples",
    "mistakes",
    "confused_pairs",
    "attention_montage",
    "attention_classes",
    "attention_blocks",
    "review",
)
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

    pictures = {}
    for name in IMAGES:
        pictures[name] = Path(f"plots/{name}.png").read_bytes()
    for name, (template, table) in CHARTS.items():
        rows = read_csv(f"plots/{table}.csv")
        if rows:  # adaptation.csv has none if the backbone was not adapted
            pictures[name] = render.svg(template, rows)
    predictions = render.counted(read_csv("plots/predictions.csv"), ["actual", "predicted"])
    pictures["confusion"] = render.svg("confusion", predictions)

    text = page.compose(stage.params, metrics, maps, pictures, page.used_versions(recorded, pins))
    write_text("report.html", text)
