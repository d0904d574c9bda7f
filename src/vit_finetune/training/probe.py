"""A linear probe: a logistic regression on frozen features.

Its accuracy is what training must not fall below. Training itself starts from a probe, too (LP-FT,
Kumar et al., arXiv:2202.10054), but from one that is regularised more strongly.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_sample_weight
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from vit_finetune.training.temperature import fit_temperature

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
ClassWeights = Literal["none", "balanced"]

# C from 1e-5 to 100, on features of unit variance, the strongest regularisation first
STRENGTHS = tuple(10.0 ** (half / 2) for half in range(-10, 5))
# C of the head that training starts from: a head that fits every training image has large weights,
# which training would shrink at the cost of the blocks (docs/benchmarks.md). A head that is trained
# alone starts from the probe.
START = 1e-3
FOLDS = 3  # of the cross-validation
PATIENCE = 2  # no further C is tried after so many that are worse than the best


@dataclass(frozen=True)
class Probe:
    """A linear classifier of features: logits are `features @ weight.T + bias`.

    Attributes:
        weight: (K, D).
        bias: (K,).
        c: inverse L2 strength on features of unit variance (scikit-learn's C), (1,); 0 for a head
            of zeros and for a kept one.
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

    @classmethod
    def of(cls, head: nn.Linear) -> "Probe":
        """The head of a model."""
        return cls(
            weight=head.weight.detach().cpu().clone(),
            bias=head.bias.detach().cpu().clone(),
            c=torch.zeros(1, dtype=torch.float64),
        )

    def logits(self, features: Tensor) -> Tensor:
        """(N, D) -> (N, K)."""
        return F.linear(features, self.weight, self.bias)

    def place(self, head: nn.Linear) -> None:
        """Make it the head of a model."""
        head.weight.data.copy_(self.weight)
        head.bias.data.copy_(self.bias)


# The matrices are small: threads of a product would mostly wait for each other.
@threadpool_limits.wrap(limits=1, user_api="blas")
def fit_probe(
    features: Tensor,
    labels: Tensor,
    c: float | Literal["auto"],
    class_weights: ClassWeights,
    seed: int,
    groups: Labels | None = None,
) -> Probe:
    """A logistic regression on features that are centred and scaled to unit variance by one factor.

    Args:
        features: of the training images, (N, D).
        labels: (N,).
        c: inverse L2 strength; `auto` takes the best in a cross-validation.
        seed: of its folds.
        groups: (N,); images with the same number are in one fold. None: each image is alone.
    """
    centre = features.double().mean(dim=0).numpy()
    centred = features.double().numpy() - centre
    spread = float(centred.std()) or 1.0
    scaled = centred / spread
    if c == "auto":
        c = cross_validated_strength(scaled, labels.numpy(), class_weights, seed, groups)
    regression = logistic_regression(class_weights).set_params(C=c)
    regression.fit(scaled, labels.numpy())
    weight, bias = _one_row_per_class(regression.coef_, regression.intercept_)
    return Probe(
        weight=_as_tensor(weight / spread),
        bias=_as_tensor(bias - weight @ centre / spread),
        c=torch.tensor([c], dtype=torch.float64),
    )


def logistic_regression(class_weights: ClassWeights) -> LogisticRegression:
    """It starts each fit from the one before it."""
    return LogisticRegression(
        max_iter=1000,
        warm_start=True,
        class_weight="balanced" if class_weights == "balanced" else None,
    )


def cross_validated_strength(
    features: Array,
    labels: Labels,
    class_weights: ClassWeights,
    seed: int,
    groups: Labels | None = None,
) -> float:
    """The one of STRENGTHS with the lowest calibrated loss on images that the regression has not
    seen.

    Each fold is left out once. Strong regularisation gives probabilities that are too low for its
    accuracy. A temperature corrects that, as it does for the trained model. Without it the
    cross-validation would take a strength that is too weak (docs/benchmarks.md). `balanced`: an
    image counts by how rare its class is.
    """
    folds = draw_folds(labels, seed, groups)
    weights = np.ones(len(labels))
    if class_weights == "balanced":
        weights = compute_sample_weight("balanced", labels)
    regressions = [logistic_regression(class_weights) for _ in range(FOLDS)]
    logits = np.zeros((len(labels), labels.max() + 1))
    is_judged = folds >= 0
    losses: list[float] = []
    for strength in STRENGTHS:
        for fold, regression in enumerate(regressions):
            seen = folds != fold
            left_out = folds == fold
            regression.set_params(C=strength).fit(features[seen], labels[seen])
            weight, bias = _one_row_per_class(regression.coef_, regression.intercept_)
            logits[left_out] = features[left_out] @ weight.T + bias
        losses.append(calibrated_loss(logits[is_judged], labels[is_judged], weights[is_judged]))
        best = int(np.argmin(losses))
        if len(losses) - 1 - best >= PATIENCE:
            break
    return STRENGTHS[best]


def calibrated_loss(logits: Array, labels: Labels, weights: Array) -> float:
    """The weighted sum of the cross-entropies of logits (N, K) at their best temperature."""
    log_probabilities = log_softmax(logits / fit_temperature(logits, labels), axis=1)
    of_labels = log_probabilities[np.arange(len(labels)), labels]
    return float(-(weights @ of_labels))


def draw_folds(labels: Labels, seed: int, groups: Labels | None = None) -> Labels:
    """The fold of each image, (N,); every class is in all folds alike, and a group in one fold.

    A regression must see every class, and every class must be left out. If a class has too few
    groups for that, the groups are ignored. An image that is the only one of its class is in fold
    -1, which is never left out.
    """
    if groups is None:
        groups = np.arange(len(labels))
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    # numbered as they come, so that their numbers do not matter
    order = np.argsort(first)
    group = np.argsort(order)[group]
    label_of_group = labels[first[order]]
    rng = np.random.default_rng(seed)
    fold_of_group = np.empty(len(first), dtype=np.int64)
    for label in np.unique(label_of_group):
        rows = rng.permutation(np.flatnonzero(label_of_group == label))
        fold_of_group[rows] = np.arange(len(rows)) % FOLDS
    for label in np.unique(labels):
        of_label = np.unique(group[labels == label])
        if len(np.unique(fold_of_group[of_label])) > 1:
            continue
        if len(first) < len(labels):
            return draw_folds(labels, seed)
        fold_of_group[of_label] = -1
    return fold_of_group[group]


def _one_row_per_class(weight: Array, bias: Array) -> tuple[Array, Array]:
    """Of two classes scikit-learn keeps one row, the log-odds of the second."""
    if len(weight) > 1:
        return weight, bias
    return np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2


def _as_tensor(array: Array) -> Tensor:
    # contiguous, since processes share memory in the order in which it lies
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
