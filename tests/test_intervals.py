"""Both intervals have the textbook's ends, and hold the truth about as often as they say."""

import math

import numpy as np
import pytest

from vit_finetune import intervals
from vit_finetune.intervals import bootstrap, wilson

Z = 1.959963984540054  # of a 95 % interval


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (0, 50), (50, 50), (1, 3), (5, 10), (9300, 10_000)])
def test_wilson_has_the_ends_of_the_formula_within_zero_and_one(hits, n):
    share = hits / n
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    low, high = wilson(hits, n)
    assert (low, high) == pytest.approx((centre - half, centre + half), abs=1e-12)
    assert 0 <= low <= share <= high <= 1


def test_wilson_is_exact_at_no_and_all_hits():
    (none, some), (most, all_) = wilson(0, 10), wilson(10, 10)
    assert (none, all_) == (0, 1)
    assert some == pytest.approx(Z**2 / (10 + Z**2))  # 0.2775
    assert most == pytest.approx(10 / (10 + Z**2))


def test_wilson_holds_the_true_share_as_often_as_it_says(rng):
    intervals = np.array([wilson(hits, 80) for hits in range(81)])
    for share in (0.02, 0.3, 0.9):
        low, high = intervals[rng.binomial(80, share, 4000)].T
        assert 0.92 < np.mean((low <= share) & (share <= high)) < 0.98


@pytest.mark.parametrize(("hits", "n"), [(0, 0), (2, 1), (-1, 5)])
def test_wilson_refuses_numbers_that_are_no_share(hits, n):
    with pytest.raises(ValueError, match="must "):
        wilson(hits, n)


def test_bootstrap_of_a_large_normal_sample_is_the_textbooks_interval(rng):
    values = rng.normal(3, 2, size=900)
    found = bootstrap(values, rng, resamples=4000)
    error = values.std() / 30
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - Z * error, abs=0.15 * error)
    assert found.high == pytest.approx(values.mean() + Z * error, abs=0.15 * error)
    assert found.n == 900


def test_bootstrap_holds_the_true_mean_about_as_often_as_it_says(rng):
    held = 0
    for _ in range(300):
        found = bootstrap(rng.exponential(1, size=60), rng, resamples=400)
        held += found.low <= 1 <= found.high
    assert 0.88 < held / 300 < 0.97


def test_bootstrap_of_one_value_is_that_value_and_the_same_seed_gives_the_same_interval():
    assert bootstrap(np.array([0.25]), np.random.default_rng(0)) == (0.25, 0.25, 0.25, 1)
    values = np.arange(20.0)
    first, again, other = (bootstrap(values, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("values", [[], [[1.0]], [1.0, np.nan], [1.0, np.inf]])
def test_bootstrap_refuses_values_that_have_no_mean(values, rng):
    with pytest.raises(ValueError, match="list of finite values"):
        bootstrap(np.array(values), rng)


@pytest.mark.parametrize("hits", [0, 3, 8])
def test_a_share_of_few_images_has_wilsons_interval_and_never_one_without_width(hits):
    right = np.array([1.0] * hits + [0.0] * (8 - hits))
    found = intervals.share(right)
    assert (found.mean, found.n) == (hits / 8, 8)
    assert (found.low, found.high) == intervals.wilson(hits, 8)
    assert found.high - found.low > 0.25
