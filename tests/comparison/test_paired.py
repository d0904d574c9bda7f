"""The statistics of two models on the same images keep what their names promise."""

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binom, binomtest, norm

from vit_finetune.comparison.paired import (
    Pairs,
    count_pairs,
    exact_test,
    group_changes,
    holm,
    smallest_difference,
    tango_interval,
)
from vit_finetune.intervals import effective_number, sign_test


def test_the_exact_test_is_scipys_binomial_test():
    for changed in [*range(40), 371, 5000]:
        for gained in {0, changed // 3, changed // 2, (changed + 1) // 2, changed}:
            expected = binomtest(gained, changed).pvalue if changed else 1
            assert abs(sign_test(gained, changed - gained) - expected) < 1e-12


def test_the_test_of_groups_is_mcnemars_where_each_is_one_image():
    for gained, lost in [(0, 0), (6, 1), (2, 2), (284, 117), (0, 40)]:
        changes = [1] * gained + [-1] * lost + [0] * 30
        assert exact_test(changes) == pytest.approx(sign_test(gained, lost), rel=1e-9)


@pytest.mark.parametrize("changes", [[3, 1, -1, 5], [-2, -2, 7, 0, 1, 1], [4], [-3, 3]])
def test_the_test_of_groups_counts_the_exchanges_that_differ_as_much(changes):
    as_much = 0
    exchanges = list(itertools.product((-1, 1), repeat=len(changes)))
    for signs in exchanges:
        as_much += abs(np.dot(signs, changes)) >= abs(sum(changes))
    assert exact_test(changes) == pytest.approx(as_much / len(exchanges))


def test_changes_are_counted_in_each_group():
    right_a = [True, False, False, True, True]
    right_b = [True, True, True, False, True]
    assert group_changes(right_a, right_b, ["x", "y", "y", "z", "y"]) == [0, 2, -1]


def test_the_interval_of_groups_covers_the_true_difference_and_that_of_images_does_not():
    """Groups of ten images that change together: the effective number is that of groups."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(80), 10)
    covered = {"groups": 0, "images": 0}
    for _ in range(300):
        values = np.repeat(rng.choice([-1, 0, 1], p=[0.05, 0.85, 0.1], size=80), 10)
        gained = int(np.sum(values == 1))
        lost = int(np.sum(values == -1))
        pairs = Pairs(800 - gained - lost, gained, lost, 0)
        for name, effective in (("groups", effective_number(values, groups)), ("images", None)):
            low, high = tango_interval(pairs, effective)
            covered[name] += low <= 0.05 <= high
    assert covered["groups"] / 300 > 0.95 - 3 * np.sqrt(0.05 * 0.95 / 300)
    assert covered["images"] / 300 < 0.7


def test_answers_that_are_exchanged_at_random_seldom_differ():
    """p < 0.05 in at most 5 % of 200 exchanges, within the binomial interval of that."""
    rng = np.random.default_rng(0)
    right_a = rng.random(2000) < 0.95
    right_b = np.where(rng.random(2000) < 0.05, ~right_a, right_a)
    significant = 0
    for _ in range(200):
        exchanged = rng.random(2000) < 0.5
        first = np.where(exchanged, right_b, right_a)
        second = np.where(exchanged, right_a, right_b)
        pairs = count_pairs(first.tolist(), second.tolist())
        significant += sign_test(pairs.gained, pairs.lost) < 0.05
    assert significant <= binom.ppf(0.975, 200, 0.05)


@pytest.mark.parametrize("n", [50, 500, 10_000])
@pytest.mark.parametrize(("gained", "lost"), [(0.05, 0.05), (0.08, 0.02), (0.02, 0.01)])
def test_the_interval_covers_the_true_difference(n, gained, lost):
    probabilities = [0.9 - lost, gained, lost, 0.1 - gained]
    drawn = np.random.default_rng(0).multinomial(n, probabilities, size=1000)
    covered = 0
    for counts in drawn.tolist():
        low, high = tango_interval(Pairs(*counts))
        covered += low <= gained - lost <= high
    assert covered / 1000 > 0.95 - 3 * np.sqrt(0.05 * 0.95 / 1000)


@pytest.mark.parametrize("counts", [(36, 12, 2, 0), (9301, 291, 128, 280), (0, 0, 5, 3)])
def test_the_ends_of_the_interval_are_where_the_score_reaches_the_normal_quantile(counts):
    pairs = Pairs(*counts)
    n = pairs.n
    for end in tango_interval(pairs):

        def minus_likelihood(lost, end=end):
            rest = n - pairs.changed
            return -(
                pairs.gained * np.log(lost + end)
                + pairs.lost * np.log(lost)
                + rest * np.log(1 - 2 * lost - end)
            )

        bounds = (max(0, -end), (1 - end) / 2)
        lost = minimize_scalar(
            minus_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-12}
        ).x
        score = n * (pairs.difference - end) / np.sqrt(n * (2 * lost + end - end**2))
        assert abs(score) == pytest.approx(norm.ppf(0.975), abs=1e-4)


def test_the_interval_is_mirrored_and_has_a_width_at_the_limits():
    low, high = tango_interval(Pairs(80, 12, 3, 5))
    assert tango_interval(Pairs(80, 3, 12, 5)) == pytest.approx((-high, -low))
    z = norm.ppf(0.975)
    width = z**2 / (100 + z**2)
    assert tango_interval(Pairs(90, 0, 0, 10)) == pytest.approx((-width, width))
    assert tango_interval(Pairs(0, 5, 0, 0))[1] == 1
    assert tango_interval(Pairs(0, 0, 5, 0))[0] == -1


@pytest.mark.parametrize("changed", [6, 40, 371])
def test_the_smallest_difference_is_found_in_four_of_five_cases(changed):
    difference = smallest_difference(changed, 1000)
    gained = (1 + difference * 1000 / changed) / 2
    counts = range(changed // 2, changed + 1)
    power = sum(
        binom.pmf(count, changed, gained)
        for count in counts
        if sign_test(count, changed - count) < 0.05
    )
    assert power == pytest.approx(0.8, abs=1e-9)


def test_fewer_than_six_changed_images_show_no_difference():
    assert smallest_difference(5, 1000) is None
    assert smallest_difference(0, 1000) is None


def test_holms_correction_by_hand():
    assert holm([0.04, 0.01, 0.03, 0.5]) == pytest.approx([0.09, 0.04, 0.09, 0.5])
