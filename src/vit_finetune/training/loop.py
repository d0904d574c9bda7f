"""Optimiser steps over batches of stored activations, or of images that differ in every epoch.

Activations are indexed directly, without a DataLoader: they are mapped into memory, and gathering a batch is one
operation. All randomness of an epoch comes from (seed, epoch), so training can go on at any epoch.

Each batch is computed in shards, whose number does not depend on how many processes share them, and their gradients
are added in their order. So one process gives the same weights as several, to the last bit.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from vit_finetune.activations.views import ImageView
from vit_finetune.core.errors import UserError
from vit_finetune.core.ranks import Ranks
from vit_finetune.model.boundary import SplitModel
from vit_finetune.params.train import Train
from vit_finetune.training.augmentation import augment, drop_tokens, shift_brightness, to_device_of

ALONE = Ranks()
View = Tensor | ImageView  # what rows are taken from: stored activations, or images


def learning_rate(step: int, steps: int, warmup: int, peak: float) -> float:
    """Linear warm-up over `warmup` steps, then a cosine that would reach 0 after the last of `steps`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """Weight of each class, (K,): images per class on average over images of this one (King & Zeng 2001)."""
    return len(labels) / (classes * torch.bincount(labels, minlength=classes).clamp_min(1))


def make_optimizer(model: nn.Module, train: Train, layer_decay: float) -> torch.optim.Optimizer:
    """AdamW or SGD over what is trainable; biases, norms and other vectors do not decay.

    Each group's `lr_scale` is the factor on the learning rate of its block (BEiT, arXiv:2106.08254).
    """
    groups = param_groups_layer_decay(model, weight_decay=train.weight_decay, layer_decay=layer_decay)
    if train.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=train.lr, momentum=0.9)
    return torch.optim.AdamW(groups, lr=train.lr, fused=True)


def training_loss(
    split_model: SplitModel,
    stored: Tensor,
    labels: Tensor,
    weights: Tensor | None,
    train: Train,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy of augmented images, and how many it gets right (by the larger share of a mix).

    Args:
        weights: of each class, (K,).
    """
    if train.changes_images:
        stored = augment(stored, train.crop_scale, train.randaugment, int(rng.integers(2**63)))
    tokens = split_model.tokens(stored)

    def loss(logits: Tensor, of: Tensor) -> Tensor:
        return F.cross_entropy(logits, of, weights, label_smoothing=train.label_smoothing, reduction="sum")

    if train.token_dropout and tokens.ndim == 3:
        tokens = drop_tokens(tokens, split_model.model.num_prefix_tokens, train.token_dropout, rng)
    if train.brightness and tokens.ndim == 3:
        tokens = shift_brightness(tokens, train.brightness, rng)
    if not train.mixup:
        logits = split_model.logits(tokens)
        return loss(logits, labels), (logits.argmax(1) == labels).sum()
    share = float(rng.beta(train.mixup, train.mixup))
    share = max(share, 1 - share)
    partner = to_device_of(tokens, torch.from_numpy(rng.permutation(len(labels))))
    logits = split_model.logits(torch.lerp(tokens[partner], tokens, share))
    mixed = share * loss(logits, labels) + (1 - share) * loss(logits, labels[partner])
    return mixed, (logits.argmax(1) == labels).sum()


def sum_gradients(parameters: list[nn.Parameter], shards: list[Tensor], ranks: Ranks) -> None:
    """Set each gradient to the sum over the shards of all processes, taken in their order.

    Args:
        shards: of this process, the gradients of all parameters one after another, (P,) each.
    """
    total, *others = ranks.gather(torch.stack(shards))
    for shard in others:
        total += shard
    sizes = [p.numel() for p in parameters]
    for parameter, gradient in zip(parameters, total.split(sizes), strict=True):
        parameter.grad = gradient.view_as(parameter)


def take(views: list[View], view_of: Tensor, rows: Tensor) -> Tensor:
    """Some images (B, ...), each from its own view.

    Args:
        view_of: number of the view of every image, (N,).
        rows: (B,).
    """

    def at(view: View, rows: Tensor) -> Tensor:
        return view[to_device_of(view, rows) if isinstance(view, Tensor) else rows]

    taken = at(views[0], rows)
    for number, view in enumerate(views[1:], start=1):
        chosen = (view_of[rows] == number).nonzero().squeeze(1)
        taken[to_device_of(taken, chosen)] = at(view, rows[chosen])
    return taken


class Trainer:
    """Trains the part of a model behind the freeze boundary, an epoch at a time.

    Args:
        views: activations (N, ...) of the same images each, or the images if `settings` changes them; in each epoch
            one view is drawn for each image.
        labels: (N,).
        layer_decay: factor on the learning rate from each block to the one before it.
        ranks: the processes that share the shards of each batch.
    """

    def __init__(
        self,
        split_model: SplitModel,
        views: list[View],
        labels: Tensor,
        settings: Train,
        *,
        seed: int,
        layer_decay: float = 1.0,
        ranks: Ranks = ALONE,
    ) -> None:
        if split_model.trainable_blocks == 0 and not settings.changes_images:  # too little work to share
            settings, ranks = settings.model_copy(update={"shards": 1}), ALONE
        self.split_model, self.views, self.settings, self.seed, self.ranks = split_model, views, settings, seed, ranks
        self.labels = labels.to(split_model.device)
        self.class_weights = None
        if settings.class_weights == "balanced":
            self.class_weights = balanced_weights(labels, split_model.model.num_classes).to(split_model.device)
        self.optimizer = make_optimizer(split_model.model, settings, layer_decay)
        self.steps_per_epoch = math.ceil(len(labels) / settings.batch_size)

    def run_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the training images; returns mean loss, accuracy and the last learning rate.

        Raises:
            UserError: the loss is not finite; names the step.
        """
        rng = np.random.default_rng([self.seed, epoch])
        order = torch.from_numpy(rng.permutation(len(self.labels)))
        view_of = torch.from_numpy(rng.integers(len(self.views), size=len(self.labels)))
        first = (epoch - 1) * self.steps_per_epoch
        own = self.ranks.own(range(self.settings.shards))
        # Filled in place: a tensor kept from each step would scatter over the heap, which then grows with the images.
        losses = torch.zeros(len(own), self.steps_per_epoch, device=self.split_model.device)
        hits = torch.zeros_like(losses, dtype=torch.int64)
        for step, batch in enumerate(order.split(self.settings.batch_size), start=first):
            lr = self._set_learning_rate(step)
            losses[:, step - first], hits[:, step - first] = self._accumulate_gradients(batch, view_of, epoch, step)
            if self.settings.grad_clip is not None:
                nn.utils.clip_grad_norm_(self._parameters(), self.settings.grad_clip)
            self.optimizer.step()
        # Read once an epoch: reading each step would stall a GPU. (own shards, steps) of each process -> (steps,)
        summed = self.ranks.gather(losses).T.cpu().double().sum(1)
        if not summed.isfinite().all():
            step = first + int(summed.isfinite().logical_not().nonzero()[0]) + 1
            raise UserError(
                f"the loss is not finite at step {step} of {self.settings.epochs * self.steps_per_epoch} (epoch "
                f"{epoch}); train.lr {self.settings.lr} is the likely cause: try a tenth of it, or set train.grad_clip"
            )
        accuracy = self.ranks.gather(hits).sum().item() / len(self.labels)
        return {"train_loss": summed.sum().item() / len(self.labels), "train_accuracy": accuracy, "lr": lr}

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _set_learning_rate(self, step: int) -> float:
        steps, warmup = (
            round(epochs * self.steps_per_epoch) for epochs in (self.settings.epochs, self.settings.warmup_epochs)
        )
        lr = learning_rate(step, steps, warmup, self.settings.lr)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        return lr

    def _accumulate_gradients(self, batch: Tensor, view_of: Tensor, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Set the gradients of a step; returns summed loss and right predictions of each own shard."""
        parts, shards = batch.tensor_split(self.settings.shards), self.ranks.own(range(self.settings.shards))
        losses = torch.zeros(len(shards), device=self.split_model.device)
        hits, gradients = torch.zeros_like(losses, dtype=torch.int64), []
        self.optimizer.zero_grad(set_to_none=True)
        for place, shard in enumerate(shards):
            rows = parts[shard]
            empty = not len(rows)
            rows = batch[:1] if empty else rows  # counted as nothing: every shard has gradients, if only zeros
            draws = np.random.default_rng([self.seed, epoch, step, shard])
            stored, labels = take(self.views, view_of, rows), self.labels[to_device_of(self.labels, rows)]
            loss, right = training_loss(self.split_model, stored, labels, self.class_weights, self.settings, draws)
            (loss * 0 if empty else loss / len(batch)).backward()
            if self.ranks.size > 1:
                present = [p for p in self._parameters() if p.grad is not None]
                gradients.append(torch.cat([p.grad.flatten() for p in present if p.grad is not None]))
                self.optimizer.zero_grad(set_to_none=True)
            losses[place], hits[place] = loss.detach() * (not empty), right * (not empty)
        if self.ranks.size > 1:
            sum_gradients(present, gradients, self.ranks)
        return losses, hits
