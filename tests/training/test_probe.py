"""The probe is a logistic regression; `auto` cross-validates it on the training images."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from vit_finetune.training.probe import (
    FOLDS,
    STRENGTHS,
    Probe,
    cross_validated_strength,
    draw_folds,
    fit_probe,
)
from vit_finetune.training.temperature import fit_temperature


def data_of(classes=3, n=60, noise=1.0, seed=0):
    """Features (N, 8) far from zero and of another scale than one, and labels (N,) of unequal
    classes."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, size=n, p=np.arange(1, classes + 1) / sum(range(1, classes + 1)))
    features = 5 + 3 * (noise * rng.normal(size=(n, 8)) + np.eye(8)[labels])
    return torch.from_numpy(features).float(), torch.from_numpy(labels)


def scaled(features):
    centred = features.double() - features.double().mean(0)
    return (centred / centred.std(correction=0)).numpy()


@pytest.mark.parametrize("class_weights", ["none", "balanced"])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_probe_predicts_what_scikit_learns_logistic_regression_predicts(classes, class_weights):
    features, labels = data_of(classes)
    probe = fit_probe(features, labels, 0.5, class_weights, seed=0)
    expected = {}
    for weight in (None, "balanced"):
        regression = LogisticRegression(C=0.5, max_iter=1000, class_weight=weight)
        regression.fit(scaled(features), labels)
        expected[weight] = regression.predict_proba(scaled(features))
    found = probe.logits(features).softmax(1)
    np.testing.assert_allclose(
        found, expected[None if class_weights == "none" else "balanced"], atol=1e-3
    )
    assert np.abs(expected[None] - expected["balanced"]).max() > 0.05


@pytest.mark.parametrize("factor", [0.01, 100])
def test_the_scale_of_the_features_does_not_matter(factor):
    features, labels = data_of()
    expected = fit_probe(features, labels, "auto", "none", seed=0)
    found = fit_probe(features * factor, labels, "auto", "none", seed=0)
    assert found.c == expected.c
    torch.testing.assert_close(
        found.logits(features * factor), expected.logits(features), rtol=0, atol=0.02
    )


@pytest.mark.parametrize("class_weights", ["none", "balanced"])
@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0])
def test_auto_has_the_lowest_calibrated_loss_on_left_out_images_in_a_plain_loop(
    noise, class_weights
):
    features, labels = data_of(noise=noise)
    folds = draw_folds(labels.numpy(), seed=0)
    weights = np.ones(60)
    if class_weights == "balanced":
        weights = 60 / 3 / labels.bincount().numpy()[labels]
    losses = []
    for c in STRENGTHS:
        log_probabilities = np.empty((60, 3))
        for fold in range(FOLDS):
            regression = LogisticRegression(
                C=c, max_iter=1000, class_weight=None if class_weights == "none" else "balanced"
            )
            regression.fit(scaled(features)[folds != fold], labels[folds != fold])
            of_all = regression.predict_log_proba(scaled(features))
            log_probabilities[folds == fold] = of_all[folds == fold]
        temperature = fit_temperature(log_probabilities, labels.numpy())
        calibrated = torch.from_numpy(log_probabilities / temperature).log_softmax(1)
        loss = 0.0
        for image in range(60):
            loss -= weights[image] * calibrated[image, labels[image]].item()
        losses.append(loss)
    found = fit_probe(features, labels, "auto", class_weights, seed=0).c.item()
    assert found == STRENGTHS[int(np.argmin(losses))]


def test_a_strength_is_not_chosen_for_probabilities_that_a_temperature_corrects():
    """Many features of few images: strong regularisation is as accurate, but less confident."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    features = rng.normal(size=(60, 64)) + 0.9 * np.eye(64)[labels]
    folds = draw_folds(labels, seed=0)
    plain_losses = []
    for c in STRENGTHS:
        loss = 0.0
        for fold in range(FOLDS):
            regression = LogisticRegression(C=c, max_iter=1000)
            regression.fit(features[folds != fold], labels[folds != fold])
            probabilities = regression.predict_proba(features[folds == fold])
            loss += log_loss(labels[folds == fold], probabilities, normalize=False)
        plain_losses.append(loss)
    best_uncalibrated = STRENGTHS[int(np.argmin(plain_losses))]
    assert cross_validated_strength(features, labels, "none", seed=0) < best_uncalibrated


def test_balanced_chooses_another_strength_where_the_common_class_decides_otherwise():
    features, labels = data_of(classes=2, n=90, noise=1.5, seed=3)
    chosen = {
        class_weights: fit_probe(features, labels, "auto", class_weights, seed=0).c.item()
        for class_weights in ("none", "balanced")
    }
    assert chosen["none"] != chosen["balanced"]


def test_each_class_is_in_all_folds_alike_and_a_single_image_is_never_left_out():
    labels = np.array([0] * 7 + [1] * 6 + [2] * 2 + [3])
    folds = draw_folds(labels, seed=0)
    counts = {
        label: sorted((folds[labels == label] == fold).sum() for fold in range(FOLDS))
        for label in range(3)
    }
    assert counts == {0: [2, 2, 3], 1: [2, 2, 2], 2: [0, 1, 1]}
    assert folds[labels == 3] == [-1]
    assert draw_folds(labels, seed=0).tolist() == folds.tolist()
    assert draw_folds(labels, seed=1).tolist() != folds.tolist()


@pytest.mark.parametrize("seed", range(20))
def test_a_group_is_in_one_fold_and_every_class_is_seen_and_left_out(seed):
    """Groups of any size, some with several classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(5, size=90)
    groups = rng.integers(20, size=90)
    folds = draw_folds(labels, seed, groups)
    for group in np.unique(groups):
        assert len(np.unique(folds[groups == group])) == 1
    assert set(folds) == set(range(FOLDS))
    for fold in range(FOLDS):
        assert set(labels[folds != fold]) == set(labels)


def test_groups_are_ignored_where_a_class_has_one_group_alone():
    """Else it would never be left out, and the strongest regularisation would look best."""
    labels = np.repeat([0, 1], [60, 40])
    groups = np.concatenate([np.arange(60) // 6, np.full(40, 99)])
    assert (draw_folds(labels, 0, groups) == draw_folds(labels, 0)).all()
    features = torch.from_numpy(np.eye(2, 8, dtype=np.float32)[labels])
    features += 0.3 * torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    probe = fit_probe(features, torch.tensor(labels), "auto", "none", 0, labels)
    assert (probe.logits(features).argmax(1).numpy() == labels).mean() > 0.9


def test_folds_of_single_images_do_not_depend_on_the_numbers_of_their_groups():
    labels = np.arange(30) % 3
    numbers = np.random.default_rng(0).permutation(30)
    assert (draw_folds(labels, 0, numbers) == draw_folds(labels, 0)).all()


def test_images_of_a_subject_do_not_make_the_probe_look_better_than_it_is():
    """60 subjects with 20 frames each: what tells a subject does not tell its class."""
    rng = np.random.default_rng(0)
    subjects = np.repeat(np.arange(60), 20)
    labels = subjects % 3
    features = np.eye(3, 32)[labels] + 2 * rng.normal(size=(60, 32))[subjects]
    features += 0.3 * rng.normal(size=features.shape)
    alone = cross_validated_strength(features, labels, "none", seed=0)
    together = cross_validated_strength(features, labels, "none", seed=0, groups=subjects)
    assert together < alone / 10


@pytest.mark.parametrize("images_per_class", [1, 2])
def test_the_fewest_images_give_a_probe_too(images_per_class):
    labels = torch.arange(4).repeat(images_per_class)
    features = torch.eye(4).repeat(images_per_class, 1)
    probe = fit_probe(features, labels, "auto", "none", seed=0)
    assert probe.logits(features).argmax(1).tolist() == labels.tolist()


def test_features_without_any_spread_give_a_probe_too():
    probe = fit_probe(torch.ones(6, 4), torch.tensor([0, 1, 2, 0, 1, 2]), "auto", "none", seed=0)
    assert torch.isfinite(probe.weight).all()


def test_a_probe_of_zeros_gives_every_class_the_same():
    assert Probe.zeros(3, 4).logits(torch.randn(2, 4)).tolist() == [[0.0] * 3] * 2
