"""The recipe of fine-tuning: a first head, epochs, the best epoch."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vit_finetune.activations.files import map_activations, resident
from vit_finetune.activations.views import ImageView, View
from vit_finetune.core.arrays import read_split
from vit_finetune.core.errors import UserError
from vit_finetune.core.files import new_file
from vit_finetune.core.hashes import digest
from vit_finetune.core.ranks import Ranks
from vit_finetune.model.boundary import SplitModel
from vit_finetune.model.families import family_of
from vit_finetune.training.augmentation import augment
from vit_finetune.training.loop import ALONE, Trainer
from vit_finetune.training.probe import Probe, Score, fit_probes, score
from vit_finetune.training.settings import Settings


@dataclass(frozen=True)
class TrainingData:
    """What is trained from, and what chooses the epoch.

    Attributes:
        views: stored activations (N, ...) of the training images, or these images, as they are and,
            if that is wanted, mirrored.
        labels: (N,).
        val: the same of the validation images, (M, ...).
        val_labels: (M,).
        images: the training images (N, H, W, 3) uint8, needed where the settings change them in
            every epoch.
    """

    views: Sequence[View]
    labels: Tensor
    val: View
    val_labels: Tensor
    images: NDArray[np.uint8] | None = None


def read_training_images(subset: str | Path, flip: bool) -> tuple[TrainingData, str]:
    """The images and labels of the training and validation part, and their SHA-256; `flip` adds the
    mirrored view."""
    images, labels = read_split(subset, "train", "images", "labels")
    val, val_labels = read_split(subset, "val", "images", "labels")
    views = [ImageView(images, mirrored) for mirrored in (False, True)[: 1 + flip]]
    data = TrainingData(
        views, torch.tensor(labels), ImageView(val, False), torch.tensor(val_labels), images
    )
    return data, digest(images, labels, val, val_labels)


def read_training_data(
    embedded: str | Path, subset: str | Path, manifest: dict[str, Any]
) -> TrainingData:
    """The stored activations, labels and images of the training and validation part, mapped into
    memory.

    Raises:
        UserError: a file is missing or damaged.
    """
    views = [
        map_activations(embedded, manifest, v)
        for v in ("train", "train_flip")
        if v in manifest["shapes"]
    ]
    images, labels = read_split(subset, "train", "images", "labels")
    (val_labels,) = read_split(subset, "val", "labels")
    val = map_activations(embedded, manifest, "val")
    return TrainingData(views, torch.tensor(labels), val, torch.tensor(val_labels), images)


@dataclass
class History:
    """Where training stands: a row for the start, which is epoch 0, and for each epoch; the weights
    of the best one.

    The best epoch has the highest validation accuracy; of equal ones, the lowest validation loss.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_state: dict[str, Tensor] = field(default_factory=dict)
    probe_c: float | None = None

    @property
    def epochs(self) -> int:
        """Epochs that are done."""
        return len(self.rows) - 1

    @property
    def best(self) -> dict[str, float]:
        return self.rows[self.best_epoch]

    def add(self, row: dict[str, float], model: nn.Module) -> None:
        """Append an epoch's row; its weights are kept if it is the best so far."""
        self.rows.append({"epoch": len(self.rows), **row})
        if not self.epochs or _score(row) > _score(self.best):
            self.best_epoch, self.best_state = self.epochs, _trainable_state(model)

    def finished(self, epochs: int, patience: int | None) -> bool:
        """Whether no epoch is left, or `patience` has run out."""
        return self.epochs >= epochs or (
            patience is not None and self.epochs - self.best_epoch >= patience
        )


def _score(row: dict[str, float]) -> Score:
    return row["val_accuracy"], -row["val_loss"]


def _validation(found: Score) -> dict[str, float]:
    return {"val_loss": -found[1], "val_accuracy": found[0]}


@dataclass(frozen=True)
class Recipe:
    """Settings of fine-tuning, and the processes that share it."""

    settings: Settings
    seed: int
    ranks: Ranks = ALONE

    def __post_init__(self) -> None:
        if self.settings.shards % self.ranks.world_size:
            raise UserError(
                f"there are {self.ranks.world_size} processes: their number must divide {self.settings.section}.shards "
                f"({self.settings.shards}), whose parts of a batch they share"
            )

    def train(
        self,
        split_model: SplitModel,
        data: TrainingData,
        checkpoint: Path | None = None,
        after_epoch: Callable[[History], None] = lambda history: None,
    ) -> History:
        """Train the part behind the freeze boundary; the model ends with the weights of the best
        epoch.

        Args:
            checkpoint: a file to which each epoch is saved. If it is there, training goes on after
                its last epoch, to the same weights as without an interruption.
            after_epoch: called after the start and after each epoch that is trained here.

        Raises:
            UserError: the weights, or the loss, are not finite.
        """
        settings, model = self._possible_settings(split_model), split_model.model
        views = (
            changing_views(data)
            if settings.changes_images
            else resident(data.views, split_model.device)
        )
        trainer = Trainer(
            split_model, views, data.labels, settings, seed=self.seed, ranks=self.ranks
        )
        if checkpoint and checkpoint.is_file():
            history = _resume(checkpoint, trainer)
        else:
            history = self._start(split_model, data)
            after_epoch(history)
        while not history.finished(settings.epochs_over(len(data.labels)), settings.patience):
            history.add(self._run_epoch(trainer, data, len(history.rows)), model)
            if checkpoint and self.ranks.is_first:
                _save_checkpoint(checkpoint, trainer, history)
            after_epoch(history)
        model.load_state_dict(history.best_state, strict=False)
        return history

    def _start(self, split_model: SplitModel, data: TrainingData) -> History:
        """Epoch 0, the best probe of the images as they are. The model gets the head that training
        starts from."""
        model, settings, labels = split_model.model, self.settings, (data.labels, data.val_labels)
        classes, width = model.head.weight.shape
        if settings.head_init == "zeros":
            features = [torch.zeros(len(some), width) for some in labels]
            best = start = Probe.zeros(classes, width)
        else:
            features = [
                self._predict(split_model, part, features=True)
                for part in (data.views[0], data.val)
            ]
            if not all(part.isfinite().all() for part in features):
                raise UserError(
                    "the model gives NaN for the training images: its weights are damaged"
                )
            best, start = Probe.zeros(classes, width), Probe.zeros(classes, width)
            if self.ranks.is_first:
                pairs = (features[0], data.labels), (features[1], data.val_labels)
                best, start = fit_probes(*pairs, settings.probe_c, settings.class_weights)
            self.ranks.broadcast(
                *(tensor for probe in (best, start) for tensor in vars(probe).values())
            )
        (accuracy, loss), val = (
            score(best.logits(x), y) for x, y in zip(features, labels, strict=True)
        )
        history = History(probe_c=round(best.c.item(), 9))
        best.place(model.head)
        history.add(
            {"train_loss": -loss, "train_accuracy": accuracy, "lr": 0.0, **_validation(val)}, model
        )
        start.place(model.head)
        return history

    def _run_epoch(self, trainer: Trainer, data: TrainingData, epoch: int) -> dict[str, float]:
        """One pass over the training images; every validation image counts the same."""
        row = trainer.run_epoch(epoch)
        return row | _validation(
            score(self._predict(trainer.split_model, data.val), data.val_labels)
        )

    def _predict(self, split_model: SplitModel, stored: View, features: bool = False) -> Tensor:
        """`SplitModel.predict`, shared by the processes in the same batches; each has all of the
        result."""
        own = self.ranks.select(range(0, len(stored), split_model.batch_size))
        return self.ranks.all_gather(split_model.predict(stored, features, own))

    def without_effect(self, split_model: SplitModel) -> list[str]:
        """A sentence for each setting that this model and number of trainable blocks ignore."""
        settings = self.settings
        if split_model.trainable_blocks == 0 and (settings.token_dropout or settings.brightness):
            return [
                "token_dropout and brightness have no effect on pooled features (freeze.trainable_blocks is 0)"
            ]
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
        images = changing_views(data)[0][
            range(min(len(data.labels), settings.batch_size // settings.shards))
        ]
        seconds = (
            image_cost(split_model, images, settings) * len(data.labels) / self.ranks.world_size
        )
        minutes = seconds * settings.epochs_over(len(data.labels)) / 60
        return [
            "train.crop_scale and train.randaugment change the images in every epoch, so the frozen blocks run "
            f"again each time: about {seconds:.0f} s an epoch, {minutes:.1f} min in all"
        ]

    def _possible_settings(self, split_model: SplitModel) -> Settings:
        """The settings; without token dropout where the attention needs every token's position."""
        whole = split_model.trainable_blocks != 0 and family_of(split_model.model).knows_positions
        return replace(self.settings, token_dropout=0.0) if whole else self.settings


def changing_views(data: TrainingData) -> list[View]:
    """The images themselves in place of their activations: as they are and, if that is stored,
    mirrored."""
    assert data.images is not None
    return [ImageView(data.images, mirrored) for mirrored in (False, True)[: len(data.views)]]


def image_cost(split_model: SplitModel, images: Tensor, train: Settings) -> float:
    """Seconds that `crop_scale` and `randaugment` add for each image: to change it, and to run the
    frozen blocks."""

    def once() -> float:
        start = time.perf_counter()
        changed = augment(images, train.crop_scale, train.randaugment, seed=0)
        if split_model.trainable_blocks != "all":
            split_model.tokens(changed).sum().item()
        return time.perf_counter() - start

    once()
    return once() / len(images)


def _trainable_state(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: p.detach().cpu().clone() for name, p in model.named_parameters() if p.requires_grad
    }


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
