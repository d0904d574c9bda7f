"""What training shows and leaves: the bar, the history, the metrics."""

import io

import numpy as np
import pytest
import torch
from tqdm import tqdm

from vit_finetune.intervals import effective_number
from vit_finetune.model.adapted import Adapted
from vit_finetune.model.freezing import freeze
from vit_finetune.training import results
from vit_finetune.training.data import TrainingData
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


def data_of(labels=(0, 0, 0, 1) * 10, groups=None):
    """Validation images that are the training images, too."""
    labels = torch.tensor(labels)
    if groups is None:
        groups = np.arange(len(labels))
    return TrainingData(torch.zeros(len(labels), 1), labels, groups, torch.zeros(1), labels, groups)


def test_the_history_is_rounded_to_six_digits():
    first = results.history_rows(HISTORY)[0]
    assert first == {**ROWS[0], "train_loss": 0.333333, "val_loss": 0.666667}
    assert list(first) == list(ROWS[0])


def test_the_metrics_are_those_of_the_last_epoch_and_say_how_many_epochs_are_done(tiny_vit):
    freeze(tiny_vit, 0)
    assert results.training_metrics(HISTORY, data_of(), 8, tiny_vit, ADAPTED, []) == {
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
    metrics = results.training_metrics(history, data_of(), 8, tiny_vit, adapted, [])
    assert metrics["parameters_trained"] == 3 * 32 + 3
    assert metrics["val_accuracy"] == metrics["pretrained_probe_accuracy"] == 0.25
    assert "head" not in metrics
    adapted = Adapted("float32", 0, 0, probe_accuracy=None, kept_head=True)
    assert results.training_metrics(history, data_of(), 3, tiny_vit, adapted, [])["head"] == "kept"


def test_images_of_a_group_do_not_count_as_independent(tiny_vit):
    """Ten groups of four images, each all right or all wrong."""
    groups = np.repeat(np.arange(10), 4)
    right = torch.from_numpy(groups % 2 == 0)
    history = History(ROWS, start_right=~right, last_right=right)
    metrics = results.training_metrics(history, data_of(groups=groups), 8, tiny_vit, ADAPTED, [])
    expected = effective_number(right.numpy(), groups)
    assert metrics["val_independent"] == pytest.approx(expected, rel=0.01)
    assert expected < 10
    mixed = torch.arange(40) % 2 == 0  # which says more of the accuracy
    history = History(ROWS, start_right=mixed, last_right=right)
    assert metrics == results.training_metrics(
        history, data_of(groups=groups), 8, tiny_vit, ADAPTED, []
    )


def test_few_groups_of_validation_images_are_named_as_few():
    warnings = warnings_of([START], groups=np.repeat(np.arange(10), 4))
    assert warnings[0].startswith("one of 10 validation groups of images is worth 10.0 points of")


def test_warnings_are_one_text_in_the_metrics(tiny_vit):
    metrics = results.training_metrics(HISTORY, data_of(), 8, tiny_vit, ADAPTED, ["one", "another"])
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
        "before training, to compare with: val_loss 0.667, val_accuracy 0.250",
        "epoch 2 of 4: train_loss 0.333, val_loss 0.667, val_accuracy 0.500",
    ]


def warnings_of(rows, labels=(0, 0, 0, 1) * 10, groups=None):
    data = data_of(labels, groups)
    return results.training_warnings(History(rows), data)


START = {"val_accuracy": 0.4, "val_loss": 0.1}  # a probe, whose loss says nothing about the epochs


@pytest.mark.parametrize(
    ("accuracies", "losses", "train_losses", "warnings"),
    [
        ((0.5, 0.9, 0.8), (1.0, 0.5, 0.6), (1.0, 0.9, 0.8), []),
        (
            (0.5, 0.7, 0.75),
            (1.0, 0.5, 0.6),
            (1.0, 0.9, 0.8),
            ["the validation accuracy, 0.750, is not above 0.750, the fraction of"],
        ),
        (
            (0.5, 0.9, 0.8),
            (0.5, 0.5, 0.6),
            (1.0, 0.9, 0.8),
            [
                "the validation loss rose in every epoch, from 0.500 to 0.600, while the training "
                "loss fell from 1.000 to 0.800: the model overfits, try fewer train.epochs"
            ],
        ),
        (
            (0.9, 0.8, 0.8),
            (0.5, 0.6, 0.7),
            (1.0, 1.5, 1.2),
            [
                "the validation loss rose in every epoch, from 0.500 to 0.700, and the training "
                "loss from 1.000 to 1.200: try a tenth of train.lr"
            ],
        ),
        ((0.9, 0.8, 0.8), (0.5, 0.4, 0.6), (1.0, 0.9, 0.8), []),
        ((0.9, 0.8), (0.5, 0.6), (1.0, 0.9), []),  # too few epochs to tell
        (
            (0.6, 0.5, 0.5),
            (0.5, 0.6, 0.7),
            (1.0, 0.9, 0.8),
            ["the validation accuracy, 0.500", "the validation loss rose"],
        ),
    ],
)
def test_what_was_seen_of_a_training_that_did_not_work_is_told(
    accuracies, losses, train_losses, warnings
):
    rows = [START]
    for accuracy, loss, train_loss in zip(accuracies, losses, train_losses, strict=True):
        rows.append(
            {
                "val_accuracy": accuracy,
                "val_loss": loss,
                "train_loss": train_loss,
                "train_accuracy": 0.9,
            }
        )
    found = warnings_of(rows)
    assert len(found) == len(warnings)
    for warning, start in zip(found, warnings, strict=True):
        assert warning.startswith(start)


@pytest.mark.parametrize(
    ("probe", "reached", "warned"),
    [
        (0.99, 0.63, True),
        (0.99, 0.80, False),
        (0.60, 0.50, False),  # the probe is no better: the images may say nothing
    ],
)
def test_augmented_images_that_are_not_learned_although_a_probe_is_right_are_told(
    probe, reached, warned
):
    epoch = {"val_accuracy": 0.9, "val_loss": 0.3, "train_loss": 0.7, "train_accuracy": reached}
    rows = [{"val_accuracy": probe, "val_loss": 0.1}, epoch, epoch | {"train_accuracy": 0.4}]
    found = warnings_of(rows, labels=(0, 1) * 20)
    expected = (
        "training reached an accuracy of 0.630 on augmented training images, where a guess has "
        "0.500 and a linear probe has 0.990 on validation images as they are: augmentation "
        "(mirroring, mixup, dropped tokens) changes them too much, or train.lr is too high"
    )
    assert found == [expected] * warned


def test_few_validation_images_are_told_what_one_of_them_is_worth():
    (warning,) = warnings_of([START | {"val_accuracy": 0.9}], labels=(0, 1) * 8)
    assert warning.startswith("one of 16 validation images is worth 6.2 points of accuracy")
