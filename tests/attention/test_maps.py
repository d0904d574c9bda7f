"""Every map against a plain double loop over its formula, for one image at a time."""

import pytest
import torch
from torch import Tensor

from vit_finetune import relevance

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
def test_raw(attn, readout, fusion, how, block):
    expected = [read(row_of(readout, b), fuse(attn[b, block], how)) for b in range(B)]
    assert_rows(relevance.raw(attn, readout, fusion, block), expected)


def test_raw_over_all_blocks(attn, readout):
    expected = [
        [mean(column) for column in zip(*(read(row_of(readout, b), fuse(a, max)) for a in attn[b]), strict=True)]
        for b in range(B)
    ]
    assert_rows(relevance.raw(attn, readout, "max", None), expected)


@pytest.mark.parametrize(("fusion", "how"), [("mean", mean), ("max", max)])
@pytest.mark.parametrize("ratio", [0.0, 0.6])
@pytest.mark.parametrize("prefix", [0, P])
def test_rollout(attn, readout, fusion, how, ratio, prefix):
    expected = [
        read(row_of(readout, b), rolled([discard(fuse(a, how), ratio, prefix) for a in attn[b]])) for b in range(B)
    ]
    assert_rows(relevance.rollout(attn, readout, fusion, ratio, prefix), expected)


@pytest.mark.parametrize("ratio", [0.0, 0.6])
def test_gradient_rollout(attn, grads, readout, ratio):
    expected = []
    for b in range(B):
        fused = [fuse(a * g, lambda values: max(0.0, mean(values))) for a, g in zip(attn[b], grads[b], strict=True)]
        expected.append(read(row_of(readout, b), rolled([discard(m, ratio, P) for m in fused])))
    assert_rows(relevance.gradient_rollout(attn, grads, readout, ratio, P), expected)


def test_gradient_rollout_pairs_attention_with_the_gradient_of_the_same_block(attn, grads):
    """The known fault: gradients arrive in backward order and meet the attention of another block."""
    readout = READOUTS["CLS"]
    right = relevance.gradient_rollout(attn, grads, readout)
    assert not torch.allclose(right, relevance.gradient_rollout(attn, grads.flip(1), readout), atol=1e-3)


def test_chefer(attn, grads, readout):
    expected = []
    for b in range(B):
        relevances = identity()
        for a, g in zip(attn[b], grads[b], strict=True):
            added = product(fuse((a * g), lambda values: mean([max(0.0, v) for v in values])), relevances)
            relevances = [[relevances[i][j] + added[i][j] for j in range(T)] for i in range(T)]
        expected.append(read(row_of(readout, b), relevances))
    assert_rows(relevance.chefer(attn, grads, readout), expected)


def test_legrad(grads):
    expected = [
        [
            sum(max(0.0, float(grads[b, m, h, i, j])) for m in range(L) for h in range(H) for i in range(T))
            / (L * H * T)
            for j in range(T)
        ]
        for b in range(B)
    ]
    assert_rows(relevance.legrad(grads), expected)


def test_legrad_of_chosen_rows(grads, readout):
    fused = [
        [[mean([max(0.0, float(v)) for v in grads[b, :, :, i, j].flatten()]) for j in range(T)] for i in range(T)]
        for b in range(B)
    ]
    assert_rows(relevance.legrad(grads, readout), [read(row_of(readout, b), fused[b]) for b in range(B)])


METHODS = {
    "raw": lambda a, g: relevance.raw(a, READOUTS["CLS"]),
    "rollout": lambda a, g: relevance.rollout(a, READOUTS["CLS"], discard_ratio=0.5),
    "gradient rollout": lambda a, g: relevance.gradient_rollout(a, g, READOUTS["CLS"], 0.5),
    "chefer": lambda a, g: relevance.chefer(a, g, READOUTS["CLS"]),
    "legrad": lambda a, g: relevance.legrad(g),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_an_image_does_not_depend_on_its_batch_nor_on_how_blocks_are_given(attn, grads, method):
    together = method(attn, grads)
    alone = torch.cat([method(attn[[b]], grads[[b]]) for b in range(B)])
    listed = method([*attn.unbind(1)], [*grads.unbind(1)])
    assert torch.allclose(together, alone, atol=1e-6)
    assert torch.equal(together, listed)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_rollout_of_a_chain_follows_the_chain():
    """CLS looks at patch 3 in the last block, patch 3 at patch 5 in the first: both, and nothing else, matter."""
    first, last = torch.eye(T), torch.eye(T)
    first[P + 3] = torch.eye(T)[P + 5]
    last[0] = torch.eye(T)[P + 3]
    found = relevance.rollout([m[None, None] for m in (first, last)], READOUTS["CLS"])[0]
    assert found.nonzero().flatten().tolist() == [0, P + 3, P + 5]
    assert found[P + 3] == found[P + 5] == pytest.approx(0.25)


def test_discarding_spares_prefix_columns(attn):
    kept = relevance._discard(attn.mean(dim=2), 0.99, P)
    assert torch.equal(kept[..., :P], attn.mean(dim=2)[..., :P])
    assert ((kept[..., P:] > 0).sum(dim=(-1, -2)) == T * N - int(0.99 * T * N)).all()


def test_errors_name_what_came(attn, grads):
    readout = READOUTS["CLS"]
    with pytest.raises(ValueError, match=r"expected attention \(B, L, H, T, T\); got \(2, 2, 8, 8\)"):
        relevance.raw(attn[:, 0], readout)
    with pytest.raises(ValueError, match=r"must have one shape"):
        relevance.chefer(attn, grads[:, :2], readout)
    with pytest.raises(ValueError, match=r"fused by 'min'; use 'mean' or 'max'"):
        relevance.raw(attn, readout, "min")
    with pytest.raises(ValueError, match=r"discard_ratio is 1"):
        relevance.rollout(attn, readout, discard_ratio=1)
