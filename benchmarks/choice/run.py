"""Which epoch should training keep? Every epoch's logits, on twelve data sets and five seeds.

    python benchmarks/choice/run.py && python benchmarks/choice/tables.py > tables.md

Stop it at any time: the same line continues after the last training that was finished. One seed of
every set comes before the next seed. Each set and seed is adapted and embedded once; then it is
trained with each of RECIPES. A row of benchmarks/choice/rows.csv for each `adapt` and each
training; in the folder:

    logits/<set>-<seed>/<training>.npz   see record.py
    runs/<set>-<seed>/                   what is stored of each set and seed

A row holds accuracies on validation and test images: `start` is the linear probe that training
starts from, `kept` is what the pipeline keeps, `best` is the epoch with the best validation
accuracy, and `last` is the last epoch. Those of `adapt` on test images are of linear probes of
these models. `gained` and `lost` count the `n` test images on which only `kept`, or only `start`,
is right.

CIFAR-10 is read as the pipeline reads it (VIT_DATA_DIR, or a download). After a change of the code,
of params.yaml or of profiles/demo.yaml, remove the rows and the folder.
"""

import argparse
import contextlib
import shutil
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from in_process import ROOT, prepare, run_stages
from record import RECIPES, StoredRun, read_labels, record_adapt
from rules import choose
from sets import SETS

from vit_finetune.core.device import set_up_torch
from vit_finetune.core.files import new_file, read_csv, write_csv
from vit_finetune.params import read_params

FOLDER = ROOT / ".run/choice"
TABLE = Path(__file__).with_name("rows.csv")
ADAPT = "adapt"


def adapt_and_embed(name, seed, threads):
    """In the current folder. Returns what is logged of `adapt`."""
    data_set = SETS[name]
    changes = {**data_set.changes, "seed": seed, "runtime": {"threads": threads}}
    prepare(Path(), data_set.draw(seed), data_set.classes, changes)
    params = read_params()
    logged = record_adapt(params, set_up_torch(params.runtime.device, threads))
    run_stages(Path(), "embed")
    return logged


def stored_run(threads):
    """Of the current folder."""
    params = read_params()
    return StoredRun(params, set_up_torch(params.runtime.device, threads))


def row_of(training, logged):
    val = logged["val"]
    val_labels = logged["val_labels"]
    chosen = choose(val, val_labels)
    last = len(val) - 1
    epochs = {
        "start": 0,
        "kept": chosen["kept"],
        "best": chosen["best accuracy"],
        "last": last,
    }
    row = {"epochs": last, "kept_epoch": epochs["kept"], "best_epoch": epochs["best"]}
    right = {}
    for name, epoch in epochs.items():
        if training == ADAPT:
            models = {0: "pretrained", last: "last"}
            logits = logged[f"{models.get(epoch, 'best')}_test"][0]
        else:
            logits = logged["test"][epoch]
        right[name] = logits.argmax(axis=1) == logged["test_labels"]
        row[f"val_{name}"] = rounded_mean(val[epoch].argmax(axis=1) == val_labels)
    for name in epochs:
        row[f"test_{name}"] = rounded_mean(right[name])
    row["gained"] = int((right["kept"] & ~right["start"]).sum())
    row["lost"] = int((right["start"] & ~right["kept"]).sum())
    row["n"] = len(right["kept"])
    return row


def rounded_mean(right):
    return round(float(right.mean()), 4)


class Log:
    """The rows of the table and the logits in the folder."""

    def __init__(self, folder):
        self.folder = folder
        self.rows = read_csv(TABLE) if TABLE.is_file() else []

    def missing(self, name, seed):
        """The trainings of a set and seed that are not done."""
        done = set()
        for row in self.rows:
            if (row["set"], row["seed"]) == (name, str(seed)):
                done.add(row["training"])
        return [training for training in (ADAPT, *RECIPES) if training not in done]

    def add(self, name, seed, training, logged, seconds):
        for split, labels in read_labels().items():
            logged[f"{split}_labels"] = labels.numpy()
        path = self.folder / f"logits/{name}-{seed}/{training}.npz"
        with new_file(path) as partial, partial.open("wb") as file:
            np.savez(file, **logged)
        row = {"set": name, "seed": seed, "training": training}
        row |= row_of(training, logged)
        row["cpu_s"] = round(seconds, 1)
        self.rows.append(row)
        write_csv(TABLE, self.rows)
        numbers = ", ".join(f"{key} {value}" for key, value in list(row.items())[3:])
        print(f"{name}, seed {seed}, {training}: {numbers}", flush=True)


def record(log, name, seed, threads):
    """Everything that is missing of a set and seed."""
    missing = log.missing(name, seed)
    if not missing:
        return
    folder = log.folder / f"runs/{name}-{seed}"
    is_stored = ADAPT not in missing and (folder / "data/embedded").is_dir()
    if not is_stored:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    with contextlib.chdir(folder):
        start = time.process_time()
        logged = {} if is_stored else adapt_and_embed(name, seed, threads)
        run = stored_run(threads)
        if ADAPT in missing:
            missing.remove(ADAPT)
            log.add(name, seed, ADAPT, logged, time.process_time() - start)
        for training in missing:
            start = time.process_time()
            logged = run.record_train(RECIPES[training])
            log.add(name, seed, training, logged, time.process_time() - start)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="default: .run/choice")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--threads", type=int, help="of torch; default: all cores")
    args = parser.parse_args()
    log = Log(args.folder.resolve())
    for seed in args.seeds:
        for name in args.sets:
            record(log, name, seed, args.threads)


if __name__ == "__main__":
    main()
