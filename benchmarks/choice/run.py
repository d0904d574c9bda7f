"""Which epoch should training keep? What rules take, on twelve data sets and five seeds.

    python benchmarks/choice/run.py && python tools/reference.py

Stop it at any time: the same line continues after the last training that was finished. One seed of
every set comes before the next seed. Each set and seed is adapted and embedded once; then it is
trained with each of RECIPES. benchmarks/choice/rows.csv has a row for each `adapt`, each training
and each choice (see record.py), with the number of training images and of classes. The folder
`.run/choice` keeps what is stored of each set and seed.

CIFAR-10 is read as the pipeline reads it (VIT_DATA_DIR, or a download). After a change of the code,
of params.yaml or of profiles/demo.yaml, remove the rows and the folder.
"""

import argparse
import contextlib
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from differences import TABLE
from in_process import ROOT, prepare, run_stages
from record import ADAPT, RECIPES, record_adapt, record_train
from sets import SETS

from vit_finetune.core.device import set_up_torch
from vit_finetune.core.files import read_csv, write_csv
from vit_finetune.params import read_params

FOLDER = ROOT / ".run/choice"


class Log:
    """The rows of the table."""

    def __init__(self):
        self.rows = read_csv(TABLE) if TABLE.is_file() else []

    def missing(self, name, seed, trainings):
        """Those of the trainings of a set and seed that are not done."""
        done = set()
        for row in self.rows:
            if (row["set"], row["seed"]) == (name, str(seed)):
                done.add(row["training"])
        return [training for training in trainings if training not in done]

    def add(self, run, rows):
        """The rows of a training, which `run` says."""
        for row in rows:
            self.rows.append(run | row)
        write_csv(TABLE, self.rows)
        accuracies = ", ".join(f"{row['choice']} {row['test']}" for row in rows)
        print(f"{run['set']}, seed {run['seed']}, {run['training']}: {accuracies}", flush=True)


def record(log, name, seed, recipes, threads):
    """Everything that is missing of a set and seed."""
    missing = log.missing(name, seed, [ADAPT, *recipes])
    if not missing:
        return
    data_set = SETS[name]
    splits = data_set.draw(seed)
    run = {
        "set": name,
        "seed": seed,
        "images": len(splits["train"][1]),
        "classes": len(data_set.classes),
    }
    folder = FOLDER / f"{name}-{seed}"
    is_stored = ADAPT not in missing and (folder / "data/embedded").is_dir()
    if not is_stored:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    with contextlib.chdir(folder):
        changes = {**data_set.changes, "seed": seed, "runtime": {"threads": threads}}
        prepare(Path(), splits, data_set.classes, changes)
        params = read_params()
        device = set_up_torch(params.runtime.device, threads)
        if not is_stored:
            rows = record_adapt(params, device)
            run_stages(Path(), "embed")
            if ADAPT in missing:
                log.add(run | {"training": ADAPT}, rows)
        for recipe in recipes:
            if recipe in missing:
                train = params.train.model_copy(update=RECIPES[recipe])
                rows = record_train(params.model_copy(update={"train": train}), device)
                log.add(run | {"training": recipe}, rows)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--threads", type=int, help="of torch; default: all cores")
    args = parser.parse_args()
    log = Log()
    for seed in args.seeds:
        for name in args.sets:
            record(log, name, seed, args.recipes, args.threads)


if __name__ == "__main__":
    main()
