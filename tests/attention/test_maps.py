"""Every map against a plain double loop over its formula, for one image at a time."""

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.small_vits import SMALL, build, pictures
from vit_finetune.attention import maps
from vit_finetune.attention.capture import attention_gradients, capture
from vit_finetune.attention.maps import MapMaker, readout_maps
from vit_finetune.model.families import token_layout

B, L, H, P, N = 2, 3, 2, 2, 6  # images, blocks, heads, prefix tokens, patches
T = P + N
READOUTS = {
    "CLS": torch.eye(T)[0],
    "mean of CLS and DIST": torch.eye(T)[:2].mean(dim=0),
    "mean of the patches": torch.tensor([0.0] * P + [1 / N] * N),
    "attention pooling": torch.rand(B, T, generator=torch.Generator().manual_seed(4)).softmax(dim=-1),
}


@pytest.fixture(scope="module")
def attn() -> Tensor:
    return (torch.randn(B, L, H, T, T, generator=torch.Generator().manual_seed(0)) * 2).softmax(dim=-1)


@pytest.fixture(scope="module")
def grads() -> Tensor:
    return torch.randn(B, L, H, T, T, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=READOUTS.values(), ids=READOUTS)
def readout(request) -> Tensor:
    return request.param


def row_of(readout: Tensor, image: int) -> list[float]:
    return (readout if readout.ndim == 1 else readout[image]).tolist()


def read(weights: list[float], matrix: list[list[float]]) -> list[float]:
    return [sum(weights[i] * matrix[i][j] for i in range(T)) for j in range(T)]


def product(left: list[list[float]], right: list[list[float]]) -> list[list[float]]:
    return [read(row, right) for row in left]


def identity() -> list[list[float]]:
    return [[float(i == j) for j in range(T)] for i in range(T)]


def fuse(matrices: Tensor, how) -> list[list[float]]:
    """(H, T, T) -> nested lists, `how` applied to the H values of each entry."""
    return [[how([float(m[i, j]) for m in matrices]) for j in range(T)] for i in range(T)]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def discard(matrix: list[list[float]], ratio: float, prefix: int) -> list[list[float]]:
    entries = sorted((matrix[i][j], i, j) for i in range(T) for j in range(prefix, T))
    for _, i, j in entries[: int(ratio * len(entries))]:
        matrix[i][j] = 0.0
    return matrix


def rolled(matrices: list[list[list[float]]]) -> list[list[float]]:
    """The textbook order: R = A'_l R from the first block on, with the full matrix."""
    result = identity()
    for matrix in matrices:
        mixed = [[0.5 * matrix[i][j] + 0.5 * (i == j) for j in range(T)] for i in range(T)]
        result = product([[value / sum(row) for value in row] for row in mixed], result)
    return result


def assert_rows(found: Tensor, expected: list[list[float]]) -> None:
    assert found.shape == (B, T)
    assert torch.allclose(found, torch.tensor(expected), atol=1e-5)


@pytest.mark.parametrize(("fusion", "how"), [("mean", mean), ("max", max)])
@pytest.mark.parametrize("block", [0, -1])
def test_raw_is_the_readouts_row_of_one_block(attn, readout, fusion, how, block):
    expected = [read(row_of(readout, b), fuse(attn[b, block], how)) for b in range(B)]
    assert_rows(maps.raw(attn, readout, fusion, block), expected)


def test_raw_without_a_block_is_the_mean_over_all_blocks(attn, readout):
    expected = [
        [mean(column) for column in zip(*(read(row_of(readout, b), fuse(a, max)) for a in attn[b]), strict=True)]
        for b in range(B)
    ]
    assert_rows(maps.raw(attn, readout, "max", None), expected)


@pytest.mark.parametrize(("fusion", "how"), [("mean", mean), ("max", max)])
@pytest.mark.parametrize("ratio", [0.0, 0.6])
@pytest.mark.parametrize("prefix", [0, P])
def test_rollout_against_a_loop(attn, readout, fusion, how, ratio, prefix):
    expected = [
        read(row_of(readout, b), rolled([discard(fuse(a, how), ratio, prefix) for a in attn[b]])) for b in range(B)
    ]
    assert_rows(maps.rollout(attn, readout, fusion, ratio, prefix), expected)


@pytest.mark.parametrize("ratio", [0.0, 0.6])
def test_gradient_rollout_against_a_loop(attn, grads, readout, ratio):
    expected = []
    for b in range(B):
        fused = [fuse(a * g, lambda values: max(0.0, mean(values))) for a, g in zip(attn[b], grads[b], strict=True)]
        expected.append(read(row_of(readout, b), rolled([discard(m, ratio, P) for m in fused])))
    assert_rows(maps.gradient_rollout(attn, grads, readout, ratio, P), expected)


def test_gradient_rollout_pairs_attention_with_the_gradient_of_the_same_block(attn, grads):
    """The known fault: gradients arrive in backward order and meet the attention of another block."""
    readout = READOUTS["CLS"]
    right = maps.gradient_rollout(attn, grads, readout)
    assert not torch.allclose(right, maps.gradient_rollout(attn, grads.flip(1), readout), atol=1e-3)


def test_chefer_against_a_loop(attn, grads, readout):
    expected = []
    for b in range(B):
        relevances = identity()
        for a, g in zip(attn[b], grads[b], strict=True):
            added = product(fuse((a * g), lambda values: mean([max(0.0, v) for v in values])), relevances)
            relevances = [[relevances[i][j] + added[i][j] for j in range(T)] for i in range(T)]
        expected.append(read(row_of(readout, b), relevances))
    assert_rows(maps.chefer(attn, grads, readout), expected)


def test_legrad_against_a_loop(grads):
    expected = [
        [
            sum(max(0.0, float(grads[b, m, h, i, j])) for m in range(L) for h in range(H) for i in range(T))
            / (L * H * T)
            for j in range(T)
        ]
        for b in range(B)
    ]
    assert_rows(maps.legrad(grads), expected)


def test_legrad_of_the_rows_that_the_readout_chooses(grads, readout):
    fused = [
        [[mean([max(0.0, float(v)) for v in grads[b, :, :, i, j].flatten()]) for j in range(T)] for i in range(T)]
        for b in range(B)
    ]
    assert_rows(maps.legrad(grads, readout), [read(row_of(readout, b), fused[b]) for b in range(B)])


METHODS = {
    "raw": lambda a, g: maps.raw(a, READOUTS["CLS"]),
    "rollout": lambda a, g: maps.rollout(a, READOUTS["CLS"], discard_ratio=0.5),
    "gradient rollout": lambda a, g: maps.gradient_rollout(a, g, READOUTS["CLS"], 0.5),
    "chefer": lambda a, g: maps.chefer(a, g, READOUTS["CLS"]),
    "legrad": lambda a, g: maps.legrad(g),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_map_does_not_depend_on_the_batch(attn, grads, method):
    together = method(attn, grads)
    alone = torch.cat([method(attn[[b]], grads[[b]]) for b in range(B)])
    assert torch.allclose(together, alone, atol=1e-6)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_rollout_of_a_chain_follows_the_chain():
    """CLS looks at patch 3 in the last block, patch 3 at patch 5 in the first: both, and nothing else, matter."""
    first, last = torch.eye(T), torch.eye(T)
    first[P + 3] = torch.eye(T)[P + 5]
    last[0] = torch.eye(T)[P + 3]
    found = maps.rollout(torch.stack([first, last])[None, :, None], READOUTS["CLS"])[0]
    assert found.nonzero().flatten().tolist() == [0, P + 3, P + 5]
    assert found[P + 3] == found[P + 5] == pytest.approx(0.25)


def test_discarding_zeroes_the_stated_share_of_patch_columns_and_no_prefix_column(attn):
    kept = maps._discard(attn.mean(dim=2), 0.99, P)
    assert torch.equal(kept[..., :P], attn.mean(dim=2)[..., :P])
    assert ((kept[..., P:] > 0).sum(dim=(-1, -2)) == T * N - int(0.99 * T * N)).all()


def test_wrong_arguments_are_refused_with_what_came(attn):
    readout = READOUTS["CLS"]
    with pytest.raises(ValueError, match=r"fused by 'min'; use 'mean' or 'max'"):
        maps.raw(attn, readout, "min")
    with pytest.raises(ValueError, match=r"discard_ratio is 1"):
        maps.rollout(attn, readout, discard_ratio=1)


def test_maps_of_the_readout_against_a_loop():
    layout = token_layout(timm.create_model("vit_small_patch14_reg4_dinov2", img_size=(42, 70), **SMALL))
    attn, readout = torch.rand(2, 2, 3, layout.tokens, layout.tokens), torch.rand(2, layout.tokens)
    found = readout_maps(attn, layout, readout)
    assert found.shape == (2, 2, 3, 3, 5)
    for b, block, head, i, j in np.ndindex(*found.shape):
        expected = (readout[b] * attn[b, block, head, :, 5 + 5 * i + j]).sum()
        assert found[b, block, head, i, j] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("name", ["vit_small_patch14_reg4_dinov2", "vit_base_patch16_siglip_224"])
def test_a_map_maker_follows_its_settings_in_batches_of_any_size(name):
    model = build(name)
    images, classes = pictures(model, 3), torch.tensor([1, 4, 0])
    maker = MapMaker(model, "max", 0.9, batch_size=2)
    found, layout = maker.maps(images, classes), token_layout(model)
    gradients = maker.gradients(images, classes)
    attn, grads, readout, prefix = gradients.attn, gradients.grads, maker.readout(gradients), len(layout.prefix)
    expected = {
        "last block": maps.raw(attn, readout, "max"),
        "rollout": maps.rollout(attn, readout, "max", 0.9, prefix),
        "gradient rollout": maps.gradient_rollout(attn, grads, readout, 0.9, prefix),
        "relevance": maps.chefer(attn, grads, readout),
        "LeGrad": maps.legrad(gradients.block_grads),
    }
    assert [*found] == [*expected] == [*maps.METHODS]
    for method, values in expected.items():
        torch.testing.assert_close(found[method], layout.to_grid(values), rtol=1e-3, atol=1e-6)


# One class against another


class Averager(nn.Module):
    """One block, one head: token 0 reads the values (1, 3, T, 2) of three tokens, and the head weighs what it read."""

    weights = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0]])  # of classes 0, 1, 2

    class Block(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(torch.zeros_like(values), values, values)

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(self.Block())

    def forward(self, values: Tensor) -> Tensor:
        return self.blocks(values)[:, 0, 0] @ self.weights.T


@pytest.fixture(scope="module")
def maker() -> MapMaker:
    return MapMaker(build("vit_small_patch14_reg4_dinov2"), batch_size=2)


def test_the_gradient_of_a_contrast_worked_out_by_hand():
    """d logit_k / d P[0, j] = w_k . v_j, so class 0 against class 1 has v_j0 - 2 v_j1; P is uniform."""
    values = torch.tensor([[1.0, 2.0], [5.0, 1.0], [4.0, 2.0]]).expand(1, 1, 3, 2)
    found = attention_gradients(Averager(), values, torch.tensor([0]), torch.tensor([1]))
    expected = torch.tensor([[-3.0, 3.0, 0.0], [0.0] * 3, [0.0] * 3])
    torch.testing.assert_close(found.grads[0, 0, 0], expected)
    torch.testing.assert_close(found.attn, torch.full_like(found.attn, 1 / 3))
    readout = torch.eye(3)[0]
    signed = maps.chefer(found.attn, found.grads, readout) - maps.chefer(found.attn, -found.grads, readout)
    torch.testing.assert_close(signed, torch.tensor([[-1.0, 1.0, 0.0]]))


def test_the_gradient_of_a_contrast_is_the_difference_of_those_of_its_classes(maker):
    images, one, other = pictures(maker.model, 3), torch.tensor([1, 4, 0]), torch.tensor([2, 0, 3])
    both, first, second = (maker.gradients(images, *asked) for asked in ((one, other), (one,), (other,)))
    assert both.grads.abs().amax() > 1e-3
    torch.testing.assert_close(both.grads, first.grads - second.grads, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(both.block_grads, first.block_grads - second.block_grads, rtol=1e-3, atol=1e-6)


def test_a_contrast_is_signed_by_the_order_of_its_classes_and_nothing_for_a_class_against_itself(maker):
    images, one, other = pictures(maker.model, 3), torch.tensor([1, 4, 0]), torch.tensor([2, 0, 3])
    found, swapped, same = (maker.maps(images, *asked) for asked in ((one, other), (other, one), (one, one)))
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
    sides = [maker.gradients(images, *asked) for asked in ((one, other), (other, one))]
    relevance, other_relevance = (layout.to_grid(maps.chefer(s.attn, s.grads, maker.readout(s))) for s in sides)
    torch.testing.assert_close(found["relevance"], relevance - other_relevance)
    legrad = layout.to_grid(sides[0].block_grads.mean(dim=(1, 2, 3)))  # positive part minus negative part
    torch.testing.assert_close(found["LeGrad"], legrad, rtol=1e-3, atol=1e-6)


def test_without_a_second_class_a_map_is_that_of_the_one_logit_to_the_last_bit(maker):
    images, classes = pictures(maker.model), torch.tensor([1, 4])
    with torch.enable_grad(), capture(maker.model, "replace") as seen:
        logit = maker.model(images).gather(1, classes[:, None]).sum()
        grads = torch.stack(torch.autograd.grad(logit, seen.attn), dim=1)
    relevance = maps.chefer(seen.stacked().detach(), grads, maker.layout.readout(None))
    assert torch.equal(maker.maps(images, classes)["relevance"], maker.layout.to_grid(relevance))


def test_a_contrast_needs_a_second_class_for_each_image(maker):
    with pytest.raises(ValueError, match=r"against: shape \(1,\); use one class per image, \(2,\)"):
        maker.gradients(pictures(maker.model), torch.tensor([1, 4]), torch.tensor([2]))
