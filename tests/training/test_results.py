"""What training shows and leaves: the bar, the history, the metrics."""

import io

import pytest
import torch
from tqdm import tqdm

from vit_finetune.model.adapted import Adapted
from vit_finetune.model.freezing import freeze
from vit_finetune.training import results
from vit_finetune.training.history import History

ROWS = [
    {
        "epoch": epoch,
        "train_loss": 1 / 3,
        "train_accuracy": 0.5,
        "lr": 0.1,
        "val_loss": 2 / 3,
        "val_accuracy": accuracy,
    }
    for epoch, accuracy in enumerate((0.25, 0.75, 0.5))
]
ADAPTED = Adapted(precision="float32", parameters_adapted=77, kept_epoch=1, probe_accuracy=0.2)
HISTORY = History(ROWS, probe_c=0.5)


def test_the_history_is_rounded_to_six_digits():
    first = results.history_rows(HISTORY)[0]
    assert first == {**ROWS[0], "train_loss": 0.333333, "val_loss": 0.666667}
    assert list(first) == list(ROWS[0])


def test_the_metrics_are_those_of_the_last_epoch_and_say_how_many_epochs_are_done(tiny_vit):
    freeze(tiny_vit, 0)
    assert results.training_metrics(HISTORY, 8, tiny_vit, ADAPTED, []) == {
        "val_accuracy": 0.5,
        "probe_accuracy": 0.25,
        "pretrained_probe_accuracy": 0.2,
        "kept_epoch": 2,
        "epochs": "2 of 8",
        "parameters_adapted": 77,
        "parameters_trained": 3 * 32 + 3,
        "precision": "float32",
    }


def test_where_the_probe_is_kept_only_the_head_was_trained(tiny_vit):
    freeze(tiny_vit, 1)
    history = History(ROWS, keeps_start=True)
    adapted = Adapted("float32", 0, 0, probe_accuracy=None)  # adapt.epochs is 0
    metrics = results.training_metrics(history, 8, tiny_vit, adapted, [])
    assert metrics["parameters_trained"] == 3 * 32 + 3
    assert metrics["val_accuracy"] == metrics["pretrained_probe_accuracy"] == 0.25
    assert "head" not in metrics
    adapted = Adapted("float32", 0, 0, probe_accuracy=None, kept_head=True)
    assert results.training_metrics(history, 3, tiny_vit, adapted, [])["head"] == "kept"


def test_warnings_are_one_text_in_the_metrics(tiny_vit):
    metrics = results.training_metrics(HISTORY, 8, tiny_vit, ADAPTED, ["one", "another"])
    assert metrics["warning"] == "one; another"


def test_the_bar_counts_epochs_that_an_earlier_run_trained_as_done(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(
        results,
        "progress",
        lambda items, label, unit, total: tqdm(items, total=total, file=shown, mininterval=0),
    )
    with results.epoch_bar("train", 4, print) as show:
        show(HISTORY)  # the start and two epochs, which came from a checkpoint
        assert "2/4" in shown.getvalue()
        show(History([*ROWS, ROWS[0]]))
    last = shown.getvalue().split("\r")[-1]
    assert "3/4" in last
    assert "val_accuracy=0.250" in last


def test_off_a_terminal_each_epoch_is_a_line():
    lines = []
    with results.epoch_bar("train", 4, lines.append) as show:
        show(History(ROWS[:1]))
        show(HISTORY)
    assert lines == [
        "before training: val_loss 0.667, val_accuracy 0.250",
        "epoch 2 of 4: train_loss 0.333, val_loss 0.667, val_accuracy 0.500",
    ]


@pytest.mark.parametrize(
    ("accuracies", "losses", "warnings"),
    [
        ((0.5, 0.9, 0.8), (1.0, 0.5, 0.6), []),
        (
            (0.5, 0.7, 0.75),
            (1.0, 0.5, 0.6),
            ["the best validation accuracy, 0.750, is not above the fraction of the"],
        ),
        (
            (0.5, 0.9, 0.8),
            (0.5, 0.5, 0.6),
            ["the validation loss rose in every epoch, from 0.500 to 0.600"],
        ),
        (
            (0.9, 0.8, 0.8),
            (0.5, 0.6, 0.7),
            ["the validation loss rose in every epoch, from 0.500 to 0.700"],
        ),
        ((0.9, 0.8, 0.8), (0.5, 0.4, 0.6), []),
        ((0.9, 0.8), (0.5, 0.6), []),  # too few epochs to tell
        (
            (0.6, 0.5, 0.5),
            (0.5, 0.6, 0.7),
            ["the best validation accuracy, 0.500", "the validation loss rose"],
        ),
    ],
)
def test_a_training_that_did_not_work_is_named_with_the_key_to_change(accuracies, losses, warnings):
    # of the probe, whose loss says nothing about the epochs
    start = {"val_accuracy": 0.4, "val_loss": 0.1}
    rows = [
        start,
        *({"val_accuracy": a, "val_loss": b} for a, b in zip(accuracies, losses, strict=True)),
    ]
    found = results.training_warnings(History(rows), torch.tensor([0, 0, 0, 1] * 10))
    assert len(found) == len(warnings)
    for warning, start in zip(found, warnings, strict=True):
        assert warning.startswith(start)
        assert "train.lr" in warning


def test_few_validation_images_are_told_what_one_of_them_is_worth():
    history = History([{"epoch": 0, "val_accuracy": 0.9, "val_loss": 0.1}])
    (warning,) = results.training_warnings(history, torch.tensor([0, 1] * 8))
    assert warning.startswith("one of 16 validation images is worth 6.2 points of accuracy")
