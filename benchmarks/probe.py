"""How strongly should a linear probe be regularised, and are epochs of the head alone better?

    python benchmarks/probe.py && python tools/reference.py

The features are those of the pretrained backbone: of the data sets of benchmarks/choice that are no
part of CIFAR-10, and of CIFAR-10 with four numbers of training images. benchmarks/probe.csv has a
row for each set, seed and way:

    way         how C is chosen among half powers of ten from 0.00001 to 100: by the calibrated loss
                of left-out images, as shipped; by their plain loss; by their accuracy; or always
                0.01. Or `epochs`: the shipped probe, trained further with the section `train` of
                params.yaml, or of profiles/demo.yaml for the sets of the demo's model
    c           inverse L2 strength (scikit-learn's C)
    accuracy    on n images that choose nothing

Features are kept in .run/probe. CIFAR-10 is read as the pipeline reads it (VIT_DATA_DIR, or a
download).
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "choice"))

import numpy as np
import torch
from default_run import draw
from in_process import ROOT
from sets import SETS

from vit_finetune.activations.views import ImageView
from vit_finetune.core.device import resolve_precision, set_up_torch
from vit_finetune.core.files import new_file, write_csv
from vit_finetune.data.cifar import load_cifar
from vit_finetune.data.split import stratified
from vit_finetune.model.boundary import SplitModel, to_device
from vit_finetune.model.build import build_model, preprocessing
from vit_finetune.model.freezing import freeze
from vit_finetune.params import check_params, read_yaml
from vit_finetune.profiles import merge
from vit_finetune.training.adaptation import with_head
from vit_finetune.training.data import TrainingData
from vit_finetune.training.probe import (
    FOLDS,
    STRENGTHS,
    draw_folds,
    fit_probe,
    logistic_regression,
)
from vit_finetune.training.trainer import Trainer

FOLDER = ROOT / ".run/probe"
TABLE = Path(__file__).with_suffix(".csv")
CIFAR_SIZES = (100, 500, 1000, 5000)
OTHERS = [name for name in SETS if not name.startswith("cifar-")]
SHIPPED = "calibrated loss"


def read_backbone(params):
    return build_model(
        params.model.name, pretrained=True, image_size=params.model.image_size, seed=0
    )


def read_features(path, backbone, splits, params, device):
    """The features (N, D) of the training images and of the test images, on the CPU."""
    if path.is_file():
        return torch.load(path)
    precision = resolve_precision(params.model.precision, device)
    preprocess = preprocessing(backbone, params.model.crop_pct)
    model = to_device(with_head(backbone, 1), device, precision)
    split_model = SplitModel(model, "all", preprocess, device, precision)
    features = {}
    for split in ("train", "test"):
        features[split] = split_model.predict_features(ImageView(splits[split][0]))
    with new_file(path) as partial:
        torch.save(features, partial)
    return features


def left_out_predictions(features, labels, seed):
    """Log-probabilities (N, K) by a regression that has not seen the image, for each of
    STRENGTHS."""
    folds = draw_folds(labels, seed)
    centred = features - features.mean(axis=0)
    scaled = centred / centred.std()
    of_strengths = []
    for strength in STRENGTHS:
        log_probabilities = np.zeros((len(labels), labels.max() + 1))
        for fold in range(FOLDS):
            regression = logistic_regression("none").set_params(C=strength)
            regression.fit(scaled[folds != fold], labels[folds != fold])
            log_probabilities[folds == fold] = regression.predict_log_proba(scaled[folds == fold])
        of_strengths.append(log_probabilities)
    return of_strengths


def chosen_strengths(features, labels, seed):
    """Way -> C. Of equal accuracies the strongest regularisation is taken."""
    costs = {"plain loss": [], "accuracy": []}
    for log_probabilities in left_out_predictions(features, labels, seed):
        of_labels = log_probabilities[np.arange(len(labels)), labels]
        predicted = log_probabilities.argmax(axis=1)
        costs["plain loss"].append(-of_labels.sum())
        costs["accuracy"].append(-(predicted == labels).mean())
    chosen = {way: STRENGTHS[int(np.argmin(cost))] for way, cost in costs.items()}
    return {SHIPPED: "auto", **chosen, "C = 0.01": 0.01}


def trained_further(backbone, start, features, labels, settings, seed):
    """The head after the last epoch of `train`, which starts from a probe."""
    model = with_head(backbone, int(labels.max()) + 1)
    freeze(model, 0)
    split_model = SplitModel(model, 0, None, torch.device("cpu"), torch.float32)
    groups = np.arange(len(labels))
    data = TrainingData(features, labels, groups, features, labels, groups)
    settings = settings.model_copy(update={"token_dropout": 0.0})
    trainer = Trainer(split_model, data, settings, name="train", seed=seed)
    start.place(model.head)
    for epoch in range(1, trainer.epochs + 1):
        trainer.run_epoch(epoch)
    return model.head


def record(name, seed, backbone, features, labels, settings):
    """The rows of a set and seed."""
    train = features["train"]
    train_labels = torch.as_tensor(labels["train"], dtype=torch.int64)
    test_labels = torch.as_tensor(labels["test"], dtype=torch.int64)
    rows = []

    def add(way, c, logits):
        right = logits.argmax(1) == test_labels
        row = {"set": name, "images": len(train), "seed": seed, "way": way, "c": f"{c:.3g}"}
        row["accuracy"] = round(right.double().mean().item(), 4)
        row["n"] = len(test_labels)
        rows.append(row)

    chosen = chosen_strengths(train.double().numpy(), train_labels.numpy(), seed)
    probes = {}
    for way, c in chosen.items():
        probes[way] = fit_probe(train, train_labels, c, "none", seed)
        add(way, probes[way].c.item(), probes[way].logits(features["test"]))
    start = probes[SHIPPED]
    head = trained_further(backbone, start, train, train_labels, settings, seed)
    add("epochs", start.c.item(), head(features["test"]).detach())
    return rows


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, help="of torch; default: all cores")
    args = parser.parse_args()
    device = set_up_torch("auto", args.threads)
    shipped = read_yaml(ROOT / "params.yaml")
    rows = []
    cifar = load_cifar("cifar10")
    for seed in args.seeds:
        for name in OTHERS:
            params = check_params(merge(shipped, SETS[name].changes))
            backbone = read_backbone(params)
            splits = SETS[name].draw(seed)
            path = FOLDER / f"{name}-{seed}.pt"
            features = read_features(path, backbone, splits, params, device)
            labels = {split: splits[split][1] for split in ("train", "test")}
            rows += record(name, seed, backbone, features, labels, params.train)
        params = check_params(shipped)
        backbone = read_backbone(params)
        splits = draw(cifar, seed)
        path = FOLDER / f"cifar-{seed}.pt"
        features = read_features(path, backbone, splits, params, device)
        of_all = splits["train"][1]
        for images in CIFAR_SIZES:
            chosen = np.arange(len(of_all))
            if images < len(of_all):
                chosen = stratified(of_all, images, seed)[0]
            part = {"train": features["train"][chosen], "test": features["test"]}
            labels = {"train": of_all[chosen], "test": splits["test"][1]}
            rows += record("cifar", seed, backbone, part, labels, params.train)
        write_csv(TABLE, rows)
        print(f"seed {seed} is done", flush=True)


if __name__ == "__main__":
    main()
