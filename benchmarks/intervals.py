"""How often a 95 % interval of few values holds their true mean: `python benchmarks/intervals.py`

Each cell: the fraction of repetitions whose interval holds the mean, and the mean width in standard
deviations of the data. Student's t is the package's own `intervals.mean`. The others, each of 2,000
resamples, which the samples of a batch share:

- percentile (Efron 1979): quantiles of the resamples' means;
- bootstrap-t (Efron 1981; Hall 1988): quantiles of their t statistics; resamples without spread are
  left out;
- BCa (Efron 1987): percentile, corrected for bias and acceleration.
"""

import argparse
import math
from collections import defaultdict

import numpy as np
from scipy.special import ndtr, ndtri

from vit_finetune.intervals import LEVEL, mean

SIZES = (8, 16, 48, 200)
RESAMPLES = 2000
BATCH = 250
TAILS = np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
# Draws values of a shape, their true mean and standard deviation.
DATA = {
    "normal": (lambda rng, shape: rng.normal(size=shape), 0, 1),
    "uniform": (lambda rng, shape: rng.random(shape), 1 / 2, 12**-0.5),
    "exponential": (lambda rng, shape: rng.exponential(size=shape), 1, 1),
    "lognormal": (
        lambda rng, shape: rng.lognormal(size=shape),
        np.exp(0.5),
        np.sqrt(np.exp(2) - np.exp(1)),
    ),
    "beta(0.5, 3)": (
        lambda rng, shape: rng.beta(0.5, 3, shape),
        1 / 7,
        np.sqrt(1.5 / 3.5**2 / 4.5),
    ),
    "beta(4, 2) − beta(1, 2)": (
        lambda rng, shape: rng.beta(4, 2, shape) - rng.beta(1, 2, shape),
        1 / 3,
        np.sqrt(8 / 36 / 7 + 2 / 9 / 4),
    ),
    "−1, 0, 1: 3, 90, 7 %": (
        lambda rng, shape: rng.choice([-1, 0, 1], shape, p=[0.03, 0.9, 0.07]),
        0.04,
        0.0984**0.5,
    ),
    "0, 1: 50, 50 %": (lambda rng, shape: rng.random(shape) < 0.5, 0.5, 0.5),
    "0, 1: 10, 90 %": (lambda rng, shape: rng.random(shape) < 0.9, 0.9, 0.3),
}


def resampled(centred, rng):
    """Means and standard deviations (ddof=1) of resamples, (R, RESAMPLES), of samples (R, n) with
    mean 0."""
    n = centred.shape[1]
    drawn = rng.integers(n, size=(RESAMPLES, n)) + n * np.arange(RESAMPLES)[:, None]
    times = np.bincount(drawn.ravel(), minlength=RESAMPLES * n).reshape(RESAMPLES, n) / n
    means = centred @ times.T
    squares = centred**2 @ times.T
    return means, np.sqrt(np.maximum(squares - means**2, 0) * n / (n - 1))


def student(samples):
    return np.array([mean(values)[1:3] for values in samples]).T


def percentile(means):
    return np.quantile(means, TAILS, axis=1)


def studentised(means, spreads, error, n):
    """error (R,): standard error of each sample's mean. A sample whose resamples all lack spread
    has no width."""
    spread = spreads > 1e-6 * error[:, None]
    t = np.where(spread, means, np.nan) * np.sqrt(n) / np.where(spread, spreads, 1)
    t[~spread.any(axis=1)] = 0
    low, high = np.nanquantile(t, TAILS, axis=1)
    return np.stack([-high, -low]) * error


def bca(means, centred):
    """The acceleration from the jackknife, which for a mean is a sixth of the skewness, over the
    root of n."""
    squares = (centred**2).sum(axis=1)
    acceleration = (centred**3).sum(axis=1) / (6 * np.where(squares > 0, squares, 1) ** 1.5)
    below = (means < -1e-12).mean(axis=1) / 2 + (means <= 1e-12).mean(axis=1) / 2
    bias = ndtri(np.clip(below, 1 / RESAMPLES, 1 - 1 / RESAMPLES))
    ordered = np.sort(means, axis=1)
    ends = []
    for tail in TAILS:
        z = bias + ndtri(tail)
        place = np.rint(ndtr(bias + z / (1 - acceleration * z)) * (RESAMPLES - 1)).astype(int)
        ends.append(np.take_along_axis(ordered, place[:, None], axis=1)[:, 0])
    return np.stack(ends)


def intervals_of(samples, rng):
    """Name of each method -> low and high, (2, R), of samples (R, n)."""
    centre = samples.mean(axis=1)
    n = samples.shape[1]
    centred = samples - centre[:, None]
    means, spreads = resampled(centred, rng)
    error = centred.std(axis=1, ddof=1) / np.sqrt(n)
    return {
        "percentile": centre + percentile(means),
        "Student's t": student(samples),
        "bootstrap-t": centre + studentised(means, spreads, error, n),
        "BCa": centre + bca(means, centred),
    }


def simulated(draw, truth, repetitions, n, rng):
    """Name of each method -> (2,): fraction of intervals with the truth, and their mean width."""
    batches = defaultdict(list)
    for _ in range(math.ceil(repetitions / BATCH)):
        intervals = intervals_of(draw(rng, (BATCH, n)).astype(float), rng)
        for name, (low, high) in intervals.items():
            holds = (low <= truth + 1e-9) & (truth - 1e-9 <= high)
            batches[name].append((holds.mean(), (high - low).mean()))
    return {name: np.mean(values, axis=0) for name, values in batches.items()}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--repetitions", type=int, default=10_000, help="of each line (10000), in batches of 250"
    )
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    print("| values | n | percentile | Student's t | bootstrap-t | BCa |")
    print("|---|---|---|---|---|---|")
    for name, (draw, truth, deviation) in DATA.items():
        for n in SIZES:
            results = simulated(draw, truth, args.repetitions, n, rng)
            cells = []
            for coverage, width in results.values():
                cells.append(f"{coverage:.3f}, {width / deviation:.2f}")
            print(f"| {name} | {n} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
