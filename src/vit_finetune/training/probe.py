"""A linear probe: the logistic regression on frozen features that training starts from, and must
not fall below."""

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
Score = tuple[float, float]
# C from 1e-5 to 100, on features of unit variance
STRENGTHS = tuple(10.0 ** (half / 2) for half in range(-10, 5))
START = 1e-3  # C of the head that training starts from: docs/benchmarks.md
# strengths, all worse than the best in accuracy and in loss: then no weaker one is tried
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
    def of(cls, weight: Array, bias: Array, c: float) -> "Probe":
        """From scikit-learn's arrays, which may be transposed: processes share memory as it
        lies."""
        weights, biases = (
            torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
            for array in (weight, bias)
        )
        return cls(weights, biases, torch.tensor([c], dtype=torch.float64))

    @classmethod
    def zeros(cls, classes: int, features: int) -> "Probe":
        return cls(torch.zeros(classes, features), torch.zeros(classes), torch.zeros(1).double())

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
    """Logistic regressions on features that are centred and brought to unit variance by one common
    factor.

    Args:
        train: features (N, D) and labels (N,).
        val: features (M, D) and labels (M,).
        c: inverse L2 strength; `auto`: one of STRENGTHS.

    Returns:
        The one with the best accuracy on the validation images, of equal ones that with the lower
        loss. And the one to start training from (LP-FT, Kumar et al., arXiv:2202.10054), with C =
        START: a head that fits the training images to the last one has large weights, and training
            would shrink them at the cost of the blocks.
    """
    features = train[0].double().numpy()
    centre = features.mean(axis=0)
    features -= centre
    spread = float(features.std()) or 1.0
    regression = LogisticRegression(
        max_iter=1000,
        warm_start=True,
        class_weight=None if class_weights == "none" else class_weights,
    )
    tried: list[tuple[Score, Probe]] = []
    for strength in STRENGTHS if c == "auto" else (c,):
        regression.set_params(C=strength).fit(features / spread, train[1].numpy())
        weight, bias = _two_sided(regression.coef_, regression.intercept_)
        probe = Probe.of(weight / spread, bias - weight @ centre / spread, strength)
        tried.append((score(probe.logits(val[0]), val[1]), probe))
        accuracy, loss = (
            max(values) for values in zip(*(found for found, _ in tried), strict=True)
        )
        if strength > START and all(
            found[0] < accuracy and found[1] < loss for found, _ in tried[-PATIENCE:]
        ):
            break
    start = min(tried, key=lambda pair: abs(math.log(pair[1].c.item() / START)))
    return max(tried, key=lambda pair: pair[0])[1], start[1]


def _two_sided(weight: Array, bias: Array) -> tuple[Array, Array]:
    """A row for each class; of two classes scikit-learn keeps one, the log-odds of the second."""
    if len(weight) > 1:
        return weight, bias
    return np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2


def score(logits: Tensor, labels: Tensor) -> Score:
    """Accuracy and negative mean cross-entropy: the larger is the better, and accuracy decides
    first."""
    accuracy = (logits.argmax(1) == labels).double().mean().item()
    return accuracy, -F.cross_entropy(logits, labels).item()
