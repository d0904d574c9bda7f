"""What training shows while it runs, and what it leaves: the history and the metrics."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from vit_finetune.core.process import progress
from vit_finetune.model.freezing import count_parameters
from vit_finetune.training.recipe import History, TrainingData
from vit_finetune.training.settings import Settings

COLUMNS = ("epoch", "train_loss", "train_accuracy", "lr", "val_loss", "val_accuracy")
SHOWN = ("train_loss", "val_loss", "val_accuracy")


@contextmanager
def epoch_bar(settings: Settings, images: int) -> Iterator[Callable[[History], None]]:
    """A progress bar over epochs; off a terminal, a line for each. Gives what is to be called after each epoch."""
    epochs = settings.epochs_over(images)
    with progress(range(epochs), settings.section, "epoch", total=epochs) as bar:

        def show(history: History) -> None:
            numbers = {key: f"{history.rows[-1][key]:.3f}" for key in SHOWN}
            bar.set_postfix(numbers)
            bar.update(history.epochs - bar.n)
            if bar.disable:
                line = ", ".join(f"{key} {value}" for key, value in numbers.items())
                print(f"{settings.section}: epoch {history.epochs} of {epochs}: {line}", flush=True)

        yield show


def history_rows(history: History) -> list[dict[str, float]]:
    """COLUMNS of the start and of each epoch, rounded to six digits."""
    return [{key: round(row[key], 6) for key in COLUMNS} for row in history.rows]


def summary(
    history: History,
    data: TrainingData,
    model: nn.Module,
    manifest: dict[str, Any],
    adapted: dict[str, Any],
    ignored: list[str],
) -> dict[str, Any]:
    """metrics/train.json: what was trained, on what, the epoch that was kept, and what a reader should know.

    Args:
        adapted: the record of `adapt`.
        ignored: settings without effect.
    """
    trainable, frozen = count_parameters(model)
    best = {key: round(history.best[key], 6) for key in ("train_loss", "train_accuracy", "val_loss", "val_accuracy")}
    return {
        "val_accuracy": best.pop("val_accuracy"),
        "probe_accuracy": round(history.rows[0]["val_accuracy"], 6),
        "best_epoch": history.best_epoch,
        "epochs": history.epochs,
        "parameters_adapted": adapted["parameters_adapted"],
        "parameters_trainable": trainable,
        "parameters_frozen": frozen,
        **best,
        "probe_c": history.probe_c,
        "images": {"train": len(data.labels), "val": len(data.val_labels)},
        **{key: manifest[key] for key in ("precision", "storage", "boundary")},
        "warnings": [*ignored, *warning_signs(history, data.val_labels)],
    }


def warning_signs(history: History, val_labels: Tensor) -> list[str]:
    """Signs that training did not work, each with the key of params.yaml that is likely to blame."""
    signs, losses = [], [row["val_loss"] for row in history.rows[1:]]
    largest = int(val_labels.bincount().max()) / len(val_labels)
    if history.best["val_accuracy"] <= largest:
        signs.append(
            f"the best validation accuracy, {history.best['val_accuracy']:.3f}, is not above the share of the largest "
            f"class, {largest:.3f}: try a tenth of train.lr"
        )
    if len(losses) > 2 and losses == sorted(losses) and losses[0] < losses[-1]:
        signs.append(
            f"the validation loss rose throughout, from {losses[0]:.3f} to {losses[-1]:.3f}: try a tenth of train.lr"
        )
    return signs
