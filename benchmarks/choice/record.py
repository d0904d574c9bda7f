"""What a run logs: the logits of every epoch of `adapt`, and of every epoch of `train`.

Both functions do what the stages do, in the folder of a run. Test images are predicted and logged;
nothing here chooses by them.
"""

import copy
import dataclasses
import math
from typing import Any

import numpy as np
import torch
from rules import choose
from torch.optim.swa_utils import AveragedModel

from vit_finetune.activations.files import map_activations
from vit_finetune.activations.manifest import Manifest
from vit_finetune.activations.views import ImageView
from vit_finetune.core.arrays import read_split
from vit_finetune.core.device import resolve_precision
from vit_finetune.core.files import new_folder, read_json
from vit_finetune.core.ranks import ALONE
from vit_finetune.model.boundary import SplitModel, to_device
from vit_finetune.model.build import build_model, preprocessing
from vit_finetune.model.freezing import freeze
from vit_finetune.model.saved import load_model, save_model
from vit_finetune.params import Params
from vit_finetune.training import adaptation
from vit_finetune.training.data import TrainingData, read_training_data, read_training_images
from vit_finetune.training.features import Features
from vit_finetune.training.history import History, score
from vit_finetune.training.probe import STRENGTHS, Probe, fit_probe
from vit_finetune.training.trainer import Trainer

LOGGED = ("val", "test")
SPLITS = ("train", *LOGGED)
# to choose a probe's strength
WAYS = ("cross-validation", "validation accuracy", "validation loss", "C = 5/n")

PLAIN = {"label_smoothing": 0.0, "mixup": 0.0}
RECIPES: dict[str, dict[str, Any]] = {  # changes of the section `train` of params.yaml
    "shipped": {},
    "plain": PLAIN,
    "plain, lr 0.001": {**PLAIN, "lr": 0.001},
    "no token dropout": {"token_dropout": 0.0},
    "half the steps": {"epochs": 4, "min_steps": 100},
}


def read_labels() -> dict[str, torch.Tensor]:
    labels = {}
    for split in SPLITS:
        (array,) = read_split("data/subset", split, "labels")
        labels[split] = torch.tensor(array)
    return labels


def fit_by_ways(
    features: dict[str, torch.Tensor], labels: dict[str, torch.Tensor], seed: int
) -> dict[str, Probe]:
    """A linear probe for each of WAYS; the first is that of the stages."""
    train = features["train"], labels["train"]
    probes = [fit_probe(*train, strength, "none", seed) for strength in STRENGTHS]
    scores = [score(probe.logits(features["val"]), labels["val"]) for probe in probes]
    most_accurate = max(range(len(probes)), key=lambda i: (scores[i].accuracy, -scores[i].loss))
    lowest_loss = min(range(len(probes)), key=lambda i: scores[i].loss)
    return {
        "cross-validation": fit_probe(*train, "auto", "none", seed),
        "validation accuracy": probes[most_accurate],
        "validation loss": probes[lowest_loss],
        "C = 5/n": fit_probe(*train, 5 / len(labels["train"]), "none", seed),
    }


def probe_logits(
    probes: dict[str, Probe], features: dict[str, torch.Tensor], name: str
) -> dict[str, np.ndarray]:
    """Of validation and test images, (4, N, K), by the names `<name>_val` and `<name>_test`."""
    logits = {}
    for split in LOGGED:
        each = [probes[way].logits(features[split]).numpy() for way in WAYS]
        logits[f"{name}_{split}"] = np.stack(each)
    return logits


def record_adapt(params: Params, device: torch.device) -> dict[str, np.ndarray]:
    """Adapt as the stage does, and write models/adapted.

    Returns:
        val: logits of every epoch (E + 1, M, K); epoch 0 is the linear probe of the pretrained
            model.
        pretrained_val, pretrained_test, best_val, best_test, last_val, last_test: of probes of the
            pretrained model's features, of those after the epoch with the best validation accuracy,
            and of those after the last epoch; see `probe_logits`.
    """
    classes = read_json("data/subset/dataset.json")["classes"]
    data, _ = read_training_images("data/subset")
    precision = resolve_precision(params.model.precision, device)
    backbone = build_model(
        params.model.name,
        pretrained=params.model.pretrained,
        image_size=params.model.image_size,
        seed=params.seed,
    )
    preprocess = preprocessing(backbone, params.model.crop_pct)
    model = adaptation.with_head(backbone, len(classes))
    freeze(model, "all", params.adapt.parameters)
    split_model = SplitModel(
        to_device(model, device, precision), "all", preprocess, device, precision
    )
    labels = read_labels()

    def probes_of_model(name: str) -> tuple[Features, dict[str, np.ndarray]]:
        features = {}
        for split in SPLITS:
            (images,) = read_split("data/subset", split, "images")
            features[split] = split_model.predict_features(ImageView(images))
        probes = fit_by_ways(features, labels, params.seed)
        return Features(features["train"], features["val"]), probe_logits(probes, features, name)

    features, logged = probes_of_model("pretrained")
    states = []
    logits = [logged["pretrained_val"][0]]

    def after_epoch(history: History) -> None:
        states.append(copy.deepcopy(model.state_dict()))
        if history.epochs:
            logits.append(split_model.predict_logits(data.val).numpy())

    trainer = Trainer(split_model, data, params.adapt, name="adapt", seed=params.seed, ranks=ALONE)
    history = trainer.fit(features, after_epoch=after_epoch)
    logged["val"] = np.stack(logits)
    best = choose(logged["val"], labels["val"].numpy())["best accuracy"]
    for name, epoch in {"best": best, "last": len(states) - 1}.items():
        model.load_state_dict(states[epoch])
        logged |= probes_of_model(name)[1]
    model.load_state_dict(states[history.kept_epoch])
    adapted = adaptation.adopt(backbone, model, history, str(precision).removeprefix("torch."))
    with new_folder("models/adapted") as folder:
        save_model(backbone, folder, preprocess)
        adapted.write(folder)
    return logged


class StoredRun:
    """A run whose activations are stored: what its trainings have in common."""

    def __init__(self, params: Params, device: torch.device) -> None:
        self.params = params
        self.device = device
        self.manifest = Manifest.read("data/embedded")
        self.data: TrainingData = read_training_data("data/embedded", "data/subset", self.manifest)
        self.test = map_activations("data/embedded", self.manifest, "test")
        predict = self.split_model().predict_features
        self.features = Features(train=predict(self.data.train), val=predict(self.data.val))

    def split_model(self) -> SplitModel:
        """The adapted model, split where `train` splits it."""
        classes = read_json("data/subset/dataset.json")["classes"]
        model = load_model("models/adapted", num_classes=len(classes))
        freeze(model, self.params.freeze.trainable_blocks, self.params.freeze.parameters)
        return self.manifest.split_model(model, self.device)

    def record_train(self, changes: dict[str, Any]) -> dict[str, np.ndarray]:
        """Train as the stage does.

        Returns:
            val, test: logits of every epoch, (E + 1, N, K); epoch 0 is the linear probe.
            average_val, average_test: of the mean of the weights after each of the last quarter of
                epochs, (N, K).
        """
        split_model = self.split_model()
        settings = self.params.train.model_copy(update=changes)
        trainer = Trainer(split_model, self.data, settings, name="train", seed=self.params.seed)
        average = AveragedModel(split_model.model)
        logits: dict[str, list[np.ndarray]] = {"val": [], "test": []}

        def log(model: SplitModel) -> dict[str, np.ndarray]:
            return {
                "val": model.predict_logits(self.data.val).numpy(),
                "test": model.predict_logits(self.test).numpy(),
            }

        def after_epoch(history: History) -> None:
            if history.epochs > trainer.epochs - math.ceil(trainer.epochs / 4):
                average.update_parameters(split_model.model)
            for split, values in log(split_model).items():
                logits[split].append(values)

        trainer.fit(self.features, after_epoch=after_epoch)
        logged = {split: np.stack(epochs) for split, epochs in logits.items()}
        averaged = dataclasses.replace(split_model, model=average.module)
        for split, values in log(averaged).items():
            logged[f"average_{split}"] = values
        return logged
