"""95 % intervals: of a proportion, and of a mean."""

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


class Interval(NamedTuple):
    """Mean of n values with its interval."""

    mean: float
    low: float
    high: float
    n: int


def share(right: NDArray[Any]) -> Interval:
    """Share of ones among values (n,) of 0 and 1: a bootstrap of these has no width where all are the same."""
    return Interval(float(np.mean(right)), *wilson(int(np.sum(right)), len(right)), len(right))


def bootstrap(values: NDArray[Any], rng: np.random.Generator, resamples: int = 2000) -> Interval:
    """Percentile bootstrap of the mean (Efron 1979) of values (n,); paired if the values are differences.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"an interval needs a list of finite values; got shape {values.shape}")
    means = values[rng.integers(len(values), size=(resamples, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values.mean()), float(low), float(high), len(values))
