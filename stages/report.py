"""report: metrics, plot data, pictures, parameters, versions -> report.html"""

from pathlib import Path
from typing import Any

from vit_finetune.core.files import read_csv, read_json, write_text
from vit_finetune.core.process import run_stage
from vit_finetune.params import Params, read_params
from vit_finetune.report.figures import training_curves
from vit_finetune.report.page import (
    ATTENTION,
    MISTAKES,
    TEST,
    TRAINING,
    compose,
    locked_versions,
)
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


def main() -> None:
    params = read_params()
    curves = {
        "training": training_curves(
            read_csv("plots/history.csv"), "Training from stored activations"
        ),
    }
    if adaptation := read_csv("plots/adaptation.csv"):
        curves["adaptation"] = training_curves(adaptation, "Adaptation of the whole backbone")
    drawn = {"training", "adaptation"}
    pictures = {
        name: Path(f"plots/{name}.png").read_bytes()
        for name in {*MISTAKES, *TEST, *ATTENTION, *TRAINING} - drawn
    }
    pictures |= {name: png(picture) for name, picture in curves.items()}
    page = compose(
        settings_of(params),
        settings_of(Params()),
        {name: read_json(f"metrics/{name}.json") for name in METRICS},
        read_csv("plots/attention_maps.csv"),
        pictures,
        locked_versions(Path("requirements.lock").read_text(encoding="utf-8"), PACKAGES),
    )
    write_text("report.html", page)


def settings_of(params: Params) -> dict[str, dict[str, Any]]:
    """What the page shows: the sections as plain values, and the seed as one of them."""
    return {"seed": {"seed": params.seed}, **params.model_dump(exclude={"seed", "runtime"})}


if __name__ == "__main__":
    run_stage("report", main)
