"""Training from stored activations, or from images where these are to differ in every epoch.

Activations are indexed directly, without a DataLoader: they are already in memory, mapped, and gathering a batch
is one operation. All randomness of an epoch comes from (seed, epoch), so training can go on at any epoch.

Each batch is computed in shards, whose number does not depend on how many processes share them, and their gradients
are added in their order. So one process gives the same weights as several, to the last bit.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from vit_finetune.backbone import EVAL_BATCH, Suffix
from vit_finetune.families import knows_positions
from vit_finetune.files import new_file
from vit_finetune.images import ImageView, augment
from vit_finetune.params.train import Train
from vit_finetune.ranks import Ranks

ALONE = Ranks()
View = Tensor | ImageView  # what rows are taken from: stored activations, or images


@dataclass
class Progress:
    """Where training stands after an epoch. `history` holds one row per epoch."""

    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_state: dict[str, Tensor] = field(default_factory=dict)

    @property
    def best(self) -> dict[str, float]:
        return self.history[self.best_epoch - 1]


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


def _on_device_of(tensor: Tensor, drawn: Tensor) -> Tensor:
    """Numbers and rows drawn on the CPU, where the tensor is; the CPU does not wait for a GPU's work."""
    return drawn.to(tensor.device, non_blocking=True)


def drop_tokens(tokens: Tensor, prefix: int, share: float, rng: np.random.Generator) -> Tensor:
    """Keep the prefix tokens and a random rest of the patch tokens of each image: (B, T, D) -> (B, T', D)."""
    patches = tokens.shape[1] - prefix
    kept = max(1, round(patches * (1 - share)))
    order = torch.from_numpy(rng.random((len(tokens), patches))).argsort(dim=1)[:, :kept].sort(dim=1).values
    index = _on_device_of(tokens, torch.cat([torch.arange(prefix).expand(len(tokens), -1), order + prefix], dim=1))
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def shift_brightness(tokens: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Move each channel of each image by a random share of its range over the tokens (B, T, D), and stay within it.

    The pointwise "brightness" per channel of frozen features (Bär et al., arXiv:2403.10519).
    """
    low, high = tokens.amin(1, keepdim=True), tokens.amax(1, keepdim=True)
    share = _on_device_of(tokens, torch.from_numpy(rng.uniform(-strength, strength, size=low.shape).astype(np.float32)))
    return (tokens + share * (high - low)).clamp(low, high)


def training_loss(
    suffix: Suffix, stored: Tensor, labels: Tensor, weights: Tensor | None, train: Train, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy of augmented images, and how many it gets right (by the larger share of a mix).

    Args:
        weights: of each class, (K,).
    """
    if train.changes_images:
        stored = augment(stored, train.crop_scale, train.randaugment, int(rng.integers(2**63)))
    tokens = suffix.tokens(stored)

    def loss(logits: Tensor, of: Tensor) -> Tensor:
        return F.cross_entropy(logits, of, weights, label_smoothing=train.label_smoothing, reduction="sum")

    if train.token_dropout and tokens.ndim == 3:
        tokens = drop_tokens(tokens, suffix.model.num_prefix_tokens, train.token_dropout, rng)
    if train.brightness and tokens.ndim == 3:
        tokens = shift_brightness(tokens, train.brightness, rng)
    if not train.mixup:
        logits = suffix.logits(tokens)
        return loss(logits, labels), (logits.argmax(1) == labels).sum()
    share = float(rng.beta(train.mixup, train.mixup))
    share = max(share, 1 - share)
    partner = _on_device_of(tokens, torch.from_numpy(rng.permutation(len(labels))))
    logits = suffix.logits(torch.lerp(tokens[partner], tokens, share))
    mixed = share * loss(logits, labels) + (1 - share) * loss(logits, labels[partner])
    return mixed, (logits.argmax(1) == labels).sum()


def image_cost(suffix: Suffix, images: Tensor, train: Train) -> float:
    """Seconds an image that unchanged ones would save: to change it, and its way through the frozen blocks, if any."""

    def once() -> float:
        start = time.perf_counter()
        changed = augment(images, train.crop_scale, train.randaugment, seed=0)
        if suffix.trainable_blocks != "all":
            suffix.tokens(changed).sum().item()
        return time.perf_counter() - start

    once()
    return once() / len(images)


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
        return view[_on_device_of(view, rows) if isinstance(view, Tensor) else rows]

    taken = at(views[0], rows)
    for number, view in enumerate(views[1:], start=1):
        chosen = (view_of[rows] == number).nonzero().squeeze(1)
        taken[_on_device_of(taken, chosen)] = at(view, rows[chosen])
    return taken


def train_epoch(
    suffix: Suffix,
    optimizer: torch.optim.Optimizer,
    views: list[View],
    labels: Tensor,
    weights: Tensor | None,
    train: Train,
    seed: int,
    epoch: int,
    ranks: Ranks = ALONE,
) -> dict[str, float]:
    """One pass over the training images; returns mean loss, accuracy and the last learning rate.

    Args:
        views: activations (N, ...) of the same images each, or the images if `train` changes them; one view is drawn
            for each image.
        labels: (N,), on the device.

    Raises:
        ValueError: the loss is not finite; names the step.
    """
    if suffix.trainable_blocks == 0 and not train.changes_images:  # less work than to share it: each process does all
        train, ranks = train.model_copy(update={"shards": 1}), ALONE
    rng = np.random.default_rng([seed, epoch])
    order = torch.from_numpy(rng.permutation(len(labels)))
    view_of = torch.from_numpy(rng.integers(len(views), size=len(labels)))
    trainable = [p for group in optimizer.param_groups for p in group["params"]]
    steps_per_epoch = math.ceil(len(labels) / train.batch_size)
    steps, warmup = train.epochs * steps_per_epoch, round(train.warmup_epochs * steps_per_epoch)
    first, lr = (epoch - 1) * steps_per_epoch, 0.0
    own = ranks.own(range(train.shards))
    # Filled in place: a tensor kept from each step would scatter over the heap, which then grows with the images.
    losses = torch.zeros(len(own), steps_per_epoch, device=suffix.device)
    hits = torch.zeros_like(losses, dtype=torch.int64)
    for step, batch in enumerate(order.split(train.batch_size), start=first):
        lr = learning_rate(step, steps, warmup, train.lr)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        optimizer.zero_grad(set_to_none=True)
        gradients, parts = [], batch.tensor_split(train.shards)
        for place, shard in enumerate(own):
            rows = parts[shard]
            share = len(rows) / len(batch)
            rows = rows if len(rows) else batch[:1]  # of share 0: every shard has gradients, if only zeros
            draws = np.random.default_rng([seed, epoch, step, shard])
            stored, truth = take(views, view_of, rows), labels[_on_device_of(labels, rows)]
            loss, right = training_loss(suffix, stored, truth, weights, train, draws)
            (loss / len(batch) if share else loss * 0).backward()
            if ranks.size > 1:
                present = [p for p in trainable if p.grad is not None]
                gradients.append(torch.cat([p.grad.flatten() for p in present]))
                optimizer.zero_grad(set_to_none=True)
            losses[place, step - first] = loss.detach() * bool(share)
            hits[place, step - first] = right * bool(share)
        if ranks.size > 1:
            sum_gradients(present, gradients, ranks)
        if train.grad_clip is not None:
            nn.utils.clip_grad_norm_(trainable, train.grad_clip)
        optimizer.step()
    # Read once an epoch: reading each step would stall a GPU. (own shards, steps) of each process -> (steps,)
    summed = ranks.gather(losses).T.cpu().double().sum(1)
    if not summed.isfinite().all():
        step = first + int(summed.isfinite().logical_not().nonzero()[0]) + 1
        raise ValueError(
            f"the loss is not finite at step {step} of {steps} (epoch {epoch}); train.lr {train.lr} is the likely "
            "cause: try a tenth of it, or set train.grad_clip"
        )
    accuracy = ranks.gather(hits).sum().item() / len(labels)
    return {"train_loss": summed.sum().item() / len(labels), "train_accuracy": accuracy, "lr": lr}


def predict(suffix: Suffix, stored: Tensor, ranks: Ranks, features: bool = False) -> Tensor:
    """`Suffix.predict` in the same batches, shared by the processes; (N, K) logits or (N, D) features on each."""
    own = ranks.own(range(0, len(stored), EVAL_BATCH))
    return ranks.gather(suffix.predict(stored[own.start : own.stop], features))


def fit(
    suffix: Suffix,
    views: list[View],
    labels: Tensor,
    val: Tensor,
    val_labels: Tensor,
    train: Train,
    seed: int,
    layer_decay: float = 1.0,
    checkpoint: Path | None = None,
    ranks: Ranks = ALONE,
) -> Iterator[Progress]:
    """Train epoch by epoch, yielding after each; the model holds the best epoch's weights when it ends.

    Given a checkpoint file, training that was cut short goes on from its last whole epoch, to the same weights.

    Raises:
        ValueError: the loss is not finite, or tokens are to be left out of a model that does not allow it.
    """
    model = suffix.model
    if train.token_dropout and suffix.trainable_blocks != 0 and knows_positions(model):
        raise ValueError(
            f"train.token_dropout is {train.token_dropout}: the attention of {type(model).__name__} knows where each "
            "token stands, so none can be left out; set it to 0"
        )
    weights = None
    if train.class_weights == "balanced":
        weights = balanced_weights(labels, model.num_classes).to(suffix.device)
    optimizer = make_optimizer(model, train, layer_decay)
    labels = labels.to(suffix.device)
    progress = _resume(checkpoint, model, optimizer) if checkpoint and checkpoint.is_file() else Progress()
    for epoch in range(len(progress.history) + 1, train.epochs + 1):
        row = train_epoch(suffix, optimizer, views, labels, weights, train, seed, epoch, ranks)
        logits = predict(suffix, val, ranks)
        row |= {
            "val_loss": F.cross_entropy(logits, val_labels).item(),
            "val_accuracy": (logits.argmax(1) == val_labels).double().mean().item(),
        }
        progress.history.append({"epoch": epoch, **row})
        if not progress.best_epoch or row["val_accuracy"] > progress.best["val_accuracy"]:
            progress.best_epoch, progress.best_state = epoch, _trainable_state(model)
        if checkpoint and ranks.first:
            _save_checkpoint(checkpoint, model, optimizer, progress)
        yield progress
        if train.patience is not None and epoch - progress.best_epoch >= train.patience:
            break
    model.load_state_dict(progress.best_state, strict=False)


def _trainable_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().cpu().clone() for name, p in model.named_parameters() if p.requires_grad}


def _save_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    state: dict[str, Any] = {
        "weights": _trainable_state(model),
        "optimizer": optimizer.state_dict(),
        "progress": vars(progress),
    }
    with new_file(path) as partial:
        torch.save(state, partial)


def _resume(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["weights"], strict=False)
    optimizer.load_state_dict(state["optimizer"])
    return Progress(**state["progress"])
