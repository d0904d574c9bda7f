"""The history of a training, and the choice between its start and its end."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

Row = dict[str, float]

# Of the test, one-sided. Adaptation rarely does harm, and few validation images often say that it
# does where test images say the contrary (docs/benchmarks.md).
LEVEL = 0.01
RESAMPLES = 9999  # of the test


@dataclass
class History:
    """A row of numbers for each epoch, and what it takes to go back to the start.

    Epoch 0 is the start, a linear probe. The last epoch is kept, unless the start is clearly better
    on the validation images. A choice among all epochs would mostly take a lucky one
    (docs/benchmarks.md compares rules).

    Attributes:
        rows: epoch, train_loss, train_accuracy, lr, val_loss and val_accuracy of each epoch.
        start_state: the trainable parameters of the start, by name, on the CPU.
        start_right: whether the start predicts each validation image correctly, (M,).
        last_right: the same after the last epoch so far.
        keeps_start: whether the start is kept; known when the training is finished.
        probe_c: inverse L2 strength of the probe (scikit-learn's C); 0 for a head of zeros.
    """

    rows: list[Row] = field(default_factory=list)
    start_state: dict[str, Tensor] = field(default_factory=dict)
    start_right: Tensor = field(default_factory=lambda: torch.empty(0))
    last_right: Tensor = field(default_factory=lambda: torch.empty(0))
    keeps_start: bool = False
    probe_c: float | None = None

    @property
    def epochs(self) -> int:
        """Epochs that are done, without epoch 0."""
        return max(0, len(self.rows) - 1)

    @property
    def kept_epoch(self) -> int:
        """Whose weights the model has; during the training, those of the last epoch so far."""
        return 0 if self.keeps_start else self.epochs

    @property
    def kept(self) -> Row:
        """The row of the kept epoch."""
        return self.rows[self.kept_epoch]

    def add(self, row: Row, right: Tensor) -> None:
        """Append the row of an epoch.

        Args:
            right: whether each validation image is predicted correctly, (M,).
        """
        self.rows.append({"epoch": len(self.rows), **row})
        self.last_right = right


class Score(NamedTuple):
    """What logits of N images are worth.

    Attributes:
        right: whether each image is predicted correctly, (N,).
        loss: mean cross-entropy (nats); every image counts the same.
    """

    right: Tensor
    loss: float

    @property
    def accuracy(self) -> float:
        return self.right.double().mean().item()


def score(logits: Tensor, labels: Tensor) -> Score:
    """Of logits (N, K) and labels (N,)."""
    return Score(logits.argmax(1) == labels, F.cross_entropy(logits, labels).item())


def is_clearly_better(
    right: Tensor,
    other_right: Tensor,
    weights: NDArray[np.float64],
    groups: NDArray[np.int64],
    rng: np.random.Generator,
) -> bool:
    """Whether more images are predicted correctly, by more than chance.

    A sign-flip test (Fisher 1935) of the groups in which one of two models predicts more images
    correctly. Where each image is a group and all images weigh the same, it is McNemar's test.

    Args:
        right: of a model, (M,).
        other_right: of the other model, (M,).
        weights: what each image counts, (M,).
        groups: the number of the group of each image, (M,).
    """
    of_images = (right.double() - other_right.double()).numpy() * weights
    _, group = np.unique(groups, return_inverse=True)
    differences = np.bincount(group, weights=of_images)
    differences = differences[differences != 0]
    signs = rng.choice([-1.0, 1.0], size=(RESAMPLES, len(differences)))
    sums_by_chance = signs @ differences
    # Rounding must not separate equal sums.
    as_large = sums_by_chance >= differences.sum() - 1e-9
    p_value = (1 + as_large.sum()) / (1 + RESAMPLES)
    return bool(p_value < LEVEL)


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the trainable parameters, by name, on the CPU."""
    return {
        name: parameter.detach().cpu().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
