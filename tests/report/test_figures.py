"""The picture of training: curves by epoch, the best epoch marked."""

import pytest
from vit_finetune.report.figures import training_curves

from tests.pictures import assert_draws


def history(epochs):
    """The accuracy on validation is highest in the third epoch."""
    return [
        {
            "epoch": e,
            "train_loss": 1 / e,
            "val_loss": 1.2 / e,
            "train_accuracy": 1 - 0.3 / e,
            "val_accuracy": 0.9 - 0.01 * abs(e - 3),
            "lr": 1e-3 / e,
        }
        for e in range(1, epochs + 1)
    ]


@pytest.mark.parametrize("epochs", [1, 4, 100])
def test_the_curves_draw_for_few_and_many_epochs(epochs):
    assert_draws(training_curves(history(epochs), "Training"))


def test_the_curves_mark_the_best_epoch_and_are_drawn_from_the_texts_of_a_csv_too():
    rows = [{key: str(value) for key, value in row.items()} for row in history(6)]
    axes = training_curves(rows, "Training").axes
    best, train, val = axes[1].lines
    assert set(best.get_xdata()) == {3}
    assert val.get_ydata() == pytest.approx([row["val_accuracy"] for row in history(6)])
    assert train.get_marker() != val.get_marker()
