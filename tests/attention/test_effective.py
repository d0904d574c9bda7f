"""The effective gradient is an exact decomposition of the logit, and no operator can be left out of
what is held fixed."""

import pytest
import torch
from timm.layers import SimpleNorm
from torch import Tensor, nn
from torch.nn import functional as F

from tests.model import small
from tests.small_vits import build, pictures
from vit_finetune.attention.effective import Parts, decompose
from vit_finetune.attention.maps import EffectiveGradient, MapMaker
from vit_finetune.attention.operators import Operators, unknown_operators

CLASSES = torch.tensor([1, 3])
NAME = EffectiveGradient.name


def wide(kind: str) -> nn.Module:
    """A small model of a kind, in float64."""
    return small.build(kind).double()


def images_of(model: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, 3, *model.patch_embed.img_size, generator=generator).double()


def errors(model: nn.Module) -> list[float]:
    """How far the map and the other parts are from the logit, for each of two images."""
    images = images_of(model)
    added = MapMaker(model).maps(images, CLASSES, methods=[NAME])[NAME].sum(dim=(1, 2))
    return [
        decompose(model, image, int(label)).error(float(patches))
        for image, label, patches in zip(images, CLASSES, added, strict=True)
    ]


@pytest.mark.parametrize("kind", small.KINDS)
def test_the_parts_add_up_to_the_logit_for_every_family(kind):
    model = wide(kind)
    assert unknown_operators(model) == []
    assert max(errors(model)) <= 1e-10
    parts = decompose(model, images_of(model)[0], 1)
    with torch.no_grad():
        logit = model(images_of(model)[:1])[0, 1]
    assert parts.score == pytest.approx(float(logit))
    assert abs(parts.patches) > 1e-4
    assert abs(parts.biases) > 1e-4


@pytest.mark.parametrize(
    ("kind", "hook", "modules"),
    [
        ("vit", "hold", "attn_drop"),
        ("vit", "hold_deviation", "norm"),
        ("vit", "hold_gate", "act"),
        ("eva02 base, rotary, swiglu with norm", "hold", "act"),
        ("siglip, attention pooling", "hold", "k_norm"),
    ],
)
def test_an_operator_that_is_not_held_fixed_breaks_the_sum(kind, hook, modules, monkeypatch):
    model = wide(kind)
    hooks_of = Operators.hooks

    def hooks(self: Operators, part: nn.Module) -> dict:
        names = {module: name for name, module in model.named_modules()}
        return {
            module: one
            for module, one in hooks_of(self, part).items()
            if not (one.__name__ == hook and modules in names[module].rpartition(".")[2])
        }

    assert max(errors(model)) <= 1e-10
    monkeypatch.setattr(Operators, "hooks", hooks)
    assert max(errors(model)) > 1e-4


def test_without_position_and_prefix_an_image_of_zeros_leaves_the_biases_alone():
    model = wide("vit")
    for parameter in (model.pos_embed, model.cls_token, model.patch_embed.proj.bias):
        parameter.data.zero_()
    parts = decompose(model, torch.zeros(3, 32, 32).double(), 1)
    assert parts.patches == parts.positions == parts.prefix == 0
    assert parts.biases == pytest.approx(parts.score)


def linear_model() -> nn.Module:
    """A model whose operators are constants: it attends to all tokens alike, and nothing else in it
    is not linear."""
    model = build(depth=2, norm_layer=nn.Identity, act_layer=nn.Identity).double()
    for block in model.blocks:
        block.attn.qkv.weight.data[:96] = 0
        block.attn.qkv.bias.data[:96] = 0
    return model


def test_of_a_linear_model_a_patch_adds_what_the_logit_loses_without_it():
    model = linear_model()
    images = pictures(model).double()
    model.patch_embed.proj.bias.data.zero_()
    found = MapMaker(model).maps(images, CLASSES, methods=[NAME])[NAME]
    for row, column in ((0, 0), (2, 3)):
        without = images.clone()
        without[:, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 0
        with torch.no_grad():
            lost = (model(images) - model(without)).gather(1, CLASSES[:, None])[:, 0]
        torch.testing.assert_close(found[:, row, column], lost)


def test_a_contrast_is_the_difference_of_the_maps_of_two_classes(vit):
    maker = MapMaker(vit)
    images = pictures(vit)
    others = torch.tensor([2, 0])
    contrast = maker.maps(images, CLASSES, others, methods=[NAME])[NAME]
    one, other = (maker.maps(images, k, methods=[NAME])[NAME] for k in (CLASSES, others))
    torch.testing.assert_close(contrast, one - other, rtol=1e-4, atol=1e-5)


def test_watching_the_operators_changes_neither_the_logits_nor_the_gradient(vit):
    images = pictures(vit).requires_grad_()
    operators = Operators()
    expected = torch.autograd.grad(vit(images)[:, 1].sum(), images)[0]
    with operators.watched(vit):
        logits = vit(images)
    torch.testing.assert_close(logits, vit(images), rtol=0, atol=0)
    found = torch.autograd.grad(logits[:, 1].sum(), images, retain_graph=True)[0]
    torch.testing.assert_close(found, expected)
    with operators.fixed():
        fixed = torch.autograd.grad(logits[:, 1].sum(), images)[0]
    assert not torch.allclose(fixed, expected, rtol=0.1)


def test_an_activation_of_exactly_zero_gives_no_gradient_that_is_not_a_number():
    operators = Operators()
    x = torch.tensor([0.0, 1.0], requires_grad=True)
    output = operators.hold_gate(nn.GELU(), (x,), F.gelu(x))
    with operators.fixed():
        (found,) = torch.autograd.grad(output.sum(), x)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.8413]), rtol=1e-4, atol=1e-4)


def test_a_gate_keeps_no_tensor_beside_what_the_activation_keeps():
    x = torch.rand(4, requires_grad=True)
    output = Operators().hold_gate(nn.GELU(), (x,), F.gelu(x))
    assert [one.data_ptr() for one in output.grad_fn.saved_tensors] == [x.data_ptr()]


def test_a_model_with_an_unknown_operator_keeps_its_other_maps():
    model = build(norm_layer=SimpleNorm)
    assert unknown_operators(model) == ["SimpleNorm"]
    assert EffectiveGradient.obstacle(model) == "it does not know how to hold SimpleNorm fixed"
    maps = MapMaker(model).maps(pictures(model), CLASSES)
    assert NAME not in maps
    assert len(maps) == 5


def test_the_error_is_relative_to_the_sizes_of_the_parts():
    parts = Parts(patches=2.0, positions=-1.0, prefix=0.5, biases=0.5, score=2.0)
    assert parts.error(2.0) == 0
    assert parts.error(2.4) == pytest.approx(0.1)
