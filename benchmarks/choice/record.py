"""What a run logs: the logits of every epoch of `adapt`, and of every epoch of `train`.

Both functions do what the stages do, in the folder of a run. `stages.adapt` itself keeps only the
best epoch. Test images are predicted and logged; nothing here chooses by them.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold
from torch.optim.swa_utils import AveragedModel

from vit_finetune.activations.files import map_activations
from vit_finetune.activations.manifest import Manifest
from vit_finetune.activations.views import ImageView
from vit_finetune.core.arrays import read_split
from vit_finetune.core.device import resolve_precision
from vit_finetune.core.files import new_folder, read_json
from vit_finetune.model.boundary import SplitModel, to_device
from vit_finetune.model.build import build_model, preprocessing
from vit_finetune.model.freezing import freeze
from vit_finetune.model.saved import load_model, save_model
from vit_finetune.params import Params
from vit_finetune.training import adaptation
from vit_finetune.training.data import TrainingData, read_training_data, read_training_images
from vit_finetune.training.history import History
from vit_finetune.training.probe import STRENGTHS, Probe, fit_probes, score
from vit_finetune.training.trainer import Trainer

FOLDS = 5
SPLITS = ("train", "val", "test")
LOGGED = ("val", "test")
WAYS = ("validation", "C = 0.001", "cross-validation", "C = 5/n")  # to choose a probe's strength


@dataclass(frozen=True)
class Recipe:
    """Attributes:
    changes: of the section `train` of params.yaml.
    start: which of WAYS gives the head that training starts from.
    """

    changes: dict[str, Any] = field(default_factory=dict)
    start: str = "C = 0.001"


PLAIN = {"label_smoothing": 0.0, "mixup": 0.0}
FAST = {**PLAIN, "lr": 0.001}

RECIPES = {  # of a set, the first two say most about the choice of an epoch
    "shipped": Recipe(),
    "plain": Recipe(PLAIN),
    "plain, lr 0.001": Recipe(FAST),
    "plain, C by n": Recipe(PLAIN, start="C = 5/n"),
    "plain, cross-validated C": Recipe(PLAIN, start="cross-validation"),
    "shipped, C by n": Recipe(start="C = 5/n"),
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
    """A linear probe for each of WAYS; the first two are those of the stages."""
    train = features["train"], labels["train"]
    val = features["val"], labels["val"]
    best, start = fit_probes(train, val, "auto", "none")
    cross_validated, _ = fit_probes(train, val, cross_validated_c(*train, seed), "none")
    per_image, _ = fit_probes(train, val, 5 / len(labels["train"]), "none")
    return dict(zip(WAYS, (best, start, cross_validated, per_image), strict=True))


def cross_validated_c(features: torch.Tensor, labels: torch.Tensor, seed: int) -> float:
    """The one of STRENGTHS with the lowest loss on the left-out training images."""
    scaled = features.double().numpy()
    scaled = (scaled - scaled.mean(axis=0)) / (scaled.std() or 1.0)
    regression = LogisticRegressionCV(
        Cs=STRENGTHS,
        cv=StratifiedKFold(FOLDS, shuffle=True, random_state=seed),
        scoring="neg_log_loss",
        max_iter=1000,
        l1_ratios=(0,),
        use_legacy_attributes=False,
    )
    return float(regression.fit(scaled, labels.numpy()).C_)


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
        val_head: of the head that training starts from, (M, K).
        pretrained_val, pretrained_test, last_val, last_test: of the probes of the pretrained
            model's features, and of those after the last epoch; see `probe_logits`.
    """
    classes = read_json("data/subset/dataset.json")["classes"]
    data, _ = read_training_images("data/subset", params.embed.flip)
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

    def fit_on_features() -> tuple[dict[str, Probe], dict[str, torch.Tensor]]:
        features = {}
        for split in SPLITS:
            (images,) = read_split("data/subset", split, "images")
            features[split] = split_model.predict_features(ImageView(images, mirrored=False))
        return fit_by_ways(features, labels, params.seed), features

    probes, features = fit_on_features()
    logged = probe_logits(probes, features, "pretrained")
    history = History()
    val_logits = []

    def log_epoch(logits: torch.Tensor) -> None:
        accuracy, loss = score(logits, labels["val"])
        history.add({"val_accuracy": accuracy, "val_loss": loss}, model)
        val_logits.append(logits.numpy())

    probes["validation"].place(model.head)
    log_epoch(probes["validation"].logits(features["val"]))
    probes["C = 0.001"].place(model.head)
    logged["val_head"] = probes["C = 0.001"].logits(features["val"]).numpy()
    trainer = Trainer(split_model, data, params.adapt, name="adapt", seed=params.seed)
    for epoch in range(1, trainer.epochs + 1):
        trainer.run_epoch(epoch)
        log_epoch(split_model.predict_logits(data.val))

    logged |= probe_logits(*fit_on_features(), "last")
    model.load_state_dict(history.best_state, strict=False)
    name = str(precision).removeprefix("torch.")
    adapted = adaptation.adopt(backbone, model, history, name)
    with new_folder("models/adapted") as folder:
        save_model(backbone, folder, preprocess)
        adapted.write(folder)
    logged["val"] = np.stack(val_logits)
    return logged


class StoredRun:
    """A run whose activations are stored: what its trainings have in common."""

    def __init__(self, params: Params, device: torch.device) -> None:
        self.params = params
        self.device = device
        self.manifest = Manifest.read("data/embedded")
        self.data: TrainingData = read_training_data("data/embedded", "data/subset", self.manifest)
        self.views = {
            "train": self.data.views[0],
            "val": self.data.val,
            "test": map_activations("data/embedded", self.manifest, "test"),
        }
        split_model = self.split_model()
        self.features = {}
        for split, view in self.views.items():
            self.features[split] = split_model.predict_features(view)
        self.probes = fit_by_ways(self.features, read_labels(), params.seed)

    def split_model(self) -> SplitModel:
        """The adapted model, split where `train` splits it."""
        classes = read_json("data/subset/dataset.json")["classes"]
        model = load_model("models/adapted", num_classes=len(classes))
        freeze(model, self.params.freeze.trainable_blocks, self.params.freeze.parameters)
        return self.manifest.split_model(model, self.device)

    def record_train(self, recipe: Recipe) -> dict[str, np.ndarray]:
        """Train as the stage does.

        Returns:
            val, test: logits of every epoch, (E + 1, N, K); epoch 0 is the linear probe.
            val_head: of the head that training starts from, (M, K).
            quarter_val, quarter_test: of the mean of the weights after each of the last quarter of
                epochs, (N, K).
            ema_val, ema_test: of an exponential moving average of the weights over the steps.
        """
        split_model = self.split_model()
        model = split_model.model
        self.probes[recipe.start].place(model.head)
        settings = self.params.train.model_copy(update=recipe.changes)
        trainer = Trainer(split_model, self.data, settings, name="train", seed=self.params.seed)
        quarter = AveragedModel(model)
        ema = AveragedModel(model, avg_fn=moving_average(trainer.steps))
        ema.update_parameters(model)  # it begins with the start
        trainer.optimizer.register_step_post_hook(lambda *_: ema.update_parameters(model))

        val_head = split_model.predict_logits(self.views["val"]).numpy()
        logits = {}
        for split in LOGGED:
            logits[split] = [self.probes["validation"].logits(self.features[split]).numpy()]
        for epoch in range(1, trainer.epochs + 1):
            trainer.run_epoch(epoch)
            if epoch > trainer.epochs - math.ceil(trainer.epochs / 4):
                quarter.update_parameters(model)
            for split in LOGGED:
                logits[split].append(split_model.predict_logits(self.views[split]).numpy())

        logged = {split: np.stack(epochs) for split, epochs in logits.items()}
        logged["val_head"] = val_head
        for name, average in {"quarter": quarter, "ema": ema}.items():
            averaged = dataclasses.replace(split_model, model=average.module)
            for split in LOGGED:
                logged[f"{name}_{split}"] = averaged.predict_logits(self.views[split]).numpy()
        return logged


def moving_average(steps: int) -> Callable[[Any, Any, Any], Any]:
    """Forgets in a tenth of the steps. It starts as a plain mean, so that it forgets the start."""

    def average(mean: torch.Tensor, value: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        return mean.lerp(value, max(10 / steps, 1 / (int(count) + 1)))

    return average
