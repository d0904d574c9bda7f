"""95 % intervals: of a proportion, and of a mean."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Interval of a proportion (Wilson 1927): it stays inside [0, 1] and holds at 0 and n hits.

    Raises:
        ValueError: n is 0, or there are more hits than n.
    """
    from scipy.stats import binomtest

    interval = binomtest(hits, n).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def above_chance(labels: NDArray[Any], predicted: NDArray[Any]) -> bool:
    """Whether predictions (N,) are right clearly more often than a constant guess of the most
    frequent label (N,)."""
    hits, n = int(np.sum(labels == predicted)), len(labels)
    return wilson(hits, n)[0] > np.unique(labels, return_counts=True)[1].max() / n


class Interval(NamedTuple):
    """Mean of n values with its interval."""

    mean: float
    low: float
    high: float
    n: int


def share(right: NDArray[Any]) -> Interval:
    """Share of ones among values (n,) of 0 and 1: Student's has no width where all are the same."""
    return Interval(float(np.mean(right)), *wilson(int(np.sum(right)), len(right)), len(right))


def mean(values: NDArray[Any]) -> Interval:
    """Mean of values (n,) with Student's t interval (Student 1908); paired if the values are
    differences.

    The values are independent. If few and skewed, it holds less often than LEVEL
    (`benchmarks/intervals.py`). The ends may lie outside the range of the values. Equal values give
    a width of zero, which says only that no two of them differed; for ones and zeros take `share`.

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
    n, centre = len(values), float(values.mean())
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2) * values.std(ddof=1) / np.sqrt(n))
    return Interval(centre, centre - half, centre + half, n)


def sum_of_means(groups: Sequence[NDArray[Any]]) -> Interval:
    """Sum of the means of independent groups, each (n_g,), with Welch's interval (Welch 1947); n is
    the sum of the n_g.

    Of one group it is `mean`.

    Raises:
        ValueError: as of `mean`, for each group.
    """
    from scipy.special import stdtrit

    means = [mean(values).mean for values in groups]
    variances = np.array([np.var(values, ddof=1) / len(values) for values in groups])
    centre, variance = sum(means), float(variances.sum())
    freedom = (
        variance**2 / sum(v**2 / (len(g) - 1) for v, g in zip(variances, groups, strict=True))
        if variance
        else 1
    )
    half = float(stdtrit(freedom, (1 + LEVEL) / 2) * np.sqrt(variance))
    return Interval(centre, centre - half, centre + half, sum(map(len, groups)))
