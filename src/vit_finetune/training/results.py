"""What a training shows while it runs, and what it leaves: the history, metrics, warnings."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from vit_finetune.core.progress import progress
from vit_finetune.intervals import effective_number
from vit_finetune.model.adapted import Adapted
from vit_finetune.model.freezing import count_parameters
from vit_finetune.training.data import TrainingData
from vit_finetune.training.features import Features
from vit_finetune.training.history import History
from vit_finetune.training.trainer import Trainer

COLUMNS = ("epoch", "train_loss", "train_accuracy", "lr", "val_loss", "val_accuracy")
FEW_IMAGES = 30  # independent validation images: with fewer, one is worth several points
CLEARLY = 0.2  # by so much a probe must be better than a guess to say that images can be learned


@contextmanager
def epoch_bar(
    name: str, epochs: int, say: Callable[[str], None]
) -> Iterator[Callable[[History], None]]:
    """A progress bar over epochs. It gives the function to call after each epoch.

    Args:
        say: prints a line for each epoch where there is no terminal for the bar.
    """
    with progress(range(epochs), name, "epoch", total=epochs) as bar:

        def show(history: History) -> None:
            row = history.rows[-1]
            numbers = {"val_loss": row["val_loss"], "val_accuracy": row["val_accuracy"]}
            if history.epochs:  # the training loss of a probe cannot be compared with an epoch's
                numbers = {"train_loss": row["train_loss"], **numbers}
            shown = {key: f"{value:.3f}" for key, value in numbers.items()}
            bar.set_postfix(shown)
            bar.update(history.epochs - bar.n)
            if bar.disable:
                when = f"epoch {history.epochs} of {epochs}"
                if history.epochs == 0:
                    when = "before training, to compare with" if epochs else "without training"
                say(f"{when}: " + ", ".join(f"{key} {value}" for key, value in shown.items()))

        yield show


def fit_with_bar(
    trainer: Trainer,
    features: Features,
    checkpoint: Path,
    write: Callable[[History], None],
    say: Callable[[str], None],
) -> History:
    """`Trainer.fit` with a bar over epochs; the first process writes the history after each."""
    with epoch_bar(trainer.name, trainer.epochs, say) as show:

        def after_epoch(history: History) -> None:
            if trainer.ranks.is_first:
                write(history)
            show(history)

        return trainer.fit(features, checkpoint, after_epoch)


def history_rows(history: History) -> list[dict[str, float]]:
    """COLUMNS of the start and of each epoch, rounded to six digits."""
    return [{key: round(row[key], 6) for key in COLUMNS} for row in history.rows]


def training_metrics(
    history: History,
    data: TrainingData,
    epochs: int,
    model: Any,
    adapted: Adapted,
    warnings: Sequence[str],
) -> dict[str, Any]:
    """metrics/train.json after an epoch, beside the probes before it.

    Where validation images are in groups, the metrics have `val_independent`, the number of
    independent images that would tell as much of the accuracy, of the start or of the last epoch,
    whichever is less.

    Args:
        epochs: that the settings ask for.
        adapted: the record of `adapt`. Of a model with a kept head, the metrics have `head`.
        warnings: without any, the metrics have no key for them.
    """
    probe_accuracy = round(history.rows[0]["val_accuracy"], 6)
    pretrained_probe_accuracy = adapted.probe_accuracy
    if pretrained_probe_accuracy is None:  # nothing was adapted: it is the same probe
        pretrained_probe_accuracy = probe_accuracy
    trained, _ = count_parameters(model)
    if history.kept_epoch == 0:
        trained = sum(parameter.numel() for parameter in model.head.parameters())
    metrics = {
        "val_accuracy": round(history.kept["val_accuracy"], 6),
        "probe_accuracy": probe_accuracy,
        "pretrained_probe_accuracy": pretrained_probe_accuracy,
        "kept_epoch": history.kept_epoch,
        "epochs": f"{history.epochs} of {epochs}",  # a text, since DVC shows no lists
        "parameters_adapted": adapted.parameters_adapted,
        "parameters_trained": trained,
        "precision": adapted.precision,
    }
    if len(np.unique(data.val_groups)) < len(data.val_groups):
        independent = min(
            effective_number(history.start_right.numpy(), data.val_groups),
            effective_number(history.last_right.numpy(), data.val_groups),
        )
        metrics["val_independent"] = float(f"{independent:.3g}")  # it may be far below 1
    if adapted.kept_head:
        metrics["head"] = "kept"
    if warnings:
        metrics["warning"] = "; ".join(warnings)
    return metrics


def training_warnings(history: History, data: TrainingData) -> list[str]:
    """Sentences on what was seen that suggests that training did not work, or cannot be judged.

    They name a cause only where what was seen has no other.
    """
    warnings = []
    independent = len(np.unique(data.val_groups))
    if independent < FEW_IMAGES:
        what = "images" if independent == len(data.val_groups) else "groups of images"
        warnings.append(
            f"one of {independent} validation {what} is worth {100 / independent:.1f} points of "
            "accuracy: they can hardly tell which of two models is better. Raise subset.val_size "
            "or add images"
        )
    accuracy = history.kept["val_accuracy"]
    largest = largest_fraction(data.val_labels)
    if accuracy <= largest:
        warnings.append(
            f"the validation accuracy, {accuracy:.3f}, is not above {largest:.3f}, the "
            "fraction of the largest class: naming that class for every image is as accurate"
        )
    if history.epochs:
        warnings += _augmented_images_not_learned(history, data)
        warnings += _rising_validation_loss(history)
    return warnings


def largest_fraction(labels: Tensor) -> float:
    """The accuracy of naming the most frequent class for every image."""
    return int(labels.bincount().max()) / len(labels)


def _augmented_images_not_learned(history: History, data: TrainingData) -> list[str]:
    """Training images are seen mirrored, mixed and with missing patches, those of the probe are
    not."""
    probe = history.rows[0]["val_accuracy"]
    reached = max(row["train_accuracy"] for row in history.rows[1:])
    guess = largest_fraction(data.labels)
    if probe - guess < CLEARLY or reached > (probe + guess) / 2:
        return []
    return [
        f"training reached an accuracy of {reached:.3f} on augmented training images, where a "
        f"guess has {guess:.3f} and a linear probe has {probe:.3f} on validation images as they "
        "are: augmentation (mirroring, mixup, dropped tokens) changes them too much, or train.lr "
        "is too high"
    ]


def _rising_validation_loss(history: History) -> list[str]:
    epochs = history.rows[1:]
    losses = [row["val_loss"] for row in epochs]
    if len(losses) < 3 or losses != sorted(losses) or losses[0] == losses[-1]:
        return []
    seen = f"the validation loss rose in every epoch, from {losses[0]:.3f} to {losses[-1]:.3f}"
    first = epochs[0]["train_loss"]
    last = epochs[-1]["train_loss"]
    if last > first:
        return [
            f"{seen}, and the training loss from {first:.3f} to {last:.3f}: try a tenth of train.lr"
        ]
    return [
        f"{seen}, while the training loss fell from {first:.3f} to {last:.3f}: the model overfits, "
        "try fewer train.epochs"
    ]
