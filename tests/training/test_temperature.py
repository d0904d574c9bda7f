"""One temperature: it makes probabilities true, stays moderate on few images, changes no
prediction."""

import numpy as np
import pytest
import torch

from tests.training.examples import fit, make_data, make_trainer, small, split_at, store
from vit_finetune.training.data import TrainingData
from vit_finetune.training.temperature import calibrate, fit_temperature, quality


def drawn(images, temperature, classes=10, seed=0):
    """Logits (N, K) that are true when they are divided by a temperature, and labels (N,) drawn
    from them."""
    rng = np.random.default_rng(seed)
    true = 3 * rng.normal(size=(images, classes))
    probabilities = np.exp(true) / np.exp(true).sum(axis=1, keepdims=True)
    labels = (probabilities.cumsum(axis=1) > rng.random((images, 1))).argmax(axis=1)
    return true * temperature, labels


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_of_many_images_is_found_and_calibrates_others(temperature):
    logits, labels = drawn(2000, temperature)
    fitted = fit_temperature(logits, labels)
    assert fitted == pytest.approx(temperature, rel=0.08)
    logits, labels = drawn(4000, temperature, seed=1)
    assert quality(logits / fitted, labels).ece < 0.02
    best = quality(logits / temperature, labels).nll
    assert quality(logits / fitted, labels).nll == pytest.approx(best, abs=0.003)


@pytest.mark.parametrize("images", [1, 20])
@pytest.mark.parametrize("size", [0.1, 8.0])
def test_of_few_images_that_are_all_right_none_becomes_certain(images, size):
    """The likelihood alone would make every probability 1."""
    labels = np.arange(images) % 3
    logits = size * np.eye(10)[labels]
    temperature = fit_temperature(logits, labels)
    confidence = np.exp(-quality(logits / temperature, labels).nll)
    assert 0.1 < confidence < 0.997  # that of size 8 as it is


def test_one_class_alone_leaves_the_logits_as_they_are():
    assert fit_temperature(np.full((5, 1), 3.0), np.zeros(5, dtype=int)) == 1


def test_calibration_divides_the_logits_of_the_model_and_has_what_it_says_then():
    model = small("deit_tiny_distilled_patch16_224")
    pixels, labels = make_data(40)
    val, val_labels = make_data(60, seed=1)
    stored = store(model, val, 1)
    split_model = split_at(model, 1)
    data = TrainingData(
        store(model, pixels, 1),
        labels,
        np.arange(len(labels)),
        stored,
        val_labels,
        np.arange(len(val_labels)),
    )
    fit(make_trainer(split_model, data.train, labels))
    before = split_model.predict_logits(stored)
    calibration = calibrate(split_model, data)
    after = split_model.predict_logits(stored)
    torch.testing.assert_close(after, before / calibration.temperature)
    assert abs(calibration.temperature - 1) > 0.01
    assert torch.equal(after.argmax(1), before.argmax(1))
    assert calibration.after.nll < calibration.before.nll

    expected, predicted = after.double().softmax(1).max(1)
    np.testing.assert_allclose(calibration.confidence, expected.numpy(), atol=1e-6)
    assert calibration.right.tolist() == (predicted == val_labels).tolist()
    assert 0 < calibration.right.mean() < 1
