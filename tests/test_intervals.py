"""Both intervals have the textbook's ends, and hold the truth about as often as documented."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from vit_finetune import intervals
from vit_finetune.intervals import wilson

Z = 1.959963984540054  # of a 95 % interval


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("hits", "n"), [(0, 1), (1, 1), (0, 50), (50, 50), (1, 3), (5, 10), (9300, 10_000)]
)
def test_wilson_has_the_ends_of_the_formula_within_zero_and_one(hits, n):
    p = hits / n
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    low, high = wilson(hits, n)
    assert (low, high) == pytest.approx((centre - half, centre + half), abs=1e-12)
    assert 0 <= low <= p <= high <= 1


def test_the_agreement_by_chance_is_that_of_kappa():
    """Cohen (1960): kappa is the accuracy's way from the agreement by chance to 1."""
    labels = np.array([0] * 36 + [1] * 3)
    predicted = np.array([0] * 34 + [1] * 5)
    chance = intervals.chance_agreement(labels, predicted)
    accuracy = np.mean(labels == predicted)
    assert (accuracy - chance) / (1 - chance) == pytest.approx(cohen_kappa_score(labels, predicted))


@pytest.mark.parametrize(
    ("found", "wrongly", "above"), [(3, 2, True), (2, 1, True), (1, 0, False), (0, 0, False)]
)
def test_a_model_that_finds_a_rare_class_is_above_chance(found, wrongly, above):
    """As Fisher's exact test says, of 3 images among 39: it is better than naming the other 36."""
    labels = np.array([0] * 36 + [1] * 3)
    predicted = np.array([1] * wrongly + [0] * (36 - wrongly) + [1] * found + [0] * (3 - found))
    counts = [[36 - wrongly, wrongly], [3 - found, found]]
    assert (stats.fisher_exact(counts, alternative="greater").pvalue < 0.025) == above
    assert intervals.above_chance(labels, predicted) == above


def test_wilson_is_exact_at_no_and_all_hits():
    assert wilson(0, 10)[0] == 0
    assert wilson(10, 10)[1] == 1
    assert wilson(0, 10)[1] == pytest.approx(Z**2 / (10 + Z**2))  # 0.2775
    assert wilson(10, 10)[0] == pytest.approx(10 / (10 + Z**2))


def test_wilson_holds_the_true_fraction_as_often_as_it_says(rng):
    intervals = np.array([wilson(hits, 80) for hits in range(81)])
    for p in (0.02, 0.3, 0.9):
        low, high = intervals[rng.binomial(80, p, 4000)].T
        assert 0.92 < np.mean((low <= p) & (p <= high)) < 0.98


@pytest.mark.parametrize(("hits", "n"), [(0, 0), (2, 1), (-1, 5)])
def test_wilson_refuses_numbers_that_are_no_fraction(hits, n):
    with pytest.raises(ValueError, match="must "):
        wilson(hits, n)


def test_wilson_is_that_of_scipy():
    for hits, n in [(0, 7), (3, 9), (17, 17), (9_592, 10_000)]:
        theirs = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
        assert wilson(hits, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


# Fractions of images in groups


def grouped_answers(rng, groups, size, spread):
    """Right and wrong answers of groups, and the group of each.

    The accuracies of the groups vary around 0.8. The spread is the correlation of two answers of a
    group; 0: every answer is independent.
    """
    p = np.full(groups, 0.8)
    if spread:
        strength = 1 / spread - 1
        p = rng.beta(0.8 * strength, 0.2 * strength, groups)
    return (rng.random((groups, size)) < p[:, None]).ravel(), np.repeat(np.arange(groups), size)


@pytest.mark.parametrize("spread", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("groups", [15, 60])
def test_the_interval_of_grouped_images_holds_the_truth_as_often_as_it_says(rng, groups, spread):
    held = 0
    held_alone = 0
    for _ in range(600):
        right, group = grouped_answers(rng, groups, 10, spread)
        interval = intervals.fraction(right, group)
        held += interval.low <= 0.8 <= interval.high
        alone = intervals.fraction(right)
        held_alone += alone.low <= 0.8 <= alone.high
    assert held / 600 > 0.92
    if spread:
        assert held_alone / 600 < 0.75  # which is why groups count


def test_images_that_are_each_a_group_have_wilsons_interval(rng):
    right = rng.random(200) < 0.9
    assert intervals.fraction(right, rng.permutation(200)) == intervals.fraction(right)


def test_copies_of_each_image_tell_no_more_than_the_images(rng):
    right = rng.random(400) < 0.7
    copies = intervals.fraction(np.repeat(right, 5), np.repeat(np.arange(400), 5))
    once = intervals.fraction(right)
    assert copies.n == 2000
    assert copies[:3] == pytest.approx(once[:3], abs=0.001)


@pytest.mark.parametrize("value", [0, 1])
def test_of_equal_answers_a_group_counts_as_one(value):
    interval = intervals.fraction(np.full(40, value), np.repeat(np.arange(4), 10))
    assert interval[1:3] == wilson(4 * value, 4)
    alone = intervals.fraction(np.array([0, 1, 1, 1]), np.zeros(4))
    assert alone[1:3] == wilson(0.75, 1)


def test_above_chance_asks_the_interval_of_the_groups():
    labels = np.repeat([0, 1], 40)
    predicted = labels.copy()
    predicted[[*range(20), *range(40, 50)]] ^= 1  # 50 of 80 are right
    assert intervals.above_chance(labels, predicted)
    assert not intervals.above_chance(labels, predicted, np.repeat(np.arange(8), 10))


# Additional hours of sleep by one drug over the other (Student 1908); R's t.test gives the
# interval.
SLEEP = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]


def test_the_mean_of_students_own_pairs_has_the_interval_of_other_software():
    assert intervals.mean(np.array(SLEEP)) == pytest.approx(
        (1.58, 0.7001142, 2.4598858, 10), abs=1e-7
    )


@pytest.mark.parametrize("n", [2, 3, 8, 48, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_interval_of_a_mean_is_scipys(n, dtype, rng):
    values = rng.lognormal(size=n).astype(dtype)
    low, high = stats.ttest_1samp(values.astype(float), 0).confidence_interval(intervals.LEVEL)
    interval = intervals.mean(values)
    assert interval == pytest.approx((values.mean(dtype=float), low, high, n), rel=1e-12)
    assert all(type(number) is float for number in interval[:3])


# Draws of (repetitions, n) values, their true mean, and how often the interval must hold it.
COVERAGE = {
    "normal, 8": (lambda rng: rng.normal(3, 2, (3000, 8)), 3, (0.935, 0.965)),
    "uniform, 8": (lambda rng: rng.random((3000, 8)), 0.5, (0.93, 0.965)),
    "exponential, 48": (lambda rng: rng.exponential(1, (3000, 48)), 1, (0.915, 0.955)),
    "ones and zeros, 48": (lambda rng: rng.integers(0, 2, (3000, 48)), 0.5, (0.925, 0.965)),
    "lognormal, 200": (lambda rng: rng.lognormal(size=(3000, 200)), 1.6487, (0.91, 0.955)),
    # the documented weakness
    "lognormal, 8": (lambda rng: rng.lognormal(size=(3000, 8)), 1.6487, (0.8, 0.86)),
}


@pytest.mark.parametrize("data", COVERAGE)
def test_the_interval_of_a_mean_holds_it_as_often_as_documented(data, rng):
    draw, truth, (least, most) = COVERAGE[data]
    _, low, high, _ = np.array([intervals.mean(values) for values in draw(rng)]).T
    assert least < np.mean((low <= truth) & (truth <= high)) < most


VALUES = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=60).map(np.array)


@given(VALUES, st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.randoms(use_true_random=False))
def test_the_interval_of_a_mean_moves_and_scales_with_the_values_in_any_order(
    values, shift, scale, random
):
    interval = intervals.mean(values)
    assert interval.low <= interval.mean <= interval.high
    shuffled = np.array(random.sample([*values], len(values)))
    moved = intervals.mean(shuffled * scale + shift)
    ends = sorted((interval.low * scale + shift, interval.high * scale + shift))
    assert (moved.low, moved.high) == pytest.approx(ends, rel=1e-7, abs=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0])
def test_equal_values_have_no_spread_that_an_interval_could_show(value):
    assert intervals.mean(np.full(7, value)) == pytest.approx((value, value, value, 7), abs=1e-15)


@pytest.mark.parametrize("values", [[], [0.25], 0.25, [[1.0], [2.0]], [1.0, np.nan], [1.0, np.inf]])
def test_values_that_have_no_mean_or_no_spread_are_refused(values):
    with pytest.raises(ValueError, match="list of two or more finite values"):
        intervals.mean(np.array(values))


@pytest.mark.parametrize("hits", [0, 3, 8])
def test_a_fraction_of_few_images_has_wilsons_interval_and_never_one_without_width(hits):
    right = np.array([1.0] * hits + [0.0] * (8 - hits))
    interval = intervals.fraction(right)
    assert (interval.mean, interval.n) == (hits / 8, 8)
    assert (interval.low, interval.high) == intervals.wilson(hits, 8)
    assert interval.high - interval.low > 0.25


def test_the_sum_of_the_means_of_groups_has_the_interval_of_welch():
    rng = np.random.default_rng(0)
    first = rng.normal(1, 3, size=9)
    second = rng.normal(2, 0.5, size=30)
    interval = intervals.sum_of_means([first, -second])
    expected = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert interval.mean == pytest.approx(first.mean() - second.mean())
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert interval.n == 39


def test_the_sum_of_the_mean_of_one_group_is_its_mean_with_its_interval():
    values = np.random.default_rng(0).random(20)
    assert intervals.sum_of_means([values]) == pytest.approx(intervals.mean(values))
    assert intervals.sum_of_means([np.ones(3), np.ones(2)]) == (2.0, 2.0, 2.0, 5)
