"""Optimiser steps over batches of stored activations, or of images that differ in every epoch.

Activations are indexed directly, without a DataLoader: they are mapped into memory, and gathering a
batch is one operation. All randomness of an epoch comes from (seed, epoch), so training can go on
at any epoch.

Each batch is computed in shards, whose number does not depend on how many processes share them, and
their gradients are added in their order. So one process gives the same weights as several, to the
last bit.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from vit_finetune.activations.views import View, announce, read_at_random
from vit_finetune.core.errors import UserError
from vit_finetune.core.ranks import Ranks
from vit_finetune.core.threads import parallel_map
from vit_finetune.model.boundary import SplitModel
from vit_finetune.training.augmentation import augment, drop_tokens, shift_brightness, to_device_of
from vit_finetune.training.settings import Settings

ALONE = Ranks()
Grads = tuple[Tensor | None, ...]


def learning_rate(step: int, steps: int, warmup: int, peak: float) -> float:
    """Linear warm-up over `warmup` steps, then a cosine that would reach 0 after the last of
    `steps`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """Weight of each class, (K,): images per class on average over images of this one (King & Zeng
    2001)."""
    return len(labels) / (classes * torch.bincount(labels, minlength=classes).clamp_min(1))


def make_optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
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


def training_loss(
    split_model: SplitModel,
    stored: Tensor,
    labels: Tensor,
    weights: Tensor | None,
    settings: Settings,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy of augmented images, and how many it gets right (by the larger share of
    a mix).

    Images are mixed before tokens are left out, so that a mixed token is of one place.

    Args:
        weights: of each class, (K,).
    """
    if settings.changes_images:
        stored = augment(
            stored, settings.crop_scale, settings.randaugment, int(rng.integers(2**63))
        )
    tokens = split_model.tokens(stored)
    if settings.brightness and tokens.ndim == 3:
        tokens = shift_brightness(tokens, settings.brightness, rng)
    share, partner = 1.0, torch.arange(len(labels))
    if settings.mixup:
        share = float(rng.beta(settings.mixup, settings.mixup))
        share, partner = max(share, 1 - share), torch.from_numpy(rng.permutation(len(labels)))
        partner = to_device_of(tokens, partner)
        tokens = torch.lerp(tokens[partner], tokens, share)
    if settings.token_dropout and tokens.ndim == 3:
        tokens = drop_tokens(
            tokens, split_model.model.num_prefix_tokens, settings.token_dropout, rng
        )
    logits = split_model.logits(tokens)

    def loss(of: Tensor) -> Tensor:
        return F.cross_entropy(
            logits, of, weights, label_smoothing=settings.label_smoothing, reduction="sum"
        )

    total = (
        loss(labels) if share == 1 else share * loss(labels) + (1 - share) * loss(labels[partner])
    )
    return total, (logits.argmax(1) == labels).sum()


def take(views: Sequence[View], view_of: Tensor, rows: Tensor) -> Tensor:
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
        views: activations (N, ...) of the same images each, or the images if `settings` changes
            them; in each epoch one view is drawn for each image.
        labels: (N,).
        ranks: the processes that share the shards of each batch.
    """

    def __init__(
        self,
        split_model: SplitModel,
        views: Sequence[View],
        labels: Tensor,
        settings: Settings,
        *,
        seed: int,
        ranks: Ranks = ALONE,
    ) -> None:
        # too little work to share
        if split_model.trainable_blocks == 0 and not settings.changes_images:
            settings, ranks = replace(settings, shards=1), ALONE
        self.split_model, self.views, self.settings, self.seed, self.ranks = (
            split_model,
            views,
            settings,
            seed,
            ranks,
        )
        self.labels = labels.to(split_model.device)
        self.class_weights = None
        if settings.class_weights == "balanced":
            self.class_weights = balanced_weights(labels, split_model.model.num_classes).to(
                split_model.device
            )
        self.optimizer = make_optimizer(split_model.model, settings)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.steps_per_epoch = settings.steps_per_epoch(len(labels))
        self.steps = settings.epochs_over(len(labels)) * self.steps_per_epoch

    def run_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the training images; returns mean loss, accuracy and the last learning
        rate.

        Raises:
            UserError: the loss is not finite; names the step.
        """
        rng = np.random.default_rng([self.seed, epoch])
        order = torch.from_numpy(rng.permutation(len(self.labels)))
        view_of = torch.from_numpy(rng.integers(len(self.views), size=len(self.labels)))
        first = (epoch - 1) * self.steps_per_epoch
        own = self.ranks.select(range(self.settings.shards))
        # Filled in place: a tensor kept from each step would scatter over the heap, which then
        # grows with the images.
        losses = torch.zeros(len(own), self.steps_per_epoch, device=self.split_model.device)
        hits = torch.zeros_like(losses, dtype=torch.int64)
        with parallel_map(self.split_model.device, len(own)) as each:
            batches = order.split(self.settings.batch_size)
            for view in self.views:
                read_at_random(view)
            for step, (batch, later) in enumerate(
                zip(batches, [*batches[1:], order[:0]], strict=True), start=first
            ):
                for number, view in enumerate(self.views):
                    announce(view, later[view_of[later] == number])
                lr = self._set_learning_rate(step)
                shards = each(partial(self._shard, batch, view_of, epoch, step), own)
                losses[:, step - first], hits[:, step - first] = self._sum_gradients(shards)
                if self.settings.grad_clip is not None:
                    nn.utils.clip_grad_norm_(self.parameters, self.settings.grad_clip)
                self.optimizer.step()
        # Read once an epoch: reading each step would stall a GPU. (own shards, steps) of each
        # process -> (steps,)
        summed = self.ranks.all_gather(losses).T.cpu().double().sum(1)
        if not summed.isfinite().all():
            step = first + int(summed.isfinite().logical_not().nonzero()[0]) + 1
            raise UserError(
                f"the loss is not finite at step {step} of {self.steps} (epoch {epoch}); {self.settings.section}.lr "
                f"{self.settings.lr} is the likely cause: try a tenth of it"
            )
        accuracy = self.ranks.all_gather(hits).sum().item() / len(self.labels)
        return {
            "train_loss": summed.sum().item() / len(self.labels),
            "train_accuracy": accuracy,
            "lr": lr,
        }

    def _set_learning_rate(self, step: int) -> float:
        lr = learning_rate(
            step, self.steps, round(self.settings.warmup * self.steps), self.settings.lr
        )
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        return lr

    def _shard(
        self, batch: Tensor, view_of: Tensor, epoch: int, step: int, shard: int
    ) -> tuple[Tensor, Tensor, Grads]:
        """Summed loss, right predictions, and the gradient of each parameter, of one shard of a
        batch."""
        rows = batch.tensor_split(self.settings.shards)[shard]
        empty = not len(rows)
        # counted as nothing: every shard has gradients, if only zeros
        rows = batch[:1] if empty else rows
        draws = np.random.default_rng([self.seed, epoch, step, shard])
        stored, labels = (
            take(self.views, view_of, rows),
            self.labels[to_device_of(self.labels, rows)],
        )
        loss, right = training_loss(
            self.split_model, stored, labels, self.class_weights, self.settings, draws
        )
        mean = loss * 0 if empty else loss / len(batch)
        gradients = torch.autograd.grad(mean, self.parameters, allow_unused=True)
        return loss.detach() * (not empty), right * (not empty), gradients

    def _sum_gradients(
        self, shards: Iterator[tuple[Tensor, Tensor, Grads]]
    ) -> tuple[Tensor, Tensor]:
        """Set the gradient of each parameter to the sum over the shards of all processes, taken in
        their order.

        Returns:
            Summed loss and right predictions of each own shard.
        """
        losses, hits = [], []
        sums: list[Tensor] = []
        for loss, right, gradients in shards:
            losses.append(loss)
            hits.append(right)
            present = [
                (p, g) for p, g in zip(self.parameters, gradients, strict=True) if g is not None
            ]
            flat = torch.cat([gradient.flatten() for _, gradient in present])
            if sums and self.ranks.world_size == 1:
                sums[0] += flat
            else:
                sums.append(flat)
        total, *others = self.ranks.all_gather(torch.stack(sums))
        for other in others:
            total += other
        for (parameter, _), gradient in zip(
            present, total.split([p.numel() for p, _ in present]), strict=True
        ):
            parameter.grad = gradient.view_as(parameter)
        return torch.stack(losses), torch.stack(hits)
