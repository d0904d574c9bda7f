"""`python benchmarks/review_use.py`: what it is worth to correct what `review` lists.

The whole pipeline on 1,000 images of CIFAR-10 to train on and 200 to validate on, of whose labels
10 % are exchanged evenly; its accuracy on 2,000 test images. Then the same with the listed labels'
images dropped, with the listed labels corrected, as a person does who looks at them, and with all
labels true. All else is as in params.yaml.

A row of benchmarks/review_use.csv for each run, and three with the differences from before over all
seeds, paired by image. Each run keeps its outputs in the folder; one that is finished is not done
again. CIFAR-10 is read as the pipeline reads it (VIT_DATA_DIR, or a download).
"""

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np
from in_process import ROOT, prepare, run_stages

from vit_finetune.core.files import read_csv, write_csv
from vit_finetune.intervals import mean
from vit_finetune.review.suspects import WRONG_LABEL

sys.path.insert(0, str(Path(__file__).resolve().parent / "choice"))

from sets import CIFAR, cifar

TABLE = Path(__file__).with_suffix(".csv")
COLUMNS = ("seed", "labels", "images", "wrong", "right", "n", "difference", "cpu_s")
SEEDS = (10, 11, 12)
SEEN = ("train", "val")
BEFORE = "as they came"
DROPPED = "listed dropped"
CORRECTED = "listed corrected"
TRUE = "all true"


def with_errors(labels, share, rng):
    """Labels (N,) of which a share is exchanged for other classes, evenly."""
    rows = rng.choice(len(labels), round(share * len(labels)), replace=False)
    given = labels.copy()
    given[rows] = (given[rows] + rng.integers(1, len(CIFAR), len(rows))) % len(CIFAR)
    return given


def listed_images(folder):
    """The suspects of wrong labels of a run: {"train", "val": rows}."""
    listed = {part: [] for part in SEEN}
    for row in read_csv(folder / "plots/review.csv"):
        if row["kind"] == WRONG_LABEL and row["part"] in listed:
            listed[row["part"]].append(int(row["file"].split("/")[1]))
    return listed


def run_pipeline(folder, splits, seed, stages):
    """Right answers (N,) of the test images, and CPU seconds; of a finished run without seconds."""
    predictions = folder / "plots/predictions.csv"
    seconds = ""
    if not predictions.is_file():
        prepare(folder, splits, CIFAR, {"seed": seed, "runtime": {"threads": 1}})
        shutil.copy(ROOT / "data/corrections.csv", folder / "data")
        seconds = round(sum(run_stages(folder, *stages).values()))
    answers = read_csv(predictions)
    return np.array([row["actual"] == row["predicted"] for row in answers]), seconds


def four_runs(seed, folder, log):
    """The right answers (N,) of the four runs of a seed."""
    splits = cifar([100] * 10, [20] * 10, [200] * 10, seed)
    rng = np.random.default_rng(seed)
    true = {part: splits[part][1] for part in SEEN}
    given = {part: with_errors(true[part], 0.1, rng) for part in SEEN}
    right = {}

    def run(name, kept, labels, *stages):
        data = dict(splits)
        for part in SEEN:
            rows = kept[part]
            data[part] = splits[part][0][rows], labels[part][rows]
        path = folder / f"{seed}-{name.replace(' ', '-')}"
        right[name], seconds = run_pipeline(path, data, seed, stages)
        wrong = sum(int((labels[part] != true[part])[kept[part]].sum()) for part in SEEN)
        images = sum(len(kept[part]) for part in SEEN)
        log.add(seed, name, images, wrong, int(right[name].sum()), len(right[name]), "", seconds)
        return path

    everything = {part: np.arange(len(true[part])) for part in SEEN}
    before = run(BEFORE, everything, given, "adapt", "embed", "review", "train", "evaluate")
    listed = listed_images(before)
    rest = {part: np.setdiff1d(everything[part], listed[part]) for part in SEEN}
    corrected = {part: given[part].copy() for part in SEEN}
    for part in SEEN:
        corrected[part][listed[part]] = true[part][listed[part]]
    for name, kept, labels in (
        (DROPPED, rest, given),
        (CORRECTED, everything, corrected),
        (TRUE, everything, true),
    ):
        run(name, kept, labels, "adapt", "embed", "train", "evaluate")
    return right


class Log:
    """The rows of the table."""

    def __init__(self):
        self.rows = list(read_csv(TABLE)) if TABLE.exists() else []

    def add(self, *values):
        row = dict(zip(COLUMNS, values, strict=True))
        if any(
            (old["seed"], old["labels"]) == (str(row["seed"]), row["labels"]) for old in self.rows
        ):
            return
        self.rows.append(row)
        write_csv(TABLE, self.rows, COLUMNS)
        print(row, flush=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=ROOT / ".run/review_use")
    args = parser.parse_args()
    log = Log()
    right = {}
    for seed in SEEDS:
        for name, answers in four_runs(seed, args.folder.resolve(), log).items():
            right.setdefault(name, []).append(answers)
    accuracy = {name: np.mean(answers, axis=0) for name, answers in right.items()}  # of each image
    for name in (DROPPED, CORRECTED, TRUE):
        gain = mean(accuracy[name] - accuracy[BEFORE])
        difference = f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"
        log.add("all", name, "", "", "", gain.n, difference, "")


if __name__ == "__main__":
    main()
