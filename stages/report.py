"""report: metrics, plot data, pictures, parameters, versions -> report.html"""

from pathlib import Path

from vit_finetune.figures import png, training_curves
from vit_finetune.files import new_file, read_csv, read_json
from vit_finetune.params import read_params
from vit_finetune.report import ATTENTION, TEST, TRAINING, compose, locked_versions
from vit_finetune.runtime import run_stage

METRICS = ("subset", "train", "evaluation", "attention")
PACKAGES = ("dvc", "torch", "torchvision", "timm", "numpy", "scikit-learn", "matplotlib", "pillow", "safetensors")


def main() -> None:
    params = read_params()
    pictures = {
        name: Path(f"plots/{name}.png").read_bytes() for name in (*TEST, *ATTENTION, *TRAINING) if name != "training"
    }
    pictures["training"] = png(training_curves(read_csv("plots/history.csv")))
    page = compose(
        {"seed": {"seed": params.seed}, **params.tracked()},
        {name: read_json(f"metrics/{name}.json") for name in METRICS},
        pictures,
        locked_versions(Path("requirements.lock").read_text(encoding="utf-8"), PACKAGES),
    )
    with new_file("report.html") as partial:
        partial.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    run_stage("report", main)
