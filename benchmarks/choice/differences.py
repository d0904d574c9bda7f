"""Differences between rows of benchmarks/choice/rows.csv, for the tables of tools/reference.py.

Differences are paired by seed and test image. The 95 % interval of a set is over both, that of a
mean over sets is over the sets.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vit_finetune.core.files import read_csv
from vit_finetune.intervals import mean

TABLE = Path(__file__).with_name("rows.csv")
NORMAL = 1.96


def read_runs():
    """(training, choice) -> set -> seed -> row, with `right` as (N,) of 0 and 1."""
    runs = {}
    for row in read_csv(TABLE):
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(row["right"]), np.uint8))
        row["right"] = bits[: int(row["n"])].astype(float)
        of_sets = runs.setdefault((row["training"], row["choice"]), {})
        of_sets.setdefault(row["set"], {})[row["seed"]] = row
    return runs


def interval(differences):
    """Mean of differences (seeds, images) and half of its 95 % interval. The variance is the sum of
    those over seeds and over images, minus that of the residual, which both contain."""
    seeds, images = differences.shape
    by_image = differences.mean(axis=0)
    variance = by_image.var(ddof=1) / images
    if seeds > 1:
        by_seed = differences.mean(axis=1)
        residual = differences - by_image - by_seed[:, None] + differences.mean()
        freedom = (seeds - 1) * (images - 1)
        noise = (residual**2).sum() / freedom / (seeds * images)
        variance += max(0.0, by_seed.var(ddof=1) / seeds - noise)
    return differences.mean(), NORMAL * variance**0.5


@dataclass(frozen=True)
class Compared:
    """Two ways on one data set.

    Attributes:
        pairs: the rows of the first way and of the second, of each seed that has both.
        difference: of accuracy, the first minus the second.
        margin: half of its 95 % interval.
    """

    pairs: list[tuple[dict[str, Any], dict[str, Any]]]
    difference: float
    margin: float

    @property
    def nll(self):
        """The same difference of the calibrated negative log-likelihood, in nats."""
        return np.mean([float(one["nll"]) - float(other["nll"]) for one, other in self.pairs])


def compare(first, second):
    """Set -> Compared, of the sets that have a seed with both."""
    compared = {}
    for name in first:
        seeds = [seed for seed in first[name] if seed in second.get(name, {})]
        if not seeds:
            continue
        pairs = [(first[name][seed], second[name][seed]) for seed in seeds]
        differences = np.stack([one["right"] - other["right"] for one, other in pairs])
        compared[name] = Compared(pairs, *interval(differences))
    return compared


def in_points(first, second):
    """The mean difference over sets, and on how many sets the first is clearly better and worse."""
    sets = compare(first, second).values()
    points = mean([100 * found.difference for found in sets])
    better = sum(found.difference > found.margin for found in sets)
    worse = sum(found.difference < -found.margin for found in sets)
    return f"{points.mean:+.2f} ± {points.high - points.mean:.2f}, {better} / {worse}"


def in_nats(first, second):
    """The mean difference over sets of the calibrated negative log-likelihood."""
    nats = mean([found.nll for found in compare(first, second).values()])
    return f"{nats.mean:+.3f} ± {nats.high - nats.mean:.3f}"
