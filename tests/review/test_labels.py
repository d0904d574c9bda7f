"""Wrong labels are found, and right ones are left alone."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import multivariate_normal

from tests.review.examples import CLASSES, clusters
from vit_finetune.review import labels as review

CLASS_COUNT = len(CLASSES)


def judged(features, given, groups=None):
    """The probability that each label is wrong, (N,)."""
    unit = review.unit_features(features, features)
    groups = np.arange(len(given)) if groups is None else groups
    folds = review.fold_numbers(given, groups, seed=0)
    belongs = review.judge_seen(unit, given, folds, CLASS_COUNT)
    return 1 - belongs[np.arange(len(given)), given]


def with_errors(true, share, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(true), round(share * len(true)), replace=False)
    given = true.copy()
    given[rows] = (true[rows] + rng.integers(1, CLASS_COUNT, len(rows))) % CLASS_COUNT
    return given


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
def test_exchanged_labels_are_listed_and_no_others(share):
    true = np.arange(600) % CLASS_COUNT
    given = with_errors(true, share)
    listed = judged(clusters(true, spread=0.12), given) >= 0.5
    assert (listed == (given != true)).mean() > 0.99


def test_nothing_is_listed_where_every_label_is_right():
    true = np.arange(300) % CLASS_COUNT
    assert judged(clusters(true, spread=0.2), true).max() < 0.5


def test_no_label_is_called_wrong_by_a_classifier_that_names_fewer_than_half():
    """Of a hundred random images, most labels would look wrong."""
    rng = np.random.default_rng(0)
    labels = np.arange(120) % CLASS_COUNT
    logits = np.eye(CLASS_COUNT)[(labels + 1) % CLASS_COUNT]
    logits[:59] = np.eye(CLASS_COUNT)[labels[:59]]
    assert np.isnan(review.true_classes(logits, labels)).all()
    logits[59:61] = np.eye(CLASS_COUNT)[labels[59:61]]
    assert not np.isnan(review.true_classes(logits, labels)).any()
    features = rng.normal(size=(120, 6)).astype(np.float32)
    assert not (judged(features, labels) >= 0).any()


def test_an_image_between_two_classes_is_no_suspect_as_long_as_labels_are_right():
    true = np.arange(300) % CLASS_COUNT
    features = clusters(true, spread=0.2)
    features[0] = features[true == 1].mean(axis=0) + features[true == 0].mean(axis=0)
    assert judged(features, true)[0] < 0.5


def test_test_images_are_judged_by_the_corrected_images_to_train_on():
    true = np.arange(600) % CLASS_COUNT
    given = with_errors(true, 0.3)
    features = clusters(true, spread=0.12)
    features = review.unit_features(features, features)
    folds = review.fold_numbers(given[300:], np.arange(300), seed=0)
    belongs = review.judge_seen(features[300:], given[300:], folds, CLASS_COUNT)
    probabilities = review.judge_unseen(features[:300], given[:300], features[300:], belongs)
    assert (probabilities.argmax(axis=1) == true[:300]).mean() > 0.98


def test_a_gaussian_is_a_mixture_of_its_own_covariance_the_shared_one_and_the_identity():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    features = rng.normal(size=(60, 3)) * [1, 2, 3] + 4 * labels[:, None]
    gaussians = review.Gaussians.fit(features, np.eye(2)[labels])
    own = [np.cov(features[labels == k].T, bias=True) for k in (0, 1)]
    for k in (0, 1):
        mixed = (1 - review.OWN) * np.mean(own, axis=0) + review.OWN * own[k]
        identity = np.trace(mixed) / 3 * np.eye(3)
        covariance = (1 - review.SHRINKAGE) * mixed + review.SHRINKAGE * identity
        oracle = multivariate_normal(features[labels == k].mean(axis=0), covariance)
        expected = oracle.logpdf(features) + np.log(0.5) + 1.5 * np.log(2 * np.pi)
        np.testing.assert_allclose(gaussians.logits(features)[:, k], expected)


def test_no_image_is_judged_by_a_classifier_that_has_seen_its_fold():
    labels = np.arange(90) % CLASS_COUNT
    features = clusters(labels).astype(float)
    folds = review.fold_numbers(labels, np.arange(90), seed=0)
    held_out = folds == 2
    belongs = np.eye(CLASS_COUNT)[labels]
    changed = belongs.copy()
    changed[held_out] = belongs[held_out][:, [1, 2, 0]]
    before = review.held_out_logits(features, belongs, folds)
    after = review.held_out_logits(features, changed, folds)
    assert (before[held_out] == after[held_out]).all()
    assert (before[~held_out] != after[~held_out]).any(axis=1).all()


def test_folds_spread_every_class_and_keep_a_group_together():
    groups = np.arange(400) // 4
    labels = groups % CLASS_COUNT
    folds = review.fold_numbers(labels, groups, seed=0)
    assert all(len(set(folds[groups == group])) == 1 for group in set(groups))
    for label in range(CLASS_COUNT):
        counts = np.bincount(folds[labels == label], minlength=review.FOLDS)
        assert counts.max() - counts.min() <= 4
    assert (folds != review.fold_numbers(labels, groups, seed=1)).any()


def test_the_only_image_of_a_class_keeps_its_label():
    labels = np.concatenate([np.arange(60) % 2, [2]])
    assert judged(clusters(labels), labels)[-1] == 0


def test_the_posterior_is_bayes_rule():
    noise = np.array([[0.9, 0.1], [0.3, 0.7]])
    probabilities = np.array([[0.2, 0.8]])
    # true class 0 and label 0: .2 x .9; true class 1 and label 0: .8 x .3
    expected = [[0.18 / 0.42, 0.24 / 0.42]]
    np.testing.assert_allclose(review.posterior(probabilities, np.array([0]), noise), expected)


def test_noise_is_counted_where_images_are_many_and_evenly_spread_where_they_are_few():
    counts = np.array([[80_000.0, 20_000.0, 0.0], [0.0, 50_000.0, 0.0], [0.0, 0.0, 50_000.0]])
    np.testing.assert_allclose(review.estimate_noise(counts)[0], [0.8, 0.2, 0], atol=1e-3)
    few = review.estimate_noise(counts / 1e6)
    np.testing.assert_allclose(
        few, [[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]], atol=1e-2
    )
    np.testing.assert_allclose(few.sum(axis=1), 1)


def test_the_scale_of_the_logits_changes_nothing():
    rng = np.random.default_rng(0)
    true = rng.integers(0, CLASS_COUNT, 500)
    logits = 2 * np.eye(CLASS_COUNT)[true] + rng.normal(size=(500, CLASS_COUNT))
    given = with_errors(true, 0.1)
    np.testing.assert_allclose(
        review.true_classes(logits, given), review.true_classes(5 * logits, given), atol=1e-3
    )


def test_the_temperature_makes_overconfident_logits_true():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, CLASS_COUNT))
    labels = np.array([rng.choice(CLASS_COUNT, p=row) for row in softmax(logits, axis=1)])
    factor = review.best_temperature(4 * logits, labels, np.eye(CLASS_COUNT))
    assert factor == pytest.approx(1 / 4, rel=0.1)
