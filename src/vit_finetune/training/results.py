"""What training shows while it runs, and what it leaves: the history and the metrics."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from vit_finetune.core.process import progress
from vit_finetune.model.freezing import count_parameters
from vit_finetune.training.recipe import History, TrainingData

SHOWN = ("train_loss", "val_loss", "val_accuracy")


@contextmanager
def epoch_bar(epochs: int) -> Iterator[Callable[[History], None]]:
    """A progress bar over epochs: what it gives is to be called with the history after each epoch."""
    with progress(range(epochs), "train", "epoch", total=epochs) as bar:

        def show(history: History) -> None:
            bar.set_postfix({key: f"{history.rows[-1][key]:.3f}" for key in SHOWN})
            bar.update(len(history.rows) - bar.n)

        yield show


def history_rows(history: History) -> list[dict[str, float]]:
    """A row for each epoch, rounded to six digits."""
    return [{key: round(value, 6) for key, value in row.items()} for row in history.rows]


def summary(
    history: History, data: TrainingData, model: nn.Module, manifest: dict[str, Any], ignored: list[str]
) -> dict[str, Any]:
    """metrics/train.json: what was trained, on what, the epoch that was kept, and what a reader should know.

    Args:
        ignored: settings without effect.
    """
    trainable, frozen = count_parameters(model)
    best = {key: round(history.best[key], 6) for key in ("train_loss", "train_accuracy", "val_loss", "val_accuracy")}
    return {
        "parameters_trainable": trainable,
        "parameters_frozen": frozen,
        "epochs": len(history.rows),
        "best_epoch": history.best_epoch,
        **best,
        "images": {"train": len(data.labels), "val": len(data.val_labels)},
        **{key: manifest[key] for key in ("precision", "storage", "boundary")},
        "warnings": [*ignored, *warning_signs(history, data.val_labels)],
    }


def warning_signs(history: History, val_labels: Tensor) -> list[str]:
    """Signs that training did not work, each with the key of params.yaml that is likely to blame."""
    rows, signs = history.rows, []
    losses = [row["val_loss"] for row in rows]
    largest = int(val_labels.bincount().max()) / len(val_labels)
    if history.best["val_accuracy"] <= largest:
        signs.append(
            f"the best validation accuracy, {history.best['val_accuracy']:.3f}, is not above the share of the largest "
            f"class, {largest:.3f}: try a tenth of train.lr"
        )
    if len(rows) > 2 and losses == sorted(losses) and losses[0] < losses[-1]:
        signs.append(
            f"the validation loss rose throughout, from {losses[0]:.3f} to {losses[-1]:.3f}: try a tenth of train.lr"
        )
    elif len(rows) > 2 and history.best_epoch == 1:
        signs.append(f"the first of {len(rows)} epochs is the best one: try a smaller train.lr")
    return signs
