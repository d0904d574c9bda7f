"""Every map is that of its formula in whole matrices, for classes and for pairs of them."""

import numpy as np
import pytest
import timm
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.attention.whole import whole_maps, whole_stacks
from tests.small_vits import SMALL, build, pictures
from vit_finetune.attention import maps
from vit_finetune.attention.maps import MapMaker, Settings, readout_maps
from vit_finetune.attention.walk import GRADIENT, BlockAttention
from vit_finetune.model.families import token_layout

# images, blocks, heads, prefix tokens, patches
B = 2
L = 3
H = 2
P = 2
N = 6
T = P + N
READOUTS = {
    "CLS": torch.eye(T)[0],
    "mean of CLS and DIST": torch.eye(T)[:2].mean(dim=0),
    "mean of the patches": torch.tensor([0.0] * P + [1 / N] * N),
    "attention pooling": torch.rand(B, T, generator=torch.Generator().manual_seed(4)).softmax(
        dim=-1
    ),
}


@pytest.fixture(scope="module")
def attn() -> Tensor:
    return (torch.randn(B, L, H, T, T, generator=torch.Generator().manual_seed(0)) * 2).softmax(
        dim=-1
    )


@pytest.fixture(scope="module")
def grads() -> Tensor:
    return torch.randn(B, L, H, T, T, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=READOUTS.values(), ids=READOUTS)
def readout(request) -> Tensor:
    return request.param


def map_of(
    kind: type[maps.Map], attn: Tensor, grads: Tensor, readout: Tensor, **settings
) -> Tensor:
    """The map of (B, L, H, T, T) blocks; the early gradients are the others."""
    found = kind(readout.expand(len(attn), -1), Settings(**settings))
    for index in reversed(range(attn.shape[1])):
        block = (attn[:, index], grads[:, index], grads[:, index])
        found.pass_block(BlockAttention(index, 0, *block))
    return found.values


@pytest.mark.parametrize("fusion", ["mean", "max"])
@pytest.mark.parametrize("ratio", [0.0, 0.6])
@pytest.mark.parametrize("prefix", [0, P])
def test_every_map_is_that_of_products_of_whole_matrices(
    attn, grads, readout, fusion, ratio, prefix
):
    settings = {"fusion": fusion, "discard_ratio": ratio, "prefix": prefix}
    found = {
        kind.name: map_of(kind, attn, grads, readout, **settings)
        for kind in maps.MAPS
        if kind is not maps.EffectiveGradient  # has tests of its own
    }
    rows = readout.expand(B, -1)
    expected = whole_maps((attn, grads, grads), rows, fusion, ratio, prefix)
    assert found.keys() == expected.keys()
    for method, values in expected.items():
        torch.testing.assert_close(found[method], values, rtol=1e-4, atol=1e-5)


def test_rollout_of_a_chain_follows_the_chain():
    """CLS looks at patch 3 in the last block, patch 3 at patch 5 in the first: both, and nothing
    else, matter."""
    first = torch.eye(T)
    last = torch.eye(T)
    first[P + 3] = torch.eye(T)[P + 5]
    last[0] = torch.eye(T)[P + 3]
    chain = torch.stack([first, last])[None, :, None]
    found = map_of(maps.Rollout, chain, chain, READOUTS["CLS"])[0]
    assert found.nonzero().flatten().tolist() == [0, P + 3, P + 5]
    assert found[P + 3] == found[P + 5] == pytest.approx(0.25)


def test_wrong_settings_are_refused_with_what_came():
    with pytest.raises(ValueError, match=r"fused by 'min'; use 'mean' or 'max'"):
        Settings(fusion="min")
    with pytest.raises(ValueError, match=r"discard_ratio is 1"):
        Settings(discard_ratio=1)


def test_maps_of_the_readout_against_a_loop():
    layout = token_layout(
        timm.create_model("vit_small_patch14_reg4_dinov2", img_size=(42, 70), **SMALL)
    )
    attn = torch.rand(2, 3, layout.tokens, layout.tokens)
    readout = torch.rand(2, layout.tokens)
    found = readout_maps(attn, layout, readout)
    assert found.shape == (2, 3, 3, 5)
    for b, head, i, j in np.ndindex(*found.shape):
        expected = (readout[b] * attn[b, head, :, 5 + 5 * i + j]).sum()
        assert found[b, head, i, j] == pytest.approx(float(expected), rel=1e-5)


# One class against another


@pytest.fixture(scope="module")
def maker() -> MapMaker:
    return MapMaker(build("vit_small_patch14_reg4_dinov2"), batch_size=2)


def test_a_contrast_is_signed_by_the_order_of_its_classes_and_nothing_for_a_class_against_itself(
    maker,
):
    images = pictures(maker.model, 3)
    one = torch.tensor([1, 4, 0])
    other = torch.tensor([2, 0, 3])
    found, swapped, same = (
        maker.maps(images, *asked) for asked in ((one, other), (other, one), (one, one))
    )
    for method, signed in found.items():
        torch.testing.assert_close(signed, -swapped[method], rtol=1e-4, atol=1e-6)
        assert not same[method].any()
        if maps.METHODS[method].asks:
            assert (signed > 0).flatten(1).any(dim=1).all()
            assert (signed < 0).flatten(1).any(dim=1).all()
        else:
            assert not signed.any()


def test_a_contrast_is_half_the_difference_of_the_maps_of_a_direction_and_its_opposite(maker):
    images = pictures(maker.model)
    one = torch.tensor([1, 4])
    other = torch.tensor([2, 0])
    found = maker.maps(images, one, other)
    weights = F.one_hot(one, 5).float() - F.one_hot(other, 5)
    (attn, grads, early), _ = whole_stacks(maker.model, images, torch.stack([weights, -weights]))
    readout = maker.layout.readout(None).expand(2, -1)
    prefix = len(maker.layout.prefix)
    sides = [
        whole_maps((attn, grads[side], early[side]), readout, "mean", 0.0, prefix)
        for side in (0, 1)
    ]
    for method, values in sides[0].items():
        half = maker.layout.to_grid(values - sides[1][method]) / 2
        torch.testing.assert_close(found[method], half.detach(), rtol=1e-3, atol=1e-5)
    # positive part minus negative part
    gradient = maker.layout.to_grid(early[0].mean(dim=(1, 2, 3))) / 2
    torch.testing.assert_close(found["LeGrad"], gradient, rtol=1e-3, atol=1e-6)


def test_only_the_methods_that_are_asked_for_are_made_and_they_are_the_same(maker):
    images = pictures(maker.model)
    classes = torch.tensor([1, 4])
    every = maker.maps(images, classes)
    assert [*every] == [*maps.METHODS]
    for method, values in every.items():
        alone = maker.maps(images, classes, methods=[method])
        assert [*alone] == [method]
        torch.testing.assert_close(alone[method], values, rtol=1e-4, atol=1e-6)


def test_a_method_is_one_class(maker, monkeypatch):
    """What a new map takes: it is made, for classes and contrasts, as the others are."""

    class OwnGradient(maps.Map):
        name = "own gradient"
        description = "The mean gradient of the last block."
        asks = frozenset([GRADIENT])

        def pass_block(self, block: BlockAttention) -> None:
            if block.index == 1:
                self.values = block.gradient.mean(dim=(1, 2))

    monkeypatch.setattr(maps, "MAPS", (*maps.MAPS, OwnGradient))
    images = pictures(maker.model)
    classes = torch.tensor([1, 4])
    found = maker.maps(images, classes)
    assert [*found][-1] == "own gradient"
    assert found["own gradient"].std() > 0
    assert "own gradient" in maker.maps(images, classes, classes.flip(0))


def test_classes_need_one_for_each_image(maker):
    images = pictures(maker.model)
    one = torch.tensor([1, 4])
    with pytest.raises(ValueError, match=r"classes: shape \(1,\); use one class per image, \(2,\)"):
        maker.maps(images, torch.tensor([1]))
    with pytest.raises(ValueError, match=r"against: shape \(1,\); use one class per image, \(2,\)"):
        maker.maps(images, one, torch.tensor([2]))
