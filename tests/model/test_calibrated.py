"""Divided heads: the same predictions from calmer or sharper logits, whatever the family."""

import numpy as np
import pytest
import torch

from tests.model.small import KINDS, build
from tests.small_vits import pictures
from vit_finetune.core.errors import UserError
from vit_finetune.model.calibrated import divide_logits, read_validation, write_validation

ROUNDING = 1e-5  # of the largest logit: two that are nearer than that are equal but for rounding


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.3137, 2.7183])
def test_divided_heads_divide_the_logits_and_leave_every_prediction(kind, temperature):
    model = build(kind)
    pixels = pictures(model)
    with torch.no_grad():
        before = model(pixels)
        divide_logits(model, temperature)
        after = model(pixels)
    assert torch.allclose(after, before / temperature, rtol=1e-4, atol=ROUNDING * after.abs().max())
    best, second = before.topk(2).values.T
    assert (best - second > ROUNDING * before.abs().max()).all(), "an image is a tie: take others"
    assert torch.equal(after.argmax(1), before.argmax(1))


def test_equal_logits_stay_equal(tiny_vit):
    """So the first of two classes with the same weights wins before and after."""
    with torch.no_grad():
        tiny_vit.head.weight[1] = tiny_vit.head.weight[0]
        tiny_vit.head.bias[1] = tiny_vit.head.bias[0]
        divide_logits(tiny_vit, 0.3137)
        logits = tiny_vit(pictures(tiny_vit))
    assert torch.equal(logits[:, 0], logits[:, 1])


def test_the_record_has_one_validation_image_of_each_group(tmp_path):
    confidence = np.array([0.1, 0.2, 0.3, 0.4])
    right = np.array([True, False, True, True])
    write_validation(tmp_path, confidence, right, np.arange(4), np.random.default_rng(0))
    recorded = read_validation(tmp_path)
    assert recorded[0].tolist() == confidence.tolist()
    assert recorded[1].tolist() == right.tolist()
    drawn = set()
    for seed in range(20):
        groups = np.array([8, 8, 2, 8])
        write_validation(tmp_path, confidence, right, groups, np.random.default_rng(seed))
        recorded = read_validation(tmp_path)
        images = np.searchsorted(confidence, recorded[0])
        assert sorted(groups[images]) == [2, 8]
        assert recorded[1].tolist() == right[images].tolist()
        drawn.update(images.tolist())
    assert drawn == {0, 1, 2, 3}


def test_images_of_a_group_that_spans_classes_are_recorded_whatever_their_class(tmp_path):
    """200 subjects with an image of each of two classes, those of the second class half wrong."""
    groups = np.tile(np.arange(200), 2)
    right = np.concatenate([np.ones(200), np.arange(200) % 2]).astype(bool)
    write_validation(tmp_path, np.full(400, 0.9), right, groups, np.random.default_rng(0))
    recorded = read_validation(tmp_path)[1]
    assert len(recorded) == 200
    assert 0.65 < recorded.mean() < 0.85


def test_a_folder_without_the_record_of_validation_images_is_named(tmp_path):
    with pytest.raises(UserError, match=r"validation\.csv is missing; run dvc repro"):
        read_validation(tmp_path)
