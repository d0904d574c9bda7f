"""Adaptation trains the whole backbone, and gives back the untouched one where that was no
better."""

import pytest
import torch

from tests.training.examples import (
    copy_of_weights,
    make_data,
    plain_settings,
    same_for_both,
    small,
    split_at,
)
from vit_finetune.core.errors import UserError
from vit_finetune.model.freezing import freeze
from vit_finetune.params import check_params, read_yaml
from vit_finetune.training.adaptation import adopt, check_later_stages, with_head
from vit_finetune.training.recipe import History, Recipe


def params(**changes):
    """Those of params.yaml, with `section__key=value`."""
    values = read_yaml("params.yaml")
    for key, value in changes.items():
        section, name = key.split("__")
        values[section][name] = value
    return check_params(values)


def adapted(model):
    """A backbone, a model that was trained from it, and the history."""
    backbone = small(model, num_classes=0)
    pixels, labels = make_data()
    model = with_head(backbone, 3)
    split_model = split_at(model, "all")
    # from zeros: better than that is easy
    settings = plain_settings(section="adapt", epochs=2, lr=0.001)
    return (
        backbone,
        model,
        Recipe(settings, seed=0).train(split_model, same_for_both(pixels, labels)),
    )


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "vit_small_patch16_dinov3"]
)
def test_the_backbone_gets_every_adapted_tensor_and_no_head(name):
    backbone, model, history = adapted(name)
    assert history.best_epoch
    before, trained = copy_of_weights(backbone), copy_of_weights(model)
    facts = adopt(backbone, model, history)
    after = copy_of_weights(backbone)
    assert all(torch.equal(after[key], trained[key]) for key in before)
    assert any(not torch.equal(after[key], before[key]) for key in before)
    assert not any(key.startswith("head") for key in after)
    assert facts == {
        "parameters_adapted": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "best_epoch": history.best_epoch,
    }


def test_the_untouched_backbone_stays_where_no_epoch_was_better(tiny_vit, capsys):
    backbone = small("vit_tiny_patch16_224", num_classes=0)
    before = copy_of_weights(backbone)
    history = History(
        [{"val_accuracy": 0.75, "val_loss": 1.0}, {"val_accuracy": 0.5, "val_loss": 1.0}],
        best_epoch=0,
    )
    assert adopt(backbone, tiny_vit, history) == {"parameters_adapted": 0, "best_epoch": 0}
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in copy_of_weights(backbone).items()
    )
    assert "no epoch was better on the validation images than a probe" in capsys.readouterr().out


def test_without_epochs_nothing_is_said_and_nothing_changes(tiny_vit, capsys):
    facts = adopt(small("vit_tiny_patch16_224", num_classes=0), tiny_vit, History())
    assert (facts, capsys.readouterr().out) == ({"parameters_adapted": 0, "best_epoch": 0}, "")


def test_what_would_stop_a_later_stage_stops_adaptation_before_it_begins(tiny_vit):
    with pytest.raises(UserError, match=r"freeze\.trainable_blocks is 9: the model has 3 blocks"):
        check_later_stages(tiny_vit, params(freeze__trainable_blocks=9))
    with pytest.raises(UserError, match=r"freeze\.parameters: 'norm2' matches no parameter"):
        check_later_stages(tiny_vit, params(freeze__parameters=["norm2"]))


def test_training_everything_twice_is_named(tiny_vit):
    (note,) = check_later_stages(tiny_vit, params(freeze__trainable_blocks="all"))
    assert "set adapt.epochs to 0" in note
    assert (
        check_later_stages(tiny_vit, params(freeze__trainable_blocks="all", adapt__epochs=0)) == []
    )
    assert check_later_stages(tiny_vit, params()) == []


def test_a_head_is_new_and_zero_and_the_backbone_has_none():
    backbone = small("vit_tiny_patch16_224", num_classes=0)
    before, state = copy_of_weights(backbone), torch.get_rng_state()
    model = with_head(backbone, 7)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.head.weight.shape == (7, 64)
    assert model.head.weight.abs().sum() == model.head.bias.abs().sum() == 0
    freeze(model, "all")
    with torch.no_grad():
        model.blocks[0].mlp.fc1.weight.add_(1)
    assert copy_of_weights(backbone).keys() == before.keys()
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in copy_of_weights(backbone).items()
    )
