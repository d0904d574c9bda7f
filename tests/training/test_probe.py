"""The probe is scikit-learn's logistic regression; `auto` chooses on the validation images."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from vit_finetune.training.probe import START, STRENGTHS, Probe, fit_probes, score


def data_of(classes=3, n=60, noise=1.0, seed=0):
    """Features (N, 8) far from zero and of another scale than one, and labels (N,) of unequal
    classes."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, size=n, p=np.arange(1, classes + 1) / sum(range(1, classes + 1)))
    features = 5 + 3 * (noise * rng.normal(size=(n, 8)) + np.eye(8)[labels])
    return torch.from_numpy(features).float(), torch.from_numpy(labels)


@pytest.mark.parametrize("class_weights", ["none", "balanced"])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_probe_predicts_what_scikit_learns_logistic_regression_predicts(classes, class_weights):
    train, val = data_of(classes), data_of(classes, seed=1)
    probe, start = fit_probes(train, val, 0.5, class_weights)
    assert probe is start
    centred = train[0].double() - train[0].double().mean(0)
    scaled = (centred / centred.std(correction=0)).numpy()
    expected = {}
    for weight in (None, "balanced"):
        regression = LogisticRegression(C=0.5, max_iter=1000, class_weight=weight).fit(
            scaled, train[1]
        )
        expected[weight] = regression.predict_proba(scaled)
    found = probe.logits(train[0]).softmax(1)
    np.testing.assert_allclose(
        found, expected[None if class_weights == "none" else "balanced"], atol=1e-3
    )
    assert np.abs(expected[None] - expected["balanced"]).max() > 0.05


@pytest.mark.parametrize("factor", [0.01, 100])
def test_the_scale_of_the_features_does_not_matter(factor):
    (train, labels), (val, val_labels) = data_of(), data_of(seed=1)
    expected, _ = fit_probes((train, labels), (val, val_labels), "auto", "none")
    found, _ = fit_probes((train * factor, labels), (val * factor, val_labels), "auto", "none")
    assert found.c == expected.c
    torch.testing.assert_close(found.logits(val * factor), expected.logits(val), rtol=0, atol=0.02)


@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0])
def test_auto_is_the_strength_with_the_best_validation_accuracy_then_the_lowest_loss(noise):
    train, val = data_of(noise=noise), data_of(noise=noise, seed=1, n=200)
    found, start = fit_probes(train, val, "auto", "none")
    scores = {
        c: score(fit_probes(train, val, c, "none")[0].logits(val[0]), val[1]) for c in STRENGTHS
    }
    best = max(scores, key=lambda c: (scores[c][0], -scores[c][1]))
    assert found.c.item() == best
    assert start.c.item() == pytest.approx(START)


def test_features_without_any_spread_give_a_probe_too():
    flat = torch.ones(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    probe, _ = fit_probes(flat, flat, "auto", "none")
    assert torch.isfinite(probe.weight).all()


def test_a_probe_of_zeros_gives_every_class_the_same():
    assert Probe.zeros(3, 4).logits(torch.randn(2, 4)).tolist() == [[0.0] * 3] * 2
