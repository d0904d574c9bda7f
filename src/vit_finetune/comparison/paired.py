"""Two models on the same images: is the difference of their accuracies more than chance?"""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from vit_finetune.intervals import LEVEL, sign_test

POWER = 0.8
CLOSE = 1e-9  # to the estimate, where the score is 0


class Pairs(NamedTuple):
    """How many images the models A and B classify correctly.

    Attributes:
        gained: wrong in A and right in B.
        lost: right in A and wrong in B.
    """

    both_right: int
    gained: int
    lost: int
    both_wrong: int

    @property
    def n(self) -> int:
        return sum(self)

    @property
    def changed(self) -> int:
        return self.gained + self.lost

    @property
    def difference(self) -> float:
        """Accuracy of B minus that of A."""
        return (self.gained - self.lost) / self.n


def count_pairs(right_a: Sequence[bool], right_b: Sequence[bool]) -> Pairs:
    """Whether each image is classified correctly by A, and by B -> counts."""
    answers = list(zip(right_a, right_b, strict=True))
    return Pairs(
        both_right=answers.count((True, True)),
        gained=answers.count((False, True)),
        lost=answers.count((True, False)),
        both_wrong=answers.count((False, False)),
    )


def group_changes(
    right_a: Sequence[bool], right_b: Sequence[bool], groups: Sequence[Hashable]
) -> list[int]:
    """How many more images of each group B classifies correctly than A."""
    changes: dict[Hashable, int] = {}
    for a, b, group in zip(right_a, right_b, groups, strict=True):
        changes[group] = changes.get(group, 0) + b - a
    return list(changes.values())


def exact_test(changes: Sequence[int]) -> float:
    """The two-sided p-value of an exact sign-flip test (Fisher 1935) of the changes of groups: if A
    and B are equally accurate, each group is as likely gained as lost by as many images.

    Where each group is one image, it is the exact McNemar test.
    """
    sizes = [abs(change) for change in changes if change]
    chances = np.ones(1)  # of each number of images gained
    for size in sizes:
        more = np.zeros(len(chances) + size)
        more[:-size] += chances / 2
        more[size:] += chances / 2
        chances = more
    fewer = (sum(sizes) - abs(sum(changes))) // 2
    return min(1.0, 2 * float(chances[: fewer + 1].sum()))


def tango_interval(pairs: Pairs, effective: float | None = None) -> tuple[float, float]:
    """95 % interval of `pairs.difference` by the score method of Tango (1998, Statistics in
    Medicine 17:891). It stays inside [-1, 1], and no changed image does not make it empty.

    Its ends are the differences at which the score statistic reaches the normal quantile.

    Args:
        effective: how many independent images tell as much as these (`effective_number`); None:
            as many as there are.
    """
    from scipy.optimize import brentq
    from scipy.special import ndtri

    n = pairs.n if effective is None else effective
    gained = pairs.gained * n / pairs.n
    lost = pairs.lost * n / pairs.n
    z = float(ndtri((1 + LEVEL) / 2))

    def beyond_quantile(difference: float) -> float:
        """Above 0 where the difference is outside of the interval."""
        linear = (2 * n - gained + lost) * difference - gained - lost
        constant = -lost * difference * (1 - difference)
        root = math.sqrt(max(0.0, linear**2 - 8 * n * constant))
        losing = (root - linear) / (4 * n)  # its probability, estimated under this difference
        variance = 2 * losing + difference * (1 - difference)
        return n * (pairs.difference - difference) ** 2 - z**2 * variance

    low = -1.0
    high = 1.0
    if pairs.lost < pairs.n:
        low = brentq(beyond_quantile, -1, pairs.difference - CLOSE, xtol=1e-12)
    if pairs.gained < pairs.n:
        high = brentq(beyond_quantile, pairs.difference + CLOSE, 1, xtol=1e-12)
    return low, high


def smallest_difference(changed: int, n: int) -> float | None:
    """The smallest true difference that n images show with a probability of POWER, if `changed` of
    them change: then the exact test has p < 0.05, in the direction of the difference.

    None where even `changed` images in one direction are too few for that (below 6).
    """
    from scipy.special import bdtri

    needed = changed // 2
    while needed <= changed and sign_test(needed, changed - needed) >= 1 - LEVEL:
        needed += 1
    if needed > changed:
        return None
    # of a changed image to go in that direction, so that `needed` of them do
    probability = float(bdtri(needed - 1, changed, 1 - POWER))
    return (2 * probability - 1) * changed / n


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number (Holm 1979), in the same order: to call those below
    0.05 is wrong about any of them in at most 5 % of cases."""
    corrected = [0.0] * len(p_values)
    largest = 0.0
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
