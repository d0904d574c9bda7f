"""Block by block, the walk finds what one pass over the whole model finds, and holds the matrices
of one block."""

import copy
import gc

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.attention.whole import textbook_attention, whole_maps, whole_stacks
from tests.small_vits import SIDES, build, pictures
from vit_finetune.attention import capture as capture_module
from vit_finetune.attention.capture import capture
from vit_finetune.attention.judge import maps_and_shapes
from vit_finetune.attention.maps import GRAPH, MATRICES, METHODS, MapMaker
from vit_finetune.attention.sample import Sample
from vit_finetune.attention.shape import attention_distance, prefix_mass
from vit_finetune.attention.walk import Walk, attention_gradients, directions_of
from vit_finetune.core.errors import UserError
from vit_finetune.model.families import token_layout

RELPOS = "vit_relpos_small_patch16_224"  # none of our families: a walk needs to know no family
ORIGINAL = F.scaled_dot_product_attention
CLASSES, OTHERS = torch.tensor([1, 3]), torch.tensor([2, 0])
# float32, over sums that cancel; a gradient is of the order of 1
CLOSE = {"rtol": 1e-3, "atol": 1e-4}


@pytest.fixture(scope="module", params=[*SIDES, RELPOS])
def any_model(request) -> nn.Module:
    torch.manual_seed(0)
    return build(request.param)


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    torch.manual_seed(0)
    return build()


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
    torch.manual_seed(0)
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


def test_a_step_along_a_gradient_changes_the_chosen_logit_as_the_gradient_says(vit):
    images = pictures(vit)
    found, (block, head, row, column) = attention_gradients(vit, images, CLASSES), (1, 2, 0, 5)

    def logit_after(step: float) -> Tensor:
        def nudged(number: int, matrix: Tensor) -> Tensor:
            matrix[:, head, row, column] += step * (number == block)
            return matrix

        with torch.no_grad(), textbook_attention(nudged):
            return vit(images).gather(1, CLASSES[:, None])[:, 0]

    step = 0.01
    change = (logit_after(step) - logit_after(-step)) / (2 * step)
    assert torch.allclose(change, found.grads[:, block, head, row, column], rtol=2e-3, atol=5e-4)


def test_a_walk_that_forgets_to_hand_on_the_gradient_is_caught(vit, monkeypatch):
    """The mutation: every block is given the gradient that the head hands to the last one."""
    images, directions = pictures(vit), both_directions()
    (_, grads, _), _ = whole_stacks(vit, images, directions)
    real = Walk._back
    monkeypatch.setattr(
        Walk, "_back", lambda self, index, handed: (real(self, index, handed)[0], handed)
    )
    found = Walk(vit, images).each_block(lambda block: block.gradient(block.reads[0]), directions)
    torch.testing.assert_close(found[0], grads[0, :, 1], **CLOSE)
    assert not torch.allclose(
        found[1], grads[0, :, 0], rtol=0.1, atol=0.1 * grads[0, :, 0].abs().amax().item()
    )


def test_what_is_read_is_linear_so_a_contrast_is_the_difference_of_two_classes(any_model):
    images = pictures(any_model)
    asked = [
        directions_of(CLASSES, None, 5),
        directions_of(OTHERS, None, 5),
        directions_of(CLASSES, OTHERS, 5),
    ]

    def compare(block) -> None:
        for reads in (block.reads, block.early_reads):
            torch.testing.assert_close(reads[0] - reads[1], reads[2], **CLOSE)
            difference = block.gradient(reads[0]) - block.gradient(reads[1])
            torch.testing.assert_close(block.gradient(reads[0] - reads[1]), difference, **CLOSE)

    Walk(any_model, images).each_block(compare, torch.cat(asked), early=True)


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


def test_gradients_per_block_are_those_of_a_model_that_ends_with_the_block(vit):
    images = pictures(vit)
    found = attention_gradients(vit, images, CLASSES, per_block=True)
    assert torch.allclose(found.block_grads[:, -1], found.grads[:, -1], atol=1e-6)
    shallow = copy.deepcopy(vit)
    shallow.blocks = shallow.blocks[:1]
    expected = attention_gradients(shallow, images, CLASSES).grads
    assert torch.allclose(found.block_grads[:, :1], expected, atol=1e-6)


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


def test_a_second_walk_back_finds_the_same(vit):
    walk = Walk(vit, pictures(vit))
    first, second = (
        walk.each_block(lambda block: block.reads, both_directions(), early=True) for _ in range(2)
    )
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


# One block at a time


def live_matrices(images: int = 2, tokens: int = 17) -> int:
    """Tensors of (T, T) matrices of images that anything still holds, counted once for each
    memory."""
    gc.collect()
    found = [
        one
        for one in gc.get_objects()
        if issubclass(type(one), Tensor) and one.shape[-2:] == (tokens, tokens)
    ]
    return len({one.untyped_storage().data_ptr() for one in found if one.shape[0] == images})


def test_only_one_blocks_matrices_live_during_the_walk():
    model = build(depth=3)
    walk, before = Walk(model, pictures(model)), live_matrices()
    counts = walk.each_block(lambda _block: live_matrices() - before, both_directions(), early=True)
    assert counts == [1] * 3  # its attention; gradients are made when they are asked for
    kept: list = []
    # it does count
    assert walk.each_block(lambda block: kept.append(block) or live_matrices() - before) == [
        1,
        2,
        3,
    ]


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


def test_the_maps_of_many_classes_and_pairs_keep_no_matrix_of_a_block():
    model = build()
    walk, before, most = Walk(model, pictures(model)), live_matrices(), []
    MapMaker(model).class_maps(
        walk, range(5), [(0, 1), (1, 4)], lambda _block: most.append(live_matrices() - before)
    )
    assert most == [1, 1]


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


class Faulty(nn.Module):
    def forward(self, x):
        raise ZeroDivisionError("inside the model")


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


@pytest.mark.parametrize("faulty", [0, 1])
def test_the_self_check_is_of_every_block(vit, monkeypatch, faulty):
    real, calls = capture_module._probabilities, iter([1, 0])  # last block first
    monkeypatch.setattr(
        capture_module,
        "_probabilities",
        lambda q, k, m, s: real(q, k, m, 1.0 if next(calls) == faulty else s),
    )
    with pytest.raises(UserError, match=rf"^blocks\.{faulty}: .*relative error"):
        Walk(vit, pictures(vit)).each_block(lambda block: block.index)


class Silent(nn.Module):
    """An attention module that does not attend."""

    def forward(self, x, **_):
        return x


def test_a_block_that_does_not_attend_is_named():
    model = build()
    model.blocks[1].attn = Silent()
    with pytest.raises(
        UserError, match=r"^attention of 1 of 2 encoder blocks was not captured: blocks\.1;"
    ):
        Walk(model, pictures(model)).each_block(lambda block: block.index)


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
