"""What each rule would keep of `adapt` and of `train`, and how good it is on test images.

Both functions do what the stages do, in the folder of a run. They return a row for START and for
each of RULES: `epoch`, `val` and `test` (accuracies), `nll` of the test images after calibration on
the validation images, `n` test images, and `right`: for each of them a bit, in hexadecimal digits,
whether it is predicted correctly.
"""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rules import AVERAGE, SHIPPED, choose, losses
from torch import Tensor

from vit_finetune.activations.files import map_activations
from vit_finetune.activations.manifest import Manifest
from vit_finetune.activations.views import ImageView, View
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
from vit_finetune.training.data import read_training_data, read_training_images
from vit_finetune.training.features import Features
from vit_finetune.training.history import History, trainable_state
from vit_finetune.training.probe import fit_probe
from vit_finetune.training.temperature import fit_temperature
from vit_finetune.training.trainer import Trainer

Rows = list[dict[str, Any]]
Logits = tuple[NDArray[np.float32], NDArray[np.float32]]  # of validation and of test images

ADAPT = "adapt"
RECIPES: dict[str, dict[str, Any]] = {  # changes of the section `train` of params.yaml
    SHIPPED: {},
    "no smoothing, no mixup": {"label_smoothing": 0.0, "mixup": 0.0},
    "4 epochs, 100 steps at least": {"epochs": 4, "min_steps": 100},
}


def read_labels() -> dict[str, NDArray[np.int64]]:
    return {
        split: read_split("data/subset", split, "labels")[0] for split in ("train", "val", "test")
    }


def judge(logits: Logits, labels: dict[str, NDArray[np.int64]]) -> dict[str, Any]:
    val, test = logits
    temperature = fit_temperature(val, labels["val"])
    val_right = val.argmax(axis=1) == labels["val"]
    right = test.argmax(axis=1) == labels["test"]
    return {
        "val": round(float(val_right.mean()), 4),
        "test": round(float(right.mean()), 4),
        "nll": round(float(losses(test / temperature, labels["test"]).mean()), 4),
        "n": len(right),
        "right": np.packbits(right).tobytes().hex(),
    }


def judge_all(
    epochs: dict[str, Any],
    logits_of: Callable[[Any], Logits],
    labels: dict[str, NDArray[np.int64]],
) -> Rows:
    """A row for each choice; what several choose is predicted once."""
    judged: dict[Any, dict[str, Any]] = {}
    rows = []
    for choice, epoch in epochs.items():
        if epoch not in judged:
            judged[epoch] = judge(logits_of(epoch), labels)
        rows.append({"choice": choice, "epoch": epoch, **judged[epoch]})
    return rows


def record_adapt(params: Params, device: torch.device) -> Rows:
    """Adapt as the stage does, and write models/adapted.

    The pipeline fits a new linear probe after the adaptation, so each choice is judged by a probe
    of its features.
    """
    classes = read_json("data/subset/dataset.json")["classes"]
    labels = read_labels()
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

    def predict_features(split: str) -> Tensor:
        (images,) = read_split("data/subset", split, "images")
        return split_model.predict_features(ImageView(images))

    pretrained = Features(train=predict_features("train"), val=predict_features("val"))
    pretrained_test = predict_features("test")
    probe = fit_probe(pretrained.train, torch.tensor(labels["train"]), "auto", "none", params.seed)
    val_logits = [probe.logits(pretrained.val).numpy()]
    states = []

    def after_epoch(history: History) -> None:
        states.append(copy.deepcopy(model.state_dict()))
        if history.epochs:
            val_logits.append(split_model.predict_logits(data.val).numpy())

    trainer = Trainer(split_model, data, params.adapt, name=ADAPT, seed=params.seed, ranks=ALONE)
    history = trainer.fit(pretrained, after_epoch=after_epoch)
    kept_state = copy.deepcopy(model.state_dict())

    def logits_of(epoch: int) -> Logits:
        if epoch == 0:
            return val_logits[0], probe.logits(pretrained_test).numpy()
        model.load_state_dict(states[epoch])
        adapted = fit_probe(
            predict_features("train"), torch.tensor(labels["train"]), "auto", "none", params.seed
        )
        logits = []
        for split in ("val", "test"):
            logits.append(adapted.logits(predict_features(split)).numpy())
        return logits[0], logits[1]

    rows = judge_all(choose(np.stack(val_logits), labels["val"]), logits_of, labels)
    model.load_state_dict(kept_state)
    adapted = adaptation.adopt(backbone, model, history, str(precision).removeprefix("torch."))
    with new_folder("models/adapted") as folder:
        save_model(backbone, folder, preprocess)
        adapted.write(folder)
    return rows


def record_train(params: Params, device: torch.device) -> Rows:
    """Train as the stage does."""
    classes = read_json("data/subset/dataset.json")["classes"]
    labels = read_labels()
    manifest = Manifest.read("data/embedded")
    data = read_training_data("data/embedded", "data/subset", manifest)
    test = map_activations("data/embedded", manifest, "test")
    model = load_model("models/adapted", num_classes=len(classes))
    freeze(model, params.freeze.trainable_blocks, params.freeze.parameters)
    split_model = manifest.split_model(model, device)
    trainer = Trainer(split_model, data, params.train, name="train", seed=params.seed)
    states = []

    def after_epoch(history: History) -> None:
        # the start is the probe, but the model has the head that epoch 1 starts from
        states.append(trainable_state(model) if history.epochs else history.start_state)

    def predict(view: View, state: dict[str, Tensor]) -> NDArray[np.float32]:
        model.load_state_dict(state, strict=False)
        return split_model.predict_logits(view).numpy()

    trainer.fit(Features.read("data/embedded"), after_epoch=after_epoch)
    val_logits = np.stack([predict(data.val, state) for state in states])
    quarter = math.ceil(trainer.epochs / 4)
    average = {}
    for name in states[0]:
        average[name] = torch.stack([state[name] for state in states[-quarter:]]).mean(dim=0)

    def logits_of(epoch: int | str) -> Logits:
        state = average if epoch == AVERAGE else states[int(epoch)]
        return predict(data.val, state), predict(test, state)

    epochs: dict[str, Any] = choose(val_logits, labels["val"])
    epochs[AVERAGE] = AVERAGE
    return judge_all(epochs, logits_of, labels)
