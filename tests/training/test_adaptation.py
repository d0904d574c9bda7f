"""Adaptation trains the whole backbone, and the untouched one stays where that was no better."""

import pytest
import torch

from tests.training.examples import (
    copy_of_weights,
    fit,
    make_data,
    make_trainer,
    plain_settings,
    small,
    split_at,
)
from vit_finetune.core.errors import UserError
from vit_finetune.model.adapted import Adapted
from vit_finetune.model.freezing import freeze
from vit_finetune.params import check_params, read_yaml
from vit_finetune.training.adaptation import adopt, check_later_stages, other_size, with_head
from vit_finetune.training.history import History


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "vit_small_patch16_dinov3"]
)
def test_the_backbone_gets_every_adapted_tensor_and_no_head(name):
    backbone = small(name, num_classes=0)
    before = copy_of_weights(backbone)
    model = with_head(backbone, 3)
    pixels, labels = make_data()
    settings = plain_settings(epochs=2, lr=0.001)  # from zeros: better than that is easy
    history = fit(make_trainer(split_at(model, "all"), pixels, labels, settings))
    assert history.kept_epoch
    trained = copy_of_weights(model)
    adapted = adopt(backbone, model, history, "float32")
    after = copy_of_weights(backbone)
    assert all(torch.equal(after[key], trained[key]) for key in before)
    assert any(not torch.equal(after[key], before[key]) for key in before)
    assert not any(key.startswith("head") for key in after)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert adapted == Adapted(
        "float32", count, history.kept_epoch, round(history.rows[0]["val_accuracy"], 6)
    )


def test_the_backbone_stays_as_it_was_where_the_start_is_kept(tiny_vit):
    backbone = small("vit_tiny_patch16_224", num_classes=0)
    before = copy_of_weights(backbone)
    rows = [{"epoch": 0, "val_accuracy": 0.75}, {"epoch": 1, "val_accuracy": 0.5}]
    history = History(rows, keeps_start=True)
    assert adopt(backbone, tiny_vit, history, "bfloat16") == Adapted("bfloat16", 0, 0, 0.75)
    assert adopt(backbone, tiny_vit, History(), "float32") == Adapted("float32", 0, 0, None)
    after = copy_of_weights(backbone)
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


def test_a_head_is_new_and_zero_and_the_backbone_has_none():
    backbone = small("vit_tiny_patch16_224", num_classes=0)
    before = copy_of_weights(backbone)
    state = torch.get_rng_state()
    model = with_head(backbone, 7)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.head.weight.shape == (7, 64)
    assert model.head.weight.abs().sum() == model.head.bias.abs().sum() == 0
    freeze(model, "all")
    with torch.no_grad():
        model.blocks[0].mlp.fc1.weight.add_(1)
    after = copy_of_weights(backbone)
    assert after.keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


def params(**changes):
    """Those of params.yaml, with `section__key=value`."""
    values = read_yaml("params.yaml")
    for key, value in changes.items():
        section, name = key.split("__")
        values[section][name] = value
    return check_params(values)


def test_what_would_stop_a_later_stage_stops_adaptation_before_it_begins(tiny_vit):
    with pytest.raises(UserError, match=r"freeze\.trainable_blocks is 9: the model has 3 blocks"):
        check_later_stages(tiny_vit, params(freeze__trainable_blocks=9))
    with pytest.raises(UserError, match=r"freeze\.parameters: 'norm2' matches no parameter"):
        check_later_stages(tiny_vit, params(freeze__parameters=["norm2"]))


def test_training_everything_twice_is_named(tiny_vit):
    (warning,) = check_later_stages(tiny_vit, params(freeze__trainable_blocks="all"))
    assert "set adapt.epochs to 0" in warning
    once = params(freeze__trainable_blocks="all", adapt__epochs=0)
    assert check_later_stages(tiny_vit, once) == []
    assert check_later_stages(tiny_vit, params()) == []


@pytest.mark.parametrize(
    ("stored", "wanted", "effect"),
    [
        (32, 224, "they are enlarged, and detail"),
        (512, 224, "they are reduced, and"),
        (64, 64, None),
    ],
)
def test_images_of_the_user_in_another_size_than_the_models_are_said_with_both_keys(
    stored, wanted, effect
):
    dataset = {"image_shape": [stored, stored, 3], "fitted": True}
    sentence = other_size(dataset, (wanted, wanted))
    if effect is None:
        assert sentence is None
    else:
        start = f"images are stored with {stored} pixels (data.image_size), the model takes "
        assert sentence.startswith(f"{start}{wanted} (model.image_size): {effect}")
    assert other_size(dataset | {"fitted": False}, (wanted, wanted)) is None  # CIFAR's are 32
