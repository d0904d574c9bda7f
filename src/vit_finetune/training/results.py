"""What training shows while it runs, and what it leaves: the history and the metrics."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vit_finetune.core.files import write_csv, write_json
from vit_finetune.core.process import progress
from vit_finetune.model.adapted import Adapted
from vit_finetune.model.boundary import SplitModel
from vit_finetune.model.freezing import count_parameters
from vit_finetune.training.recipe import History, Recipe, TrainingData
from vit_finetune.training.settings import Settings

COLUMNS = ("epoch", "train_loss", "train_accuracy", "lr", "val_loss", "val_accuracy")
SHOWN = ("train_loss", "val_loss", "val_accuracy")


@contextmanager
def epoch_bar(
    settings: Settings, images: int, write: Callable[[History], None] | None
) -> Iterator[Callable[[History], None]]:
    """A progress bar over epochs; off a terminal, a line for each. Gives what is to be called after
    each epoch.

    Args:
        write: called first after each epoch, for files that can be looked at while training runs.
    """
    epochs = settings.epochs_over(images)
    with progress(range(epochs), settings.section, "epoch", total=epochs) as bar:

        def show(history: History) -> None:
            if write:
                write(history)
            # a probe's training loss is of another kind
            shown = SHOWN if history.epochs else SHOWN[1:]
            numbers = {key: f"{history.rows[-1][key]:.3f}" for key in shown}
            bar.set_postfix(numbers)
            bar.update(history.epochs - bar.n)
            if bar.disable:
                line = ", ".join(f"{key} {value}" for key, value in numbers.items())
                done = (
                    f"epoch {history.epochs} of {epochs}" if history.epochs else "before training"
                )
                print(f"{settings.section}: {done}: {line}", flush=True)

        yield show


def train_with_bar(
    recipe: Recipe,
    split_model: SplitModel,
    data: TrainingData,
    checkpoint: Path,
    write: Callable[[History], None],
) -> History:
    """`Recipe.train` with a bar over epochs; the first process writes after each."""
    with epoch_bar(
        recipe.settings, len(data.labels), write if recipe.ranks.first else None
    ) as show:
        return recipe.train(split_model, data, checkpoint, show)


def history_rows(history: History) -> list[dict[str, float]]:
    """COLUMNS of the start and of each epoch, rounded to six digits."""
    return [{key: round(row[key], 6) for key in COLUMNS} for row in history.rows]


def write_adaptation(history: History) -> None:
    write_csv("plots/adaptation.csv", history_rows(history), COLUMNS)


def write_progress(
    model: nn.Module,
    planned: int,
    adapted: Adapted,
    notes: Sequence[str],
    history: History,
    signs: Sequence[str] = (),
) -> None:
    """Replace plots/history.csv and metrics/train.json, so that both can be looked at while
    training runs."""
    write_csv("plots/history.csv", history_rows(history))
    write_json("metrics/train.json", metrics_of(history, planned, model, adapted, [*notes, *signs]))


def metrics_of(
    history: History,
    planned: int,
    model: nn.Module,
    adapted: Adapted,
    warnings: Sequence[str],
) -> dict[str, Any]:
    """metrics/train.json after an epoch: the epoch to keep so far, and what is trained.

    Args:
        planned: epochs that the settings ask for.
        adapted: the record of `adapt`, with the precision of both.
        warnings: what a reader should know; without any, there is no key for them.
    """
    return {
        "val_accuracy": round(history.best["val_accuracy"], 6),
        "probe_accuracy": round(history.rows[0]["val_accuracy"], 6),
        "best_epoch": history.best_epoch,
        "epochs": f"{history.epochs} of {planned}",  # text, since DVC shows no lists
        "parameters_adapted": adapted.parameters_adapted,
        "parameters_trained": count_parameters(model)[0],
        "precision": adapted.precision,
        **({"warning": "; ".join(warnings)} if warnings else {}),
    }


def warning_signs(history: History, val_labels: Tensor) -> list[str]:
    """Signs that training did not work, each with the key of params.yaml that is likely to
    blame."""
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
