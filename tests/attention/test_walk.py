"""Block by block, the walk finds what one pass over the whole model finds, and holds the matrices
of one block."""

import copy
import gc
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.attention.whole import whole_maps, whole_stacks
from tests.small_vits import SIDES, Faulty, build, pictures
from vit_finetune.attention.capture import capture
from vit_finetune.attention.judge import maps_and_shapes
from vit_finetune.attention.maps import GRAPH, MATRICES, METHODS, MapMaker
from vit_finetune.attention.sample import Sample
from vit_finetune.attention.shape import attention_distance, prefix_mass
from vit_finetune.attention.walk import Walk, attention_gradients, directions_of
from vit_finetune.core.errors import UserError
from vit_finetune.model.families import token_layout

ORIGINAL = F.scaled_dot_product_attention
CLASSES, OTHERS = torch.tensor([1, 3]), torch.tensor([2, 0])
# float32, over sums that cancel; a gradient is of the order of 1
CLOSE = {"rtol": 1e-3, "atol": 1e-4}


def both_directions() -> Tensor:
    """(2, B, K): a class, and a class against another."""
    return torch.cat([directions_of(CLASSES, None, 5), directions_of(CLASSES, OTHERS, 5)])


# Equal to one pass over the whole model


def test_attention_and_gradients_are_those_of_one_graph_over_the_whole_model(any_model):
    images, directions = pictures(any_model), both_directions()
    (attn, grads, early), pooling = whole_stacks(any_model, images, directions)
    walk = Walk(any_model, images)

    def compare(block) -> int:
        torch.testing.assert_close(block.attn, attn[:, block.index], rtol=1e-4, atol=1e-5)
        for ours, theirs in ((block.reads, grads), (block.early_reads, early)):
            for read, of_direction in zip(ours, theirs, strict=True):
                torch.testing.assert_close(
                    block.gradient(read), of_direction[:, block.index], **CLOSE
                )
        return block.index

    assert walk.each_block(compare, directions, early=True) == [1, 0]
    assert (grads.abs().amax(dim=(0, 1, 3, 4, 5)) > 1e-3).all()
    torch.testing.assert_close(walk.logits, any_model(images).detach(), rtol=1e-4, atol=1e-4)
    assert (walk.pooling is None) == (pooling is None)
    if pooling is not None:
        torch.testing.assert_close(walk.pooling, pooling.detach(), rtol=1e-4, atol=1e-5)
    assert 0 <= walk.error < 1e-5
    assert all(p.grad is None for p in any_model.parameters())


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize(("fusion", "ratio"), [("mean", 0.0), ("max", 0.7)])
def test_maps_and_shapes_are_those_of_whole_stacks(name, fusion, ratio):
    model = build(name).double()  # in float32 a sum that cancels differs with its order
    maker = MapMaker(model, fusion, ratio, batch_size=1)
    images = pictures(model).to(next(model.parameters()))
    maps, shapes, _ = maps_and_shapes(maker, Sample(None, images, CLASSES, CLASSES))
    (attn, grads, early), pooling = whole_stacks(
        model, images, directions_of(CLASSES, None, 5).to(images)
    )
    layout = maker.layout
    readout = layout.readout(pooling).to(attn).expand(len(images), -1)
    expected = whole_maps((attn, grads[0], early[0]), readout, fusion, ratio, len(layout.prefix))
    assert [*maps] == [*METHODS]
    for method, values in expected.items():
        torch.testing.assert_close(
            maps[method], layout.to_grid(values).detach().float(), rtol=1e-3, atol=1e-5
        )
    masses = torch.stack(
        [prefix_mass(block, layout, readout) for block in attn.unbind(dim=1)], dim=1
    )
    torch.testing.assert_close(shapes["prefix_mass"], masses.detach().float(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        shapes["distance"], attention_distance(attn, layout).float(), rtol=1e-4, atol=1e-4
    )


def test_gradients_are_the_same_for_a_frozen_model_and_for_each_image_alone(vit):
    images = pictures(vit)
    expected = attention_gradients(vit, images, CLASSES, per_block=True)
    frozen = copy.deepcopy(vit).requires_grad_(False)
    for image in range(2):
        with torch.inference_mode():
            alone = attention_gradients(frozen, images[[image]], CLASSES[[image]], per_block=True)
        for ours, theirs in (
            (alone.grads, expected.grads),
            (alone.block_grads, expected.block_grads),
        ):
            assert torch.allclose(ours, theirs[[image]], rtol=1e-3, atol=1e-5)


def test_without_directions_the_walk_gives_the_attention_alone(vit):
    with torch.no_grad(), capture(vit) as seen:
        vit(pictures(vit))
    for gradients in (True, False):
        walk = Walk(vit, pictures(vit), gradients=gradients)
        found = walk.each_block(
            lambda block: (block.attn, len(block.reads), block.early_reads), early=True
        )
        assert [rest for _, *rest in found] == [[0, None]] * 2
        assert torch.equal(
            torch.stack([attn for attn, *_ in reversed(found)], dim=1), seen.stacked()
        )


# One block at a time


@pytest.fixture
def live_matrices() -> Iterator[Callable[[], int]]:
    """Counts the memories of (T, T) matrices of images that the test made and anything still
    holds."""

    def count(images: int = 2, tokens: int = 17) -> int:
        gc.collect()
        tensors = [one for one in gc.get_objects() if issubclass(type(one), Tensor)]
        return len(
            {
                one.untyped_storage().data_ptr()
                for one in tensors
                if one.shape[-2:] == (tokens, tokens) and one.shape[0] == images
            }
        )

    gc.collect()
    gc.freeze()  # what was there before is not looked through
    yield count
    gc.unfreeze()


def test_only_one_blocks_matrices_live_during_the_walk(live_matrices):
    model = build(depth=3)
    walk = Walk(model, pictures(model))
    counts = walk.each_block(lambda _block: live_matrices(), both_directions(), early=True)
    assert counts == [1] * 3  # its attention; gradients are made when they are asked for
    kept: list = []
    assert walk.each_block(lambda block: kept.append(block) or live_matrices()) == [1, 2, 3]


@pytest.mark.parametrize("name", SIDES)
def test_the_graph_keeps_no_matrix_and_as_much_as_batches_are_sized_for(name):
    # 12 values a head, so that no other tensor looks like a matrix
    model, kept = build(name, num_heads=4), {}
    weights, images = {p.untyped_storage().data_ptr() for p in model.parameters()}, pictures(model)

    def keep(one: Tensor) -> Tensor:
        kept[one.untyped_storage().data_ptr()] = one
        return one

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one):
        walk = Walk(model, images)
        of_pass = [one for pointer, one in kept.items() if pointer not in weights]
        walk.each_block(lambda block: block.index, both_directions(), early=True)
    tokens = token_layout(model).tokens
    matrices = [one for one in kept.values() if one.shape[-2:] == (tokens, tokens)]
    assert all(one.shape[0] == 1 for one in matrices)  # BEiT's bias, which belongs to no image
    values = sum(one.untyped_storage().nbytes() for one in of_pass) / 4 / len(images)
    assert 10 <= values / (len(model.blocks) * tokens * model.embed_dim) <= GRAPH * 1.05


def test_the_maps_of_many_classes_and_pairs_keep_no_matrix_of_a_block(live_matrices):
    model, counts = build(), []
    walk = Walk(model, pictures(model))
    MapMaker(model).class_maps(
        walk, range(5), [(0, 1), (1, 4)], lambda _block: counts.append(live_matrices())
    )
    assert counts == [1, 1]


IMAGE_BYTES = 4 * (MATRICES * 3 * 17**2 + GRAPH * 2 * 17 * 48)


@pytest.mark.parametrize(
    ("limit", "expected"), [(2**30, 8), (3 * IMAGE_BYTES, 3), (3 * IMAGE_BYTES - 1, 2), (1, 1)]
)
def test_batches_are_as_large_as_the_stated_bytes_allow(limit, expected, monkeypatch):
    monkeypatch.setattr("vit_finetune.attention.maps.BATCH_BYTES", limit)
    maker = MapMaker(build(), batch_size=8)
    assert maker.images_at_once == expected
    assert max(len(batch) for (batch,) in maker.batches(torch.zeros(9, 1))) == expected


# Nothing is left behind, and what cannot be right is an error


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


def test_everything_is_restored_after_an_error_in_the_pass_or_on_the_way_back(vit):
    broken = build()
    broken.blocks[1].mlp = Faulty()
    with pytest.raises(ZeroDivisionError):
        Walk(broken, pictures(broken))
    walk = Walk(model := copy.deepcopy(vit), pictures(vit))
    model.norm = Faulty()
    with torch.no_grad(), pytest.raises(ZeroDivisionError):
        walk.each_block(lambda block: block.index, both_directions(), early=True)
    with pytest.raises(KeyError):
        Walk(vit, pictures(vit)).each_block(lambda block: {}[block.index])
    assert F.scaled_dot_product_attention is ORIGINAL
    for one in (broken, model, vit):
        assert hooks_of(one) == 0
        assert all(p.requires_grad for p in one.parameters())
    assert torch.is_grad_enabled()
    with capture(vit):  # and the function is free
        pass


def test_a_gradient_that_was_there_stays(vit):
    model = copy.deepcopy(vit)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    attention_gradients(model, pictures(model), CLASSES, per_block=True)
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())


def test_a_model_in_training_mode_is_refused():
    model = build(drop_path_rate=0.5)
    with pytest.raises(RuntimeError, match=r"training mode.*model\.eval\(\)"):
        Walk(model.train(), pictures(model))


class Causal(nn.Module):
    """Attention of a kind that a capture does not know."""

    def forward(self, x, **_):
        heads = x[:, None]
        return F.scaled_dot_product_attention(heads, heads, heads, is_causal=True)[:, 0]


@pytest.mark.parametrize("faulty", [0, 1])
def test_the_self_check_is_of_every_block(faulty):
    model = build()
    model.blocks[faulty].attn = Causal()
    walk = Walk(model, pictures(model))
    with pytest.raises(UserError, match=rf"^blocks\.{faulty}: .*relative error"):
        walk.each_block(lambda block: block.index)


@pytest.mark.parametrize(
    ("order", "message"),
    [((0, 1, 0), r"^blocks\.0 attended more than once"), ((1, 0), "do not run in their order")],
)
def test_blocks_that_do_not_run_once_each_in_order_are_refused(order, message):
    model = build()

    def forward(tokens: Tensor) -> Tensor:
        for index in order:
            tokens = model.blocks[index](tokens)
        return tokens

    model.blocks.forward = forward
    with pytest.raises(UserError, match=message):
        Walk(model, pictures(model))


def test_classes_and_directions_need_the_right_shape(vit):
    with pytest.raises(ValueError, match=r"classes: shape \(1,\); use one class per image, \(2,\)"):
        attention_gradients(vit, pictures(vit), torch.tensor([1]))
    with pytest.raises(ValueError, match=r"directions: shape \(1, 2, 4\); use \(C, 2, 5\)"):
        Walk(vit, pictures(vit)).each_block(lambda block: block.index, torch.zeros(1, 2, 4))
