"""report: metrics, plot data, pictures, parameters, versions -> report.html"""

from pathlib import Path

from vit_finetune.core.files import read_csv, read_json, write_text
from vit_finetune.core.process import run_stage
from vit_finetune.params import read_params, read_yaml
from vit_finetune.report.figures import training_curves
from vit_finetune.report.page import (
    ATTENTION,
    MISTAKES,
    SHIPPED,
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
    # checked; and as it stands in the file
    params, written = read_params(), read_yaml("params.yaml")
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
    shipped = read_yaml(SHIPPED)
    now, before = (
        {"seed": {"seed": seed}, **{section: values[section] for section in params.tracked()}}
        for seed, values in ((params.seed, written), (shipped["seed"], shipped))
    )
    page = compose(
        now,
        before,
        {name: read_json(f"metrics/{name}.json") for name in METRICS},
        read_csv("plots/attention_maps.csv"),
        pictures,
        locked_versions(Path("requirements.lock").read_text(encoding="utf-8"), PACKAGES),
    )
    write_text("report.html", page)


if __name__ == "__main__":
    run_stage("report", main)
