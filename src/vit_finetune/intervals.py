"""95 % intervals of fractions, means, and sums of means; a sign test; whether a model is above
chance."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
SHUFFLES = 1000  # of a permutation test


def wilson(hits: float, n: float) -> tuple[float, float]:
    """Interval of a fraction, hits / n (Wilson 1927). It stays inside [0, 1], and 0 or n hits do
    not make it empty. Of dependent observations, n is their effective number.

    Raises:
        ValueError: n is 0, or there are more hits than n.
    """
    from scipy.special import ndtri

    if not 0 <= hits <= n or n <= 0:
        raise ValueError(f"{hits} hits of {n}: n must be above 0, and hits must be 0 to n")
    z = float(ndtri((1 + LEVEL) / 2))
    p = hits / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low = 0.0 if hits == 0 else float(centre - half)
    high = 1.0 if hits == n else float(centre + half)
    return low, high


def above_chance(
    labels: NDArray[Any], predicted: NDArray[Any], groups: NDArray[Any] | None = None
) -> bool:
    """Whether predictions (N,) agree with labels (N,) more often than by chance, by a permutation
    test: with shuffled labels they rarely agree as often.

    If one class is nearly all, a model that finds the rare ones is not much more accurate than one
    that always names it. But with shuffled labels it would find none of them.

    Args:
        groups: (N,), as of `fraction`. Images of a group must not count as independent, so the
            interval of the accuracy must lie above chance as well.
    """
    if groups is not None and len(np.unique(groups)) < len(groups):
        accuracy = fraction(labels == predicted, groups)
        if accuracy.low <= chance_agreement(labels, predicted):
            return False
    rng = np.random.default_rng(0)  # the same predictions get the same answer
    right = np.sum(labels == predicted)
    as_often = 1  # the labels as they are count as one of the shuffles (Phipson & Smyth 2010)
    for _ in range(SHUFFLES - 1):
        as_often += int(np.sum(rng.permutation(labels) == predicted) >= right)
    return as_often / SHUFFLES < (1 - LEVEL) / 2


def chance_agreement(labels: NDArray[Any], predicted: NDArray[Any]) -> float:
    """The accuracy that predictions of these frequencies have with shuffled labels, in the mean
    (Cohen 1960)."""
    chance = 0.0
    for value in np.unique(labels):
        chance += float(np.mean(labels == value) * np.mean(predicted == value))
    return chance


class Interval(NamedTuple):
    """Mean of n values with its interval."""

    mean: float
    low: float
    high: float
    n: int


def fraction(values: NDArray[Any], groups: NDArray[Any] | None = None) -> Interval:
    """Fraction of ones among values (n,) of 0 and 1, with Wilson's interval.

    Args:
        groups: (n,); values with equal numbers may depend on each other. None: no two do.
    """
    hits = float(np.sum(values))
    n = len(values)
    size = float(n) if groups is None else effective_number(values, groups)
    low, high = wilson(hits / n * size, size)
    return Interval(hits / n, low, high, n)


def effective_number(values: NDArray[Any], groups: Any) -> float:
    """How many independent values tell as much of their mean as these (n,), of which those of a
    group (n,) may depend on each other.

    The variance of the mean is taken from the differences of the groups, and Student's t takes
    the place of the normal distribution, because groups may be few (Korn and Graubard 1998). If all
    values are equal, that tells nothing of how a group depends, and a group counts as one.
    """
    from scipy.special import ndtri, stdtrit

    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    group = np.unique(groups, return_inverse=True)[1].ravel()
    count = int(group.max()) + 1
    if count == n:
        return float(n)
    if count == 1 or np.ptp(values) == 0:
        return float(count)
    excess = np.bincount(group, weights=values - values.mean())  # of each group
    variance = count / (count - 1) * float(np.sum(excess**2)) / n**2
    independent = float(values.var()) / n
    effective = n * min(1.0, independent / variance) if variance else float(n)
    upper = (1 + LEVEL) / 2
    return effective * float(ndtri(upper) / stdtrit(count - 1, upper)) ** 2


def sign_test(positive: int, negative: int) -> float:
    """The two-sided p-value of the exact sign test: by chance, each change is as likely positive as
    negative. Of the images that only one of two models classifies correctly, it is the exact test
    of McNemar (1947)."""
    from scipy.special import betainc

    if positive == negative:
        return 1.0
    fewer = min(positive, negative)
    more = max(positive, negative)
    # twice the probability of at most `fewer` changes of this sign, as the binomial tail
    return min(1.0, 2 * float(betainc(more, fewer + 1, 0.5)))


def mean(values: NDArray[Any]) -> Interval:
    """Mean of independent values (n,) with Student's t interval (Student 1908). For paired
    measurements, give their differences.

    If the values are few and skewed, it holds less often than LEVEL (`benchmarks/intervals.py`).
    Its ends may lie outside the range of the values. If all values are equal it has no width, which
    says only that no two of them differed. For ones and zeros take `fraction`.

    Raises:
        ValueError: fewer than two values, which say nothing of their spread, or one that is not
            finite.
    """
    from scipy.special import stdtrit

    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(
            f"an interval needs a list of two or more finite values; got shape {values.shape}"
        )
    n = len(values)
    centre = float(values.mean())
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2) * values.std(ddof=1) / np.sqrt(n))
    return Interval(centre, centre - half, centre + half, n)


def sum_of_means(groups: Sequence[NDArray[Any]]) -> Interval:
    """Sum of the means of independent groups, each (n_g,), with Welch's interval (Welch 1947); n is
    the sum of the n_g. For one group it equals `mean`.

    Raises:
        ValueError: as of `mean`, for each group.
    """
    from scipy.special import stdtrit

    centre = sum(mean(values).mean for values in groups)
    variances = [np.var(values, ddof=1) / len(values) for values in groups]  # of the means
    variance = float(np.sum(variances))
    freedom = 1.0
    if variance:
        terms = zip(variances, groups, strict=True)
        freedom = variance**2 / sum(v**2 / (len(values) - 1) for v, values in terms)
    half = float(stdtrit(freedom, (1 + LEVEL) / 2) * np.sqrt(variance))
    return Interval(centre, centre - half, centre + half, sum(map(len, groups)))
