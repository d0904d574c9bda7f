"""The default run with several seeds, beside other numbers of epochs of `train`.

    python benchmarks/default_run.py --seeds 1 2 3           # judged on images that train nothing
    python benchmarks/default_run.py --seeds 1 2 3 --test    # last, once: on the test images

A seed draws the images as the stage `subset` does, and everything that follows. The model is
adapted and embedded once for a seed, then trained for each number of epochs; 0 is the linear probe
that training starts from. A run leaves its model and its row in .run/default/kept, and is not
computed again. The rows together are benchmarks/default_run.csv, which keeps the rows of runs that
are not in this folder:

    train                  epochs
    probe, adapted, val    accuracy on validation images: of a linear probe of the pretrained model,
                           of a linear probe of the adapted one, and of what is kept
    others                 accuracy on 3,000 more images of CIFAR-10's training part, by which
                           nothing was trained
    gained, lost           on how many of these the model is right where that of the shipped number
                           of epochs is wrong, and the other way round
    adapt_s, pass_s, train_s    CPU seconds; the pass over training and validation images
    test, nll, ece         on the 10,000 test images; a probe is not calibrated

CIFAR-10 is read as the pipeline reads it (VIT_DATA_DIR, or a download).
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch
from in_process import ROOT, prepare, run_stages

from vit_finetune.activations.files import map_activations
from vit_finetune.activations.manifest import Manifest
from vit_finetune.activations.views import ImageView
from vit_finetune.core.device import resolve_precision, set_up_torch
from vit_finetune.core.files import new_folder, read_csv, read_json, write_csv, write_json
from vit_finetune.data.cifar import load_cifar
from vit_finetune.data.split import stratified, train_val_test
from vit_finetune.evaluation.measures import classification_summary
from vit_finetune.model.boundary import SplitModel, to_device
from vit_finetune.model.build import preprocessing
from vit_finetune.model.saved import load_model, save_model
from vit_finetune.training.features import Features
from vit_finetune.training.probe import fit_probe

FOLDER = ROOT / ".run/default"
TABLE = Path(__file__).with_suffix(".csv")
TRAIN = 5000
VAL = 1000
OTHERS = 3000
EPOCHS = (8, 4, 2, 0)
SHIPPED = 4


def draw(data, seed):
    """The splits of a seed, with the others in the place of the test images."""
    labels = data.labels["train"]
    rows = train_val_test(data.labels, train_size=TRAIN, val_size=VAL, test_size="all", seed=seed)
    used = np.concatenate([rows["train"], rows["val"]])
    free = np.setdiff1d(np.arange(len(labels)), used)
    rows["test"] = free[stratified(labels[free], OTHERS, seed)[0]]
    return {split: (data.images["train"][chosen], labels[chosen]) for split, chosen in rows.items()}


def adapt_and_embed(folder):
    """CPU seconds of both, of a finished run as they were."""
    spent = folder / "seconds.json"
    if not spent.is_file():
        write_json(spent, run_stages(folder, "adapt", "embed"))
    return read_json(spent)


def write_probe(folder, labels, seed):
    """In place of what `train` writes."""
    features = Features.read(folder / "data/embedded")
    model = load_model(folder / "models/adapted", num_classes=int(labels.max()) + 1)
    probe = fit_probe(features.train, torch.tensor(labels), "auto", "none", seed)
    probe.place(model.head)
    with new_folder(folder / "models/finetuned") as finetuned:
        save_model(model, finetuned, preprocessing(model, None))


def answers_on_others(folder, labels, device):
    """Whether the kept model is right, (N,)."""
    manifest = Manifest.read(folder / "data/embedded")
    split_model = manifest.split_model(load_model(folder / "models/finetuned"), device)
    stored = map_activations(folder / "data/embedded", manifest, "test")
    return split_model.predict_logits(stored).numpy().argmax(axis=1) == labels


def kept_folder(seed, train):
    return FOLDER / f"kept/{seed}-{train}"


def record(seed, train, splits, classes, threads):
    """Keep the model, the answers on the others and the row of a run."""
    folder = FOLDER / str(seed)
    changes = {
        "seed": seed,
        "train": {"epochs": max(1, train), "min_steps": 0},
        "runtime": {"threads": threads},
    }
    prepare(folder, splits, classes, changes)
    seconds = adapt_and_embed(folder) | {"train": 0.0}
    if train == 0:
        write_probe(folder, splits["train"][1], seed)
    else:
        seconds |= run_stages(folder, "train")
    right = answers_on_others(folder, splits["test"][1], set_up_torch("auto", threads))
    trained = read_json(folder / "metrics/train.json")
    embedded = TRAIN + VAL + OTHERS
    row = {
        "seed": seed,
        "train": train,
        "precision": trained["precision"],
        "probe": trained["pretrained_probe_accuracy"],
        "adapted": trained["probe_accuracy"],
        "val": trained["val_accuracy" if train else "probe_accuracy"],
        "others": round(float(right.mean()), 4),
        "adapt_s": round(seconds["adapt"], 1),
        "pass_s": round(seconds["embed"] * (embedded - OTHERS) / embedded, 1),
        "train_s": round(seconds["train"], 1),
    }
    with new_folder(kept_folder(seed, train)) as kept:
        (folder / "models/finetuned").rename(kept / "model")
        np.save(kept / "right.npy", right)
        write_json(kept / "row.json", row)
    print(row, flush=True)


def record_test(kept, data, threads):
    """Keep the accuracy, nll and ece of a run on the test images."""
    device = set_up_torch("auto", threads)
    model = load_model(kept / "model")
    precision = resolve_precision("auto", device)
    placed = to_device(model, device, precision)
    split_model = SplitModel(placed, "all", preprocessing(model, None), device, precision)
    logits = split_model.predict_logits(ImageView(data.images["test"])).numpy()
    summary = classification_summary(data.labels["test"], logits, data.classes, bins=15)
    row = {"test": summary["accuracy"], "nll": summary["nll"], "ece": summary["ece"]}
    write_json(kept / "test.json", {name: round(value, 4) for name, value in row.items()})
    print(kept.name, row, flush=True)


def gained_and_lost(right, before):
    """How many images only the first file's model gets right, and only the second's."""
    right = np.load(right)
    before = np.load(before)
    return {"gained": int((right & ~before).sum()), "lost": int((before & ~right).sum())}


def write_table():
    """The rows of all runs that were kept, in the place of theirs, among those of the table."""
    rows = {}
    for row in read_csv(TABLE):
        rows[int(row["seed"]), int(row["train"])] = row
    for seed, train in itertools.product(range(10), EPOCHS):
        kept = kept_folder(seed, train)
        if not kept.is_dir():
            continue
        row = read_json(kept / "row.json")
        row |= {"gained": "", "lost": "", "test": "", "nll": "", "ece": ""}
        shipped = kept_folder(seed, SHIPPED) / "right.npy"
        if shipped.is_file():
            row |= gained_and_lost(kept / "right.npy", shipped)
        if (kept / "test.json").is_file():
            row |= read_json(kept / "test.json")
        rows[seed, train] = row
    by_seed = sorted(rows.items(), key=lambda item: (item[0][0], -item[0][1]))
    write_csv(TABLE, [row for _, row in by_seed])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--train", nargs="+", type=int, default=EPOCHS, help="epochs")
    parser.add_argument("--test", action="store_true", help="evaluate what was trained before")
    parser.add_argument("--threads", type=int, help="of torch; default: all cores")
    args = parser.parse_args()
    data = load_cifar("cifar10")
    for seed in args.seeds:
        splits = draw(data, seed)
        for train in args.train:
            kept = kept_folder(seed, train)
            if args.test and not (kept / "test.json").is_file():
                record_test(kept, data, args.threads)
            elif not args.test and not kept.is_dir():
                record(seed, train, splits, data.classes, args.threads)
            write_table()


if __name__ == "__main__":
    main()
