"""A linear probe: a logistic regression on frozen features.

Training starts from one, and the best one is the accuracy that training must not fall below.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

Array = NDArray[np.float64]

# C from 1e-5 to 100, on features of unit variance, the strongest regularisation first
STRENGTHS = tuple(10.0 ** (half / 2) for half in range(-10, 5))
# C of the head that training starts from: docs/benchmarks.md
START = 1e-3
# No further C is tried after so many that are worse than the best in accuracy and in loss.
PATIENCE = 3


@dataclass(frozen=True)
class Probe:
    """A linear classifier of features: logits are `features @ weight.T + bias`.

    Attributes:
        weight: (K, D).
        bias: (K,).
        c: inverse L2 strength on features of unit variance (scikit-learn's C), (1,); 0 for a head
            of zeros.
    """

    weight: Tensor
    bias: Tensor
    c: Tensor

    @classmethod
    def zeros(cls, classes: int, features: int) -> "Probe":
        return cls(
            weight=torch.zeros(classes, features),
            bias=torch.zeros(classes),
            c=torch.zeros(1, dtype=torch.float64),
        )

    def logits(self, features: Tensor) -> Tensor:
        """(N, D) -> (N, K)."""
        return F.linear(features, self.weight, self.bias)

    def place(self, head: nn.Linear) -> None:
        """Make it the head of a model."""
        head.weight.data.copy_(self.weight)
        head.bias.data.copy_(self.bias)


def fit_probes(
    train: tuple[Tensor, Tensor],
    val: tuple[Tensor, Tensor],
    c: float | Literal["auto"],
    class_weights: Literal["none", "balanced"],
) -> tuple[Probe, Probe]:
    """Logistic regressions on features that are centred and scaled to unit variance by one factor.

    Args:
        train: features (N, D) and labels (N,).
        val: features (M, D) and labels (M,).
        c: inverse L2 strength; `auto` tries STRENGTHS.

    Returns:
        The best probe: the highest accuracy on the validation images, among equal ones the lowest
        loss. And the probe that training starts from (LP-FT, Kumar et al., arXiv:2202.10054), whose
        C is the one nearest to START: a head that fits every training image has large weights, and
        training would shrink them at the cost of the blocks.
    """
    train_features, train_labels = train
    val_features, val_labels = val
    features = train_features.double().numpy()
    centre = features.mean(axis=0)
    features -= centre
    spread = float(features.std()) or 1.0
    regression = LogisticRegression(
        max_iter=1000,
        warm_start=True,
        class_weight="balanced" if class_weights == "balanced" else None,
    )
    probes = []
    accuracies = []
    losses = []
    for strength in STRENGTHS if c == "auto" else (c,):
        regression.set_params(C=strength).fit(features / spread, train_labels.numpy())
        weight, bias = _one_row_per_class(regression.coef_, regression.intercept_)
        probe = Probe(
            weight=_as_tensor(weight / spread),
            bias=_as_tensor(bias - weight @ centre / spread),
            c=torch.tensor([strength], dtype=torch.float64),
        )
        accuracy, loss = score(probe.logits(val_features), val_labels)
        probes.append(probe)
        accuracies.append(accuracy)
        losses.append(loss)
        last_are_worse = all(
            accuracy < max(accuracies) and loss > min(losses)
            for accuracy, loss in zip(accuracies[-PATIENCE:], losses[-PATIENCE:], strict=True)
        )
        if strength > START and last_are_worse:
            break
    best = max(range(len(probes)), key=lambda index: (accuracies[index], -losses[index]))
    start = min(probes, key=lambda probe: abs(math.log(probe.c.item() / START)))
    return probes[best], start


def _one_row_per_class(weight: Array, bias: Array) -> tuple[Array, Array]:
    """Of two classes scikit-learn keeps one row, the log-odds of the second."""
    if len(weight) > 1:
        return weight, bias
    return np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2


def _as_tensor(array: Array) -> Tensor:
    # contiguous, since processes share memory in the order in which it lies
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def score(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Accuracy and mean cross-entropy (nats) of logits (N, K)."""
    accuracy = (logits.argmax(1) == labels).double().mean().item()
    loss = F.cross_entropy(logits, labels).item()
    return accuracy, loss
