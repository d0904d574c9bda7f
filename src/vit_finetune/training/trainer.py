"""Train what lies behind the freeze boundary: a probe, then epochs, then the better of both.

Activations are indexed directly, without a DataLoader: they are mapped into memory, and gathering a
batch is one operation. All random numbers of an epoch come from (seed, epoch), so that training can
go on after any epoch.

Each batch is computed in shards. Their number does not depend on how many processes share them, and
their gradients are added in a fixed order. So several processes give the same weights as one, to
the last bit.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from sklearn.utils.class_weight import compute_sample_weight
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from vit_finetune.activations.files import resident
from vit_finetune.activations.views import View, announce, read_at_random
from vit_finetune.core.device import resolve_shards
from vit_finetune.core.errors import UserError
from vit_finetune.core.files import new_file
from vit_finetune.core.ranks import ALONE, Ranks
from vit_finetune.core.threads import parallel_map
from vit_finetune.model.boundary import SplitModel
from vit_finetune.model.families import family_of
from vit_finetune.params import Training
from vit_finetune.training.augmentation import to_device_of
from vit_finetune.training.data import TrainingData, take
from vit_finetune.training.features import Features, predict_shared
from vit_finetune.training.history import (
    History,
    Row,
    Score,
    is_clearly_better,
    score,
    trainable_state,
)
from vit_finetune.training.loss import (
    balanced_weights,
    changes_each_image,
    changes_images,
    training_loss,
)
from vit_finetune.training.probe import START, Probe, fit_probe

Gradients = tuple[Tensor | None, ...]  # of each trainable parameter


class Trainer:
    """Trains the part of a model behind the freeze boundary.

    Args:
        settings: the section `adapt` or `train` of params.yaml, as `possible_settings` returns it.
        name: of that section, for messages.
        ranks: the processes that share the shards of each batch.

    Raises:
        UserError: the number of processes does not divide the number of shards.
    """

    def __init__(
        self,
        split_model: SplitModel,
        data: TrainingData,
        settings: Training,
        *,
        name: str,
        seed: int,
        ranks: Ranks = ALONE,
    ) -> None:
        shards = resolve_shards(settings.shards, split_model.device.type)
        if shards % ranks.world_size:
            raise UserError(
                f"there are {ranks.world_size} processes: their number must divide {name}.shards "
                f"({shards}), whose parts of a batch they share"
            )
        self.split_model = split_model
        self.data = data
        self.settings = settings
        self.name = name
        self.seed = seed
        self.ranks = ranks
        self.shards = shards
        if changes_images(settings):
            assert data.images is not None
            self.view: View = data.images
            if not changes_each_image(settings):
                self.view = resident(data.images, split_model.device)
        else:
            self.view = resident(data.train, split_model.device)
        self.val = resident(data.val, split_model.device)
        self.labels = data.labels.to(split_model.device)
        self.class_weights = None
        if settings.class_weights == "balanced":
            weights = balanced_weights(data.labels, split_model.model.num_classes)
            self.class_weights = weights.to(split_model.device)
        self.optimizer = make_optimizer(split_model.model, settings)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.steps_per_epoch = math.ceil(len(data.labels) / settings.batch_size)
        self.epochs = max(settings.epochs, math.ceil(settings.min_steps / self.steps_per_epoch))
        self.steps = self.epochs * self.steps_per_epoch

    def fit(
        self,
        features: Features,
        checkpoint: Path | None = None,
        after_epoch: Callable[[History], None] = lambda history: None,
    ) -> History:
        """Train. The model ends with the weights of the last epoch, or with those of the start if
        these are clearly better on the validation images.

        Args:
            features: of the model as it is, for the probe that training starts from.
            checkpoint: a file to which each epoch is saved. If it exists, training goes on after
                its last epoch, to the same weights as without an interruption.
            after_epoch: called after the start and after each epoch that is trained here.

        Raises:
            UserError: the loss is not finite.
        """
        model = self.split_model.model
        if checkpoint and checkpoint.is_file():
            history = self._load(checkpoint)
        else:
            history = self._start(features)
            after_epoch(history)
        while history.epochs < self.epochs:
            row = self.run_epoch(history.epochs + 1)
            val = self._validate()
            row["val_loss"] = val.loss
            row["val_accuracy"] = val.accuracy
            history.add(row, val.right)
            if checkpoint and self.ranks.is_first:
                self._save(checkpoint, history)
            after_epoch(history)
        history.keeps_start = self._start_is_clearly_better(history)
        if history.keeps_start:
            model.load_state_dict(history.start_state, strict=False)
        return history

    def _start_is_clearly_better(self, history: History) -> bool:
        labels = self.data.val_labels
        weights = np.ones(len(labels))
        if self.settings.class_weights == "balanced":
            weights = compute_sample_weight("balanced", labels.numpy())
        rng = np.random.default_rng([self.seed, 0])  # epochs begin with 1
        return is_clearly_better(
            history.start_right, history.last_right, weights, self.data.val_groups, rng
        )

    def _start(self, features: Features) -> History:
        """Epoch 0 is the probe, or the head that the model was kept with. Epoch 1 may start from
        another head, see `probe.START`."""
        model = self.split_model.model
        c = self.settings.probe_c
        # a new head is of zeros; any other was kept from an earlier run
        is_kept = self.settings.head_init == "probe" and bool(model.head.weight.any())
        probe = Probe.of(model.head) if is_kept else self._fit_probe(features.train, c)
        train = score(probe.logits(features.train), self.data.labels)
        val = score(probe.logits(features.val), self.data.val_labels)
        row = {
            "train_loss": train.loss,
            "train_accuracy": train.accuracy,
            "lr": 0.0,
            "val_loss": val.loss,
            "val_accuracy": val.accuracy,
        }
        probe.place(model.head)
        history = History(
            start_state=trainable_state(model),
            start_right=val.right,
            last_right=val.right,
            probe_c=round(probe.c.item(), 9),
        )
        history.add(row, val.right)
        if self.epochs and c == "auto" and not is_kept:
            self._fit_probe(features.train, START).place(model.head)
        return history

    def _fit_probe(self, features: Tensor, c: float | Literal["auto"]) -> Probe:
        """`fit_probe` in the first process, for all."""
        classes, width = self.split_model.model.head.weight.shape
        probe = Probe.zeros(classes, width)
        if self.settings.head_init == "zeros":
            return probe
        if self.ranks.is_first:
            probe = fit_probe(
                features,
                self.data.labels,
                c,
                self.settings.class_weights,
                self.seed,
                self.data.groups,
            )
        self.ranks.broadcast(probe.weight, probe.bias, probe.c)
        return probe

    def _validate(self) -> Score:
        predict = self.split_model.predict_logits
        logits = predict_shared(predict, self.val, self.split_model, self.ranks)
        return score(logits, self.data.val_labels)

    def run_epoch(self, epoch: int) -> Row:
        """One pass over the training images: mean loss, accuracy and the last learning rate."""
        device = self.split_model.device
        rng = np.random.default_rng([self.seed, epoch])
        order = torch.from_numpy(rng.permutation(len(self.labels)))
        batches = order.split(self.settings.batch_size)
        first_step = (epoch - 1) * self.steps_per_epoch
        shards = self.ranks.select(range(self.shards))
        # Filled in place: a tensor kept from each step would scatter over the heap, which then
        # grows with the number of images.
        losses = torch.zeros(len(shards), self.steps_per_epoch, device=device)
        hits = torch.zeros_like(losses, dtype=torch.int64)
        read_at_random(self.view)
        with parallel_map(device, len(shards)) as each:
            for index, batch in enumerate(batches):
                if index + 1 < len(batches):
                    announce(self.view, batches[index + 1])
                step = first_step + index
                lr = self._set_learning_rate(step)
                results = each(partial(self._run_shard, batch, epoch, step), shards)
                losses[:, index], hits[:, index] = self._sum_gradients(results)
                if self.settings.grad_clip is not None:
                    nn.utils.clip_grad_norm_(self.parameters, self.settings.grad_clip)
                self.optimizer.step()
        # Read once an epoch: reading each step would stall a GPU.
        loss_of_step = self.ranks.all_gather(losses).T.cpu().double().sum(1)
        self._require_finite(loss_of_step, first_step, epoch)
        return {
            "train_loss": loss_of_step.sum().item() / len(self.labels),
            "train_accuracy": self.ranks.all_gather(hits).sum().item() / len(self.labels),
            "lr": lr,
        }

    def _set_learning_rate(self, step: int) -> float:
        warmup = round(self.settings.warmup * self.steps)
        lr = learning_rate(step, self.steps, warmup, self.settings.lr)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        return lr

    def _run_shard(
        self, batch: Tensor, epoch: int, step: int, shard: int
    ) -> tuple[Tensor, Tensor, Gradients]:
        """Summed loss, hits, and gradients of the batch's mean loss, of one shard of a batch."""
        rows = batch.tensor_split(self.shards)[shard]
        is_empty = len(rows) == 0
        if is_empty:  # it counts as nothing, but every shard has gradients, if only zeros
            rows = batch[:1]
        rng = np.random.default_rng([self.seed, epoch, step, shard])
        stored = take(self.view, rows)
        labels = self.labels[to_device_of(self.labels, rows)]
        loss, hits = training_loss(
            self.split_model, stored, labels, self.class_weights, self.settings, rng
        )
        if is_empty:
            loss = loss * 0
            hits = hits * 0
        gradients = torch.autograd.grad(loss / len(batch), self.parameters, allow_unused=True)
        return loss.detach(), hits, gradients

    def _sum_gradients(
        self, results: Iterator[tuple[Tensor, Tensor, Gradients]]
    ) -> tuple[Tensor, Tensor]:
        """Set each parameter's gradient to the sum over the shards of all processes, in order.

        An all-reduce would add them in another order for another number of processes.

        Returns:
            Summed loss and hits of each shard of this process.
        """
        losses = []
        hits = []
        sums: list[Tensor] = []
        for shard_loss, shard_hits, gradients in results:
            losses.append(shard_loss)
            hits.append(shard_hits)
            # An unused parameter has no gradient, in every shard alike.
            trained = [
                parameter
                for parameter, gradient in zip(self.parameters, gradients, strict=True)
                if gradient is not None
            ]
            flat = torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])
            if sums and self.ranks.world_size == 1:
                sums[0] += flat  # at once, which saves the memory of the others
            else:
                sums.append(flat)
        total, *others = self.ranks.all_gather(torch.stack(sums))
        for other in others:
            total += other
        sizes = [parameter.numel() for parameter in trained]
        for parameter, gradient in zip(trained, total.split(sizes), strict=True):
            parameter.grad = gradient.view_as(parameter)
        return torch.stack(losses), torch.stack(hits)

    def _require_finite(self, loss_of_step: Tensor, first_step: int, epoch: int) -> None:
        is_finite = loss_of_step.isfinite()
        if is_finite.all():
            return
        step = first_step + int(is_finite.logical_not().nonzero()[0]) + 1
        raise UserError(
            f"the loss is not finite at step {step} of {self.steps} (epoch {epoch}); "
            f"{self.name}.lr {self.settings.lr} is the likely cause: try a tenth of it"
        )

    def _save(self, path: Path, history: History) -> None:
        state: dict[str, Any] = {
            "weights": trainable_state(self.split_model.model),
            "optimizer": self.optimizer.state_dict(),
            "history": vars(history),
        }
        with new_file(path) as partial_path:
            torch.save(state, partial_path)

    def _load(self, path: Path) -> History:
        state = torch.load(path, weights_only=True)
        self.split_model.model.load_state_dict(state["weights"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        return History(**state["history"])


def learning_rate(step: int, steps: int, warmup: int, peak: float) -> float:
    """Linear warm-up over `warmup` steps, then a cosine that would reach 0 after the last of
    `steps`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def make_optimizer(model: nn.Module, settings: Training) -> torch.optim.Optimizer:
    """AdamW or SGD over what is trainable; biases, norms and other vectors do not decay.

    Each group's `lr_scale` is the factor on the learning rate of its block (BEiT,
    arXiv:2106.08254).
    """
    groups = param_groups_layer_decay(
        model, weight_decay=settings.weight_decay, layer_decay=settings.layer_decay
    )
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9)
    return torch.optim.AdamW(groups, lr=settings.lr, fused=True)


def possible_settings(settings: Training, split_model: SplitModel) -> tuple[Training, list[str]]:
    """The settings that this model can follow, and a warning for what has no effect on it.

    No epochs are run for the head alone: epochs gain nothing over the linear probe
    (docs/benchmarks.md).
    """
    warnings = []
    if split_model.trainable_blocks == 0:
        if changes_images(settings):
            warnings.append(
                "flip, crop_scale and randaugment have no effect where freeze.trainable_blocks is "
                "0: no epochs are run for the head alone"
            )
        unchanged_images = {"flip": False, "crop_scale": 1.0, "randaugment": 0}
        settings = settings.model_copy(update={**unchanged_images, "epochs": 0, "min_steps": 0})
    elif settings.token_dropout and family_of(split_model.model).knows_positions:
        warnings.append(
            f"token_dropout {settings.token_dropout} has no effect: the attention of a "
            f"{type(split_model.model).__name__} needs every token's position"
        )
        settings = settings.model_copy(update={"token_dropout": 0.0})
    return settings, warnings
