"""Every map is that of its formula in whole matrices, for classes and for pairs of them."""

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from tests.attention.whole import whole_maps
from tests.small_vits import SMALL, build, pictures
from vit_finetune.attention import maps
from vit_finetune.attention.maps import MapMaker, readout_maps
from vit_finetune.attention.walk import Walk, attention_gradients
from vit_finetune.model.families import token_layout

B, L, H, P, N = 2, 3, 2, 2, 6  # images, blocks, heads, prefix tokens, patches
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


def over_blocks(step, blocks: Tensor, row: Tensor, *settings) -> Tensor:
    """A step of the maps carried through (B, L, ...) blocks, last block first."""
    for block in reversed(blocks.unbind(dim=1)):
        row = step(block, row, *settings)
    return row


@pytest.mark.parametrize("fusion", ["mean", "max"])
@pytest.mark.parametrize("ratio", [0.0, 0.6])
@pytest.mark.parametrize("prefix", [0, P])
def test_every_map_is_that_of_products_of_whole_matrices(
    attn, grads, readout, fusion, ratio, prefix
):
    product = attn * grads
    found = {
        "last block": maps.raw(attn[:, -1], readout, fusion),
        "rollout": over_blocks(maps.rollout, attn, readout, fusion, ratio, prefix),
        "gradient rollout": over_blocks(maps.gradient_rollout, product, readout, ratio, prefix),
        "relevance": over_blocks(maps.chefer, product, readout),
        "LeGrad": torch.stack([maps.legrad(one) for one in grads.unbind(dim=1)]).mean(dim=0),
    }
    rows = readout.expand(B, -1)
    expected = whole_maps((attn, grads, grads), rows, fusion, ratio, prefix)
    assert found.keys() == expected.keys()
    for method, values in expected.items():
        torch.testing.assert_close(found[method], values, rtol=1e-4, atol=1e-5)


def test_rollout_of_a_chain_follows_the_chain():
    """CLS looks at patch 3 in the last block, patch 3 at patch 5 in the first: both, and nothing
    else, matter."""
    first, last = torch.eye(T), torch.eye(T)
    first[P + 3] = torch.eye(T)[P + 5]
    last[0] = torch.eye(T)[P + 3]
    found = over_blocks(
        maps.rollout, torch.stack([first, last])[None, :, None], READOUTS["CLS"][None]
    )[0]
    assert found.nonzero().flatten().tolist() == [0, P + 3, P + 5]
    assert found[P + 3] == found[P + 5] == pytest.approx(0.25)


def test_wrong_arguments_are_refused_with_what_came(attn):
    readout = READOUTS["CLS"]
    with pytest.raises(ValueError, match=r"fused by 'min'; use 'mean' or 'max'"):
        maps.raw(attn[:, 0], readout, "min")
    with pytest.raises(ValueError, match=r"discard_ratio is 1"):
        maps.rollout(attn[:, 0], readout, discard_ratio=1)


def test_maps_of_the_readout_against_a_loop():
    layout = token_layout(
        timm.create_model("vit_small_patch14_reg4_dinov2", img_size=(42, 70), **SMALL)
    )
    attn, readout = torch.rand(2, 3, layout.tokens, layout.tokens), torch.rand(2, layout.tokens)
    found = readout_maps(attn, layout, readout)
    assert found.shape == (2, 3, 3, 5)
    for b, head, i, j in np.ndindex(*found.shape):
        expected = (readout[b] * attn[b, head, :, 5 + 5 * i + j]).sum()
        assert found[b, head, i, j] == pytest.approx(float(expected), rel=1e-5)


# One class against another


@pytest.fixture(scope="module")
def maker() -> MapMaker:
    return MapMaker(build("vit_small_patch14_reg4_dinov2"), batch_size=2)


def test_one_walk_gives_the_maps_of_classes_and_pairs_that_each_gives_alone(maker):
    images, both = pictures(maker.model), [torch.full((2,), k) for k in range(5)]
    seen: list[int] = []
    walk = Walk(maker.model, images)
    found = maker.class_maps(
        walk, [0, 2, 4], [(2, 4), (4, 1)], lambda block: seen.append(block.index)
    )
    assert seen == [1, 0]
    assert [*found.classes] == [0, 2, 4]
    assert [*found.contrasts] == [(2, 4), (4, 1)]
    for k, of_class in found.classes.items():
        for method, values in maker.maps(images, both[k]).items():
            torch.testing.assert_close(
                (found.agnostic | of_class)[method], values, rtol=1e-4, atol=1e-5
            )
    for (a, b), signed in found.contrasts.items():
        assert [*signed] == ["gradient rollout", "relevance", "LeGrad"]
        alone = maker.maps(images, both[a], both[b])
        for method, values in signed.items():
            torch.testing.assert_close(values, alone[method], rtol=1e-3, atol=1e-4)


def test_classes_that_do_not_go_together_take_another_walk_and_the_maps_stay_the_same(
    maker, monkeypatch
):
    walk, seen = Walk(maker.model, pictures(maker.model)), []
    together = maker.class_maps(walk, range(5), [(3, 1)])
    monkeypatch.setattr(maps, "CLASSES_AT_ONCE", 2)
    apart = maker.class_maps(walk, range(5), [(3, 1)], lambda block: seen.append(block.index))
    assert seen == [1, 0]
    assert [*apart.classes] == [*range(5)]
    for k in range(5):
        for method, values in together.classes[k].items():
            torch.testing.assert_close(apart.classes[k][method], values)
    torch.testing.assert_close(
        apart.contrasts[3, 1]["relevance"], together.contrasts[3, 1]["relevance"]
    )


def test_a_contrast_is_signed_by_the_order_of_its_classes_and_nothing_for_a_class_against_itself(
    maker,
):
    images, one, other = pictures(maker.model, 3), torch.tensor([1, 4, 0]), torch.tensor([2, 0, 3])
    found, swapped, same = (
        maker.maps(images, *asked) for asked in ((one, other), (other, one), (one, one))
    )
    for method, signed in found.items():
        assert torch.equal(signed, -swapped[method])
        assert not same[method].any()
        if method in maps.CLASS_AGNOSTIC:
            assert not signed.any()
        else:
            assert (signed > 0).flatten(1).any(dim=1).all()
            assert (signed < 0).flatten(1).any(dim=1).all()


def test_a_contrast_is_the_map_of_one_side_minus_that_of_the_other(maker):
    images, one, other = pictures(maker.model), torch.tensor([1, 4]), torch.tensor([2, 0])
    found, layout = maker.maps(images, one, other), maker.layout
    sides = [
        attention_gradients(maker.model, images, *asked, per_block=True)
        for asked in ((one, other), (other, one))
    ]
    readout = layout.readout(None)
    relevance, other_relevance = (
        layout.to_grid(over_blocks(maps.chefer, s.attn * s.grads, readout)) for s in sides
    )
    torch.testing.assert_close(found["relevance"], relevance - other_relevance)
    # positive part minus negative part
    legrad = layout.to_grid(sides[0].block_grads.mean(dim=(1, 2, 3)))
    torch.testing.assert_close(found["LeGrad"], legrad, rtol=1e-3, atol=1e-6)


def test_a_contrast_needs_a_second_class_for_each_image(maker):
    with pytest.raises(ValueError, match=r"against: shape \(1,\); use one class per image, \(2,\)"):
        maker.maps(pictures(maker.model), torch.tensor([1, 4]), torch.tensor([2]))
