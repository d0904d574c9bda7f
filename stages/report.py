"""report: metrics, plot data, pictures, parameters, versions -> report.html"""

from pathlib import Path
from typing import Any

from vit_finetune.core.files import read_csv, read_json, write_text
from vit_finetune.params import Params
from vit_finetune.report import page
from vit_finetune.report.figures import training_curves
from vit_finetune.stage import Stage
from vit_finetune.style import png

METRICS = ("subset", "train", "evaluation", "attention")
PACKAGES = (
    "dvc",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "scikit-learn",
    "matplotlib",
    "pillow",
    "safetensors",
)


def main(stage: Stage) -> None:
    metrics = {name: read_json(f"metrics/{name}.json") for name in METRICS}
    maps = read_csv("plots/attention_maps.csv")
    history = read_csv("plots/history.csv")
    adaptation = read_csv("plots/adaptation.csv")
    versions = page.locked_versions(Path("requirements.lock").read_text(encoding="utf-8"), PACKAGES)

    pictures = {"training": png(training_curves(history, "Training from stored activations"))}
    if adaptation:
        figure = training_curves(adaptation, "Adaptation of the whole backbone")
        pictures["adaptation"] = png(figure)
    for name in {*page.MISTAKES, *page.TEST, *page.ATTENTION, *page.TRAINING}:
        if name not in ("training", "adaptation"):
            pictures[name] = Path(f"plots/{name}.png").read_bytes()

    settings = settings_of(stage.params)
    shipped = settings_of(Params())
    write_text("report.html", page.compose(settings, shipped, metrics, maps, pictures, versions))


def settings_of(params: Params) -> dict[str, dict[str, Any]]:
    """What the page shows: the sections as plain values, and the seed as one of them."""
    return {"seed": {"seed": params.seed}, **params.model_dump(exclude={"seed", "runtime"})}
