"""The history of a training, and the choice of its best epoch."""

from dataclasses import dataclass, field

from torch import Tensor, nn

Row = dict[str, float]


@dataclass
class History:
    """A row of numbers for each epoch, and the weights of the best epoch.

    Epoch 0 is the start, a linear probe. The best epoch has the highest validation accuracy; among
    equal ones, the lowest validation loss; among equal ones again, it is the first.

    Attributes:
        rows: epoch, train_loss, train_accuracy, lr, val_loss and val_accuracy of each epoch.
        best_state: the trainable parameters after the best epoch, by name, on the CPU.
        probe_c: inverse L2 strength of the probe (scikit-learn's C); 0 for a head of zeros.
    """

    rows: list[Row] = field(default_factory=list)
    best_epoch: int = 0
    best_state: dict[str, Tensor] = field(default_factory=dict)
    probe_c: float | None = None

    @property
    def epochs(self) -> int:
        """Epochs that are done, without epoch 0."""
        return len(self.rows) - 1

    @property
    def best(self) -> Row:
        """The row of the best epoch."""
        return self.rows[self.best_epoch]

    def add(self, row: Row, model: nn.Module) -> None:
        """Append the row of an epoch. If it is the best so far, keep the model's weights."""
        epoch = len(self.rows)
        self.rows.append({"epoch": epoch, **row})
        if epoch == 0 or _is_better(row, self.best):
            self.best_epoch = epoch
            self.best_state = trainable_state(model)


def _is_better(row: Row, best: Row) -> bool:
    if row["val_accuracy"] != best["val_accuracy"]:
        return row["val_accuracy"] > best["val_accuracy"]
    return row["val_loss"] < best["val_loss"]


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the trainable parameters, by name, on the CPU."""
    return {
        name: parameter.detach().cpu().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
