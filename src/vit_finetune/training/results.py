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
def epoch_bar(
    settings: Settings, images: int, write: Callable[[History], None] = lambda history: None
) -> Iterator[Callable[[History], None]]:
    """A progress bar over epochs; off a terminal, a line for each. Gives what is to be called after each epoch.

    Args:
        write: called first after each epoch, to write what can be looked at while training runs.
    """
    epochs = settings.epochs_over(images)
    with progress(range(epochs), settings.section, "epoch", total=epochs) as bar:

        def show(history: History) -> None:
            write(history)
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


def metrics_of(
    history: History, planned: int, model: nn.Module, adapted: dict[str, Any], precision: str
) -> dict[str, Any]:
    """metrics/train.json after an epoch: the epoch to keep so far, and what is trained.

    Args:
        planned: epochs that the settings ask for.
        adapted: the record of `adapt`.
    """
    return {
        "val_accuracy": round(history.best["val_accuracy"], 6),
        "probe_accuracy": round(history.rows[0]["val_accuracy"], 6),
        "best_epoch": history.best_epoch,
        "epochs": [history.epochs, planned],
        "parameters_adapted": adapted["parameters_adapted"],
        "parameters_trained": count_parameters(model)[0],
        "precision": precision,
    }


def facts_of(
    history: History, data: TrainingData, model: nn.Module, manifest: dict[str, Any], warnings: list[str]
) -> list[dict[str, Any]]:
    """plots/training_facts.csv: what else a reader should know of the training, a fact a row."""
    facts = {
        "parameters_frozen": count_parameters(model)[1],
        "probe_c": history.probe_c,
        **{key: round(history.best[key], 6) for key in ("train_loss", "train_accuracy", "val_loss")},
        "training_images": len(data.labels),
        "validation_images": len(data.val_labels),
        **{key: manifest[key] for key in ("storage", "boundary")},
    }
    rows = [{"fact": fact, "value": value} for fact, value in facts.items()]
    return [*rows, *({"fact": "warning", "value": warning} for warning in warnings)]


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
