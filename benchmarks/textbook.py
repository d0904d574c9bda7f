"""The textbook recipe beside the committed run: `python benchmarks/textbook.py`

Takes the metrics of the experiment `textbook`, which `make demo PROFILE=textbook` runs, and writes
benchmarks/textbook.json. `python tools/reference.py` makes a column of the README's table of
results of it.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from vit_finetune.comparison.runs import find_commit, git
from vit_finetune.core.files import write_json

ROOT = Path(__file__).resolve().parent.parent
KEYS = {
    "evaluation": ("accuracy", "accuracy_ci95", "macro_f1", "nll", "ece", "n"),
    "train": (
        "val_accuracy",
        "probe_accuracy",
        "pretrained_probe_accuracy",
        "kept_epoch",
        "epochs",
        "parameters_adapted",
        "parameters_trained",
    ),
}


def main():
    commit = find_commit("textbook")
    row = {}
    for name, keys in KEYS.items():
        shown = git("show", f"{commit}:./metrics/{name}.json")
        metrics = json.loads(shown.stdout)
        row |= {key: metrics[key] for key in keys}
    write_json(ROOT / "benchmarks/textbook.json", row)


if __name__ == "__main__":
    main()
