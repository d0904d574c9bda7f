"""The textbook recipe on the images of the committed run: `python benchmarks/textbook.py`

Runs the stages with profiles/textbook.yaml over params.yaml, on data/subset, and writes
benchmarks/textbook.json, from which `python tools/reference.py` fills a column of the README's
table of results.
"""

import tempfile
from pathlib import Path

from in_process import ROOT, prepare, run_stages

from vit_finetune.core.arrays import read_split
from vit_finetune.core.files import read_json, write_json
from vit_finetune.params import read_yaml

EVALUATION = ("accuracy", "accuracy_ci95", "macro_f1", "nll", "ece", "n")
TRAIN = (
    "val_accuracy",
    "probe_accuracy",
    "best_epoch",
    "epochs",
    "parameters_adapted",
    "parameters_trained",
)


def main():
    subset = ROOT / "data/subset"
    splits = {
        split: read_split(subset, split, "images", "labels") for split in ("train", "val", "test")
    }
    classes = read_json(subset / "dataset.json")["classes"]
    with tempfile.TemporaryDirectory(dir=ROOT / ".checkpoints") as place:
        prepare(Path(place), splits, classes, read_yaml(ROOT / "profiles/textbook.yaml"))
        run_stages(Path(place), "adapt", "embed", "train", "evaluate")
        found = {
            name: read_json(f"{place}/metrics/{name}.json") for name in ("evaluation", "train")
        }
    row = {key: found["evaluation"][key] for key in EVALUATION} | {
        key: found["train"][key] for key in TRAIN
    }
    write_json(ROOT / "benchmarks/textbook.json", row)


if __name__ == "__main__":
    main()
