"""The recipe of fine-tuning: a probe as the first head, epochs, the best epoch."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from vit_finetune.activations.files import map_activations, resident
from vit_finetune.activations.views import ImageView
from vit_finetune.core.errors import UserError
from vit_finetune.core.files import new_file, read_split
from vit_finetune.core.ranks import Ranks
from vit_finetune.model.boundary import EVAL_BATCH, SplitModel
from vit_finetune.model.families import family_of
from vit_finetune.params.train import Train
from vit_finetune.training.augmentation import augment
from vit_finetune.training.loop import ALONE, Trainer, View


@dataclass(frozen=True)
class TrainingData:
    """What is trained from, and what chooses the epoch.

    Attributes:
        views: stored activations (N, ...) of the training images, as they are and, if so stored, mirrored.
        labels: (N,).
        val: stored activations (M, ...) of the validation images.
        val_labels: (M,).
        images: the training images (N, H, W, 3) uint8, needed where the settings change them in every epoch.
    """

    views: list[Tensor]
    labels: Tensor
    val: Tensor
    val_labels: Tensor
    images: NDArray[np.uint8] | None = None


def read_training_data(embedded: str | Path, subset: str | Path, manifest: dict[str, Any]) -> TrainingData:
    """The stored activations, labels and images of the training and validation part, mapped into memory.

    Raises:
        UserError: a file is missing or damaged.
    """
    views = [map_activations(embedded, manifest, v) for v in ("train", "train_flip") if v in manifest["shapes"]]
    images, labels = read_split(subset, "train", "images", "labels")
    (val_labels,) = read_split(subset, "val", "labels")
    val = map_activations(embedded, manifest, "val")
    return TrainingData(views, torch.tensor(labels), val, torch.tensor(val_labels), images)


@dataclass
class History:
    """Where training stands: a row for each epoch, and the weights of the best one."""

    rows: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_state: dict[str, Tensor] = field(default_factory=dict)

    @property
    def best(self) -> dict[str, float]:
        return self.rows[self.best_epoch - 1]

    def add(self, row: dict[str, float], model: nn.Module) -> None:
        """Append an epoch's row; its weights are kept if its validation accuracy is the best so far."""
        self.rows.append(row)
        if not self.best_epoch or row["val_accuracy"] > self.best["val_accuracy"]:
            self.best_epoch, self.best_state = len(self.rows), _trainable_state(model)

    def finished(self, settings: Train) -> bool:
        """Whether no epoch is left, or `patience` has run out."""
        waited = len(self.rows) - self.best_epoch
        return len(self.rows) >= settings.epochs or (settings.patience is not None and waited >= settings.patience)


@dataclass(frozen=True)
class Recipe:
    """Settings of fine-tuning, and the processes that share it."""

    settings: Train
    seed: int
    layer_decay: float = 1.0
    ranks: Ranks = ALONE

    def __post_init__(self) -> None:
        if self.settings.shards % self.ranks.size:
            raise UserError(
                f"there are {self.ranks.size} processes: their number must divide train.shards "
                f"({self.settings.shards}), whose parts of a batch they share"
            )

    def train(
        self,
        split_model: SplitModel,
        data: TrainingData,
        *,
        checkpoint: Path | None = None,
        after_epoch: Callable[[History], None] = lambda history: None,
    ) -> History:
        """Train the part behind the freeze boundary; the model ends with the weights of the best epoch.

        Args:
            checkpoint: a file to which each epoch is saved. If it is there, training goes on after its last epoch, to
                the same weights as without an interruption.
            after_epoch: called after each epoch that is trained here.

        Raises:
            UserError: the loss is not finite.
        """
        settings, model = self._possible_settings(split_model), split_model.model
        if settings.head_init == "probe":
            features = predict(split_model, data.views[0], self.ranks, features=True)
            if self.ranks.first:
                probe_head(model, features, data.labels.numpy(), settings.probe_c, settings.class_weights)
            self.ranks.share(model.head.weight.data, model.head.bias.data)
        views: list[View] = [*resident(data.views, split_model.device)]
        if settings.changes_images:
            views = changing_views(data)
        trainer = Trainer(
            split_model, views, data.labels, settings, seed=self.seed, layer_decay=self.layer_decay, ranks=self.ranks
        )
        history = _resume(checkpoint, trainer) if checkpoint and checkpoint.is_file() else History()
        while not history.finished(settings):
            row = {"epoch": len(history.rows) + 1, **trainer.run_epoch(len(history.rows) + 1)}
            history.add(row | validate(split_model, data, self.ranks), model)
            if checkpoint and self.ranks.first:
                _save_checkpoint(checkpoint, trainer, history)
            after_epoch(history)
        model.load_state_dict(history.best_state, strict=False)
        return history

    def without_effect(self, split_model: SplitModel) -> list[str]:
        """A sentence for each setting that this model and number of trainable blocks ignore."""
        settings = self.settings
        if split_model.trainable_blocks == 0 and (settings.token_dropout or settings.brightness):
            return ["token_dropout and brightness have no effect on pooled features (freeze.trainable_blocks is 0)"]
        if self._possible_settings(split_model) != settings:
            return [
                f"token_dropout {settings.token_dropout} has no effect: the attention of a "
                f"{type(split_model.model).__name__} needs every token's position, so none is left out"
            ]
        return []

    def cost(self, split_model: SplitModel, data: TrainingData) -> list[str]:
        """What settings cost that change the images in every epoch, measured on one batch."""
        settings = self.settings
        if not settings.changes_images:
            return []
        images = changing_views(data)[0][range(min(len(data.labels), settings.batch_size // settings.shards))]
        seconds = image_cost(split_model, images, settings) * len(data.labels) / self.ranks.size
        return [
            "train.crop_scale and train.randaugment change the images in every epoch, so the frozen blocks run "
            f"again each time: about {seconds:.0f} s an epoch, {seconds * settings.epochs / 60:.1f} min in all"
        ]

    def _possible_settings(self, split_model: SplitModel) -> Train:
        """The settings; without token dropout where the attention needs every token's position."""
        whole = split_model.trainable_blocks != 0 and family_of(split_model.model).knows_positions
        return self.settings.model_copy(update={"token_dropout": 0.0}) if whole else self.settings


def probe_head(model: Any, features: Tensor, labels: NDArray[np.int64], c: float, class_weights: str) -> None:
    """Start the head from a logistic regression on the frozen features (LP-FT, arXiv:2202.10054).

    Args:
        features: (N, D).
        c: inverse L2 strength.
        class_weights: `none` or `balanced`.
    """
    from sklearn.linear_model import LogisticRegression

    weights = None if class_weights == "none" else class_weights
    probe = LogisticRegression(C=c, max_iter=1000, class_weight=weights).fit(features.double().numpy(), labels)
    weight, bias = probe.coef_, probe.intercept_
    if len(weight) == 1:  # two classes: scikit-learn keeps one row, the log-odds of the second class
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(weight))
        model.head.bias.copy_(torch.from_numpy(bias))


def changing_views(data: TrainingData) -> list[View]:
    """The images themselves in place of their activations: as they are and, if that is stored, mirrored."""
    assert data.images is not None
    return [ImageView(data.images, mirrored) for mirrored in (False, True)[: len(data.views)]]


def image_cost(split_model: SplitModel, images: Tensor, train: Train) -> float:
    """Seconds that `crop_scale` and `randaugment` add for each image: to change it, and to run the frozen blocks."""

    def once() -> float:
        start = time.perf_counter()
        changed = augment(images, train.crop_scale, train.randaugment, seed=0)
        if split_model.trainable_blocks != "all":
            split_model.tokens(changed).sum().item()
        return time.perf_counter() - start

    once()
    return once() / len(images)


def predict(split_model: SplitModel, stored: Tensor, ranks: Ranks, features: bool = False) -> Tensor:
    """`SplitModel.predict` in the same batches, shared by the processes; (N, K) logits or (N, D) features on each."""
    own = ranks.own(range(0, len(stored), EVAL_BATCH))
    return ranks.gather(split_model.predict(stored[own.start : own.stop], features))


def validate(split_model: SplitModel, data: TrainingData, ranks: Ranks = ALONE) -> dict[str, float]:
    """Mean cross-entropy and accuracy on the validation images; every image counts the same."""
    logits = predict(split_model, data.val, ranks)
    return {
        "val_loss": F.cross_entropy(logits, data.val_labels).item(),
        "val_accuracy": (logits.argmax(1) == data.val_labels).double().mean().item(),
    }


def _trainable_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().cpu().clone() for name, p in model.named_parameters() if p.requires_grad}


def _save_checkpoint(path: Path, trainer: Trainer, history: History) -> None:
    state: dict[str, Any] = {
        "weights": _trainable_state(trainer.split_model.model),
        "optimizer": trainer.optimizer.state_dict(),
        "history": vars(history),
    }
    with new_file(path) as partial:
        torch.save(state, partial)


def _resume(path: Path, trainer: Trainer) -> History:
    state = torch.load(path, weights_only=True)
    trainer.split_model.model.load_state_dict(state["weights"], strict=False)
    trainer.optimizer.load_state_dict(state["optimizer"])
    return History(**state["history"])
