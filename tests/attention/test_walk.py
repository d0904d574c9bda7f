"""The matrices are the model's own, the gradients those of one graph over the whole model, and only
one block's matrices are held at a time."""

import copy
import gc
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer as TorchvisionViT

from tests.attention.whole import whole_maps, whole_stacks
from tests.small_vits import RELPOS, SIDES, SMALL, Faulty, build, pictures, scatter_weights
from vit_finetune.attention.judge import distances_of, maps_and_shapes
from vit_finetune.attention.maps import GRAPH, MATRICES, METHODS, MapMaker
from vit_finetune.attention.sample import Sample
from vit_finetune.attention.shape import attention_distance, prefix_mass
from vit_finetune.attention.walk import EARLY, EFFECTIVE, GRADIENT, Walk
from vit_finetune.core.errors import UserError
from vit_finetune.model.families import token_layout
from vit_finetune.model.torchvision import load_torchvision_state

CLASSES = torch.tensor([1, 3])
OTHERS = torch.tensor([2, 0])
NOTHING = frozenset[str]()
ALL = frozenset([GRADIENT, EARLY, EFFECTIVE])
# float32, over sums that cancel; a gradient is of the order of 1
CLOSE = {"rtol": 1e-3, "atol": 1e-4}


def matrices_of(model: nn.Module) -> list[Tensor]:
    """The matrix of each block, first block first."""
    walk = Walk(model, pictures(model), NOTHING)
    found: list[Tensor] = []
    walk.each_block(lambda block: found.append(block.attn), [walk.direction(0)])
    return found[::-1]


# The matrices are the model's own


def test_attention_and_gradients_are_those_of_one_graph_over_the_whole_model(any_model):
    images = pictures(any_model)
    walk = Walk(any_model, images, frozenset([GRADIENT, EARLY]))
    directions = [walk.direction(CLASSES), walk.direction(CLASSES) - walk.direction(OTHERS)]
    (attn, grads, early), pooling = whole_stacks(any_model, images, torch.stack(directions))
    seen = []

    def compare(block) -> None:
        c = block.direction
        index = block.index
        torch.testing.assert_close(block.attn, attn[:, index], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(block.gradient, grads[c, :, index], **CLOSE)
        torch.testing.assert_close(block.early, early[c, :, index], **CLOSE)
        seen.append((index, c))

    walk.each_block(compare, directions)
    assert seen == [(1, 0), (1, 1), (0, 0), (0, 1)]
    assert (grads.abs().amax(dim=(0, 1, 3, 4, 5)) > 1e-3).all()
    torch.testing.assert_close(walk.logits, any_model(images).detach(), rtol=1e-4, atol=1e-4)
    assert (walk.pooling is None) == (pooling is None)
    if pooling is not None:
        torch.testing.assert_close(walk.pooling, pooling.detach(), rtol=1e-4, atol=1e-5)
    assert 0 < walk.error < 1e-5
    assert all(p.grad is None for p in any_model.parameters())


def inputs_of(modules: list[nn.Module], model: nn.Module, images: Tensor) -> list[Tensor]:
    """The first argument of each of the modules in a pass of the model."""
    seen: list[Tensor] = []
    hooks = [
        m.register_forward_pre_hook(lambda _module, args: seen.append(args[0])) for m in modules
    ]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return seen


def test_matrices_agree_with_the_weights_of_torchs_multihead_attention():
    """torchvision's model as timm's: its matrices are the weights that torchvision's own layers
    return."""
    theirs = scatter_weights(TorchvisionViT(64, 16, 2, 4, 48, 96, num_classes=5))
    model = timm.create_model(
        "vit_base_patch16_224", **{**SMALL, "img_size": 64, "num_heads": 4, "mlp_ratio": 2}
    )
    load_torchvision_state(model.eval(), theirs.state_dict())
    layers = [layer.self_attention for layer in theirs.encoder.layers]
    inputs = inputs_of(layers, theirs, pictures(model))
    for layer, x, matrix in zip(layers, inputs, matrices_of(model), strict=True):
        with torch.no_grad():
            _, weights = layer(x, x, x, need_weights=True, average_attn_weights=False)
        assert torch.allclose(matrix, weights, atol=1e-6)


def test_matrices_agree_with_the_formula_written_by_hand(vit):
    inputs = inputs_of([block.attn for block in vit.blocks], vit, pictures(vit))
    for block, x, matrix in zip(vit.blocks, inputs, matrices_of(vit), strict=True):
        projected = F.linear(x, block.attn.qkv.weight, block.attn.qkv.bias)
        q, k, _ = projected.unflatten(-1, (3, 3, -1)).permute(2, 0, 3, 1, 4)
        for head in range(3):
            for row in (0, 7):
                # sqrt(16) = 4
                scores = torch.stack([(q[0, head, row] * key).sum() / 4 for key in k[0, head]])
                expected = scores.exp() / scores.exp().sum()
                assert torch.allclose(matrix[0, head, row], expected, atol=1e-6)


@pytest.mark.parametrize("fused", [True, False])
def test_how_the_model_attends_otherwise_changes_nothing_and_stays(fused):
    model = build()
    expected = matrices_of(model)
    for block in model.blocks:
        block.attn.fused_attn = fused
    assert all(
        torch.equal(ours, theirs) for ours, theirs in zip(matrices_of(model), expected, strict=True)
    )
    assert [block.attn.fused_attn for block in model.blocks] == [fused] * 2


# Wrong matrices fail the self-check


@pytest.mark.parametrize("name", [*SIDES, RELPOS])
@pytest.mark.parametrize("faulty", [0, 1])
def test_a_matrix_without_the_scale_fails_the_self_check(name, faulty):
    model = build(name)
    model.blocks[faulty].attn.scale = 1.0  # the kernel does not read it
    with pytest.raises(UserError, match=rf"^blocks\.{faulty}: .*relative"):
        matrices_of(model)


def test_a_matrix_without_rotary_embedding_fails_the_self_check():
    model = build("vit_small_patch16_dinov3")
    walk = Walk(model, pictures(model), NOTHING)
    walk.steps[0].others[1].pop("rope")
    with pytest.raises(UserError, match=r"^blocks\.0: .*relative"):
        walk.each_block(lambda block: None, [walk.direction(0)])


def test_a_pooling_matrix_without_the_scale_fails_the_self_check():
    model = build("vit_base_patch16_siglip_224")
    model.attn_pool.scale = 1.0
    with pytest.raises(UserError, match=r"^attn_pool: .*relative"):
        Walk(model, pictures(model), NOTHING)


def test_half_precision_fails_the_self_check_and_the_error_says_what_to_do(vit):
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(UserError, match=r"^blocks\.1: .*run the model in float32"),
    ):
        matrices_of(vit)


def test_a_self_check_that_is_not_a_number_fails():
    model = build()
    walk = Walk(model, pictures(model), NOTHING)
    walk.steps[0].read.mul_(float("nan"))
    with pytest.raises(UserError, match=r"^blocks\.0: .*nan"):
        walk.each_block(lambda block: None, [walk.direction(0)])


class Silent(nn.Module):
    """An attention module that does not attend."""

    def forward(self, x, **_):
        return x


def test_a_block_that_computes_no_matrix_is_named():
    model = build()
    model.blocks[1].attn = Silent()
    with pytest.raises(UserError, match=r"^the attention of blocks\.1 computes no matrix"):
        matrices_of(model)


def test_a_model_without_blocks_is_refused_in_one_line():
    model = timm.create_model("resnet10t", num_classes=2).eval()
    with pytest.raises(UserError) as raised:
        Walk(model, torch.zeros(1, 3, 64, 64), NOTHING)
    assert str(raised.value) == "attention of a ResNet cannot be shown: it has no encoder `blocks`"


@pytest.mark.parametrize("order", [(0, 1, 0), (1, 0), (0,)])
def test_blocks_that_do_not_run_once_each_in_order_are_refused(order):
    model = build()

    def forward(tokens: Tensor) -> Tensor:
        for index in order:
            tokens = model.blocks[index](tokens)
        return tokens

    model.blocks.forward = forward
    ran = ", ".join(rf"blocks\.{index}" for index in order)
    with pytest.raises(UserError, match=rf"once each, in their order, but these attended: {ran};"):
        Walk(model, pictures(model), NOTHING)


def test_a_model_in_training_mode_is_refused():
    model = build(drop_path_rate=0.5)
    with pytest.raises(RuntimeError, match=r"training mode.*model\.eval\(\)"):
        Walk(model.train(), pictures(model), NOTHING)


def test_directions_need_the_right_shape(vit):
    walk = Walk(vit, pictures(vit), NOTHING)
    with pytest.raises(ValueError, match=r"the shape \(2, 4\); use \(2, 5\)"):
        walk.each_block(lambda block: None, [torch.zeros(2, 4)])


# Maps


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize(("fusion", "ratio"), [("mean", 0.0), ("max", 0.7)])
def test_maps_and_shapes_are_those_of_whole_stacks(name, fusion, ratio):
    model = build(name).double()  # in float32 a sum that cancels differs with its order
    maker = MapMaker(model, fusion, ratio, batch_size=1)
    images = pictures(model).to(next(model.parameters()))
    maps, shapes, _ = maps_and_shapes(maker, Sample(None, images, CLASSES, CLASSES))
    directions = F.one_hot(CLASSES, 5)[None].to(images)
    (attn, grads, early), pooling = whole_stacks(model, images, directions)
    layout = maker.layout
    readout = layout.readout(pooling).to(attn).expand(len(images), -1)
    expected = whole_maps((attn, grads[0], early[0]), readout, fusion, ratio, len(layout.prefix))
    assert [*maps] == [*METHODS]
    for method, values in expected.items():
        torch.testing.assert_close(maps[method], layout.to_grid(values).detach())
    masses = torch.stack(
        [prefix_mass(block, layout, readout) for block in attn.unbind(dim=1)], dim=1
    )
    torch.testing.assert_close(shapes["prefix_mass"], masses.detach())
    torch.testing.assert_close(shapes["distance"], attention_distance(attn, layout))


def test_gradients_are_the_same_for_a_frozen_model_and_for_each_image_alone(vit):
    images = pictures(vit)
    frozen = copy.deepcopy(vit).requires_grad_(False)

    def gradients(model: nn.Module, images: Tensor, classes: Tensor) -> list[Tensor]:
        walk = Walk(model, images, ALL)
        found: list[Tensor] = []
        walk.each_block(
            lambda block: found.extend([block.gradient, block.early]), [walk.direction(classes)]
        )
        return found

    together = gradients(vit, images, CLASSES)
    for image in range(2):
        with torch.inference_mode():
            alone = gradients(frozen, images[[image]], CLASSES[[image]])
        for ours, theirs in zip(alone, together, strict=True):
            torch.testing.assert_close(ours, theirs[[image]], rtol=1e-3, atol=1e-5)


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
    walk = Walk(model, pictures(model), ALL)
    directions = [walk.direction(CLASSES), walk.direction(OTHERS)]
    counts: list[int] = []
    walk.each_block(lambda _block: counts.append(live_matrices()), directions)
    assert set(counts) == {3}  # the attention and two gradients
    kept: list = []
    counts.clear()
    walk.each_block(lambda block: kept.append(block) or counts.append(live_matrices()), directions)
    assert counts[-1] > 3


def test_the_graph_of_a_batch_ends_before_the_next_batch_begins(vit, other_walks):
    maker = MapMaker(vit, batch_size=1)
    images = pictures(vit)
    maker.maps(images, CLASSES)
    maps_and_shapes(maker, Sample(np.arange(2), images, CLASSES, CLASSES))
    distances_of(maker, images)
    assert other_walks == [0] * 6


@pytest.mark.parametrize("name", SIDES)
def test_the_graph_keeps_no_matrix_and_as_much_as_batches_are_sized_for(name):
    # 12 values a head, so that no other tensor looks like a matrix
    model = build(name, num_heads=4)
    kept = {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    images = pictures(model)

    def keep(one: Tensor) -> Tensor:
        kept[one.untyped_storage().data_ptr()] = one
        return one

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one):
        Walk(model, images, ALL)
    of_pass = [one for pointer, one in kept.items() if pointer not in weights]
    tokens = token_layout(model).tokens
    assert not [one for one in of_pass if one.shape[-2:] == (tokens, tokens)]
    values = sum(one.untyped_storage().nbytes() for one in of_pass) / 4 / len(images)
    size = values / (len(model.blocks) * tokens * model.embed_dim)
    assert 6 <= size <= GRAPH * 1.05


IMAGE_BYTES = 4 * (MATRICES * 3 * 17**2 + GRAPH * 2 * 17 * 48)


@pytest.mark.parametrize(
    ("limit", "expected"), [(2**30, 8), (3 * IMAGE_BYTES, 3), (3 * IMAGE_BYTES - 1, 2), (1, 1)]
)
def test_batches_are_as_large_as_the_stated_bytes_allow(limit, expected, monkeypatch):
    monkeypatch.setattr("vit_finetune.attention.maps.BATCH_BYTES", limit)
    maker = MapMaker(build(), batch_size=8)
    assert maker.images_at_once == expected
    assert max(len(batch) for (batch,) in maker.batches(torch.zeros(9, 1))) == expected


# Nothing is left behind


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


def test_everything_is_restored_after_an_error_in_the_pass_or_on_the_way_back(vit):
    broken = build()
    broken.blocks[1].mlp = Faulty()
    with pytest.raises(ZeroDivisionError):
        Walk(broken, pictures(broken), ALL)
    model = copy.deepcopy(vit)
    walk = Walk(model, pictures(vit), ALL)
    model.norm = Faulty()
    with torch.no_grad(), pytest.raises(ZeroDivisionError):
        walk.each_block(lambda block: None, [walk.direction(0)])
    walk = Walk(vit, pictures(vit), ALL)
    with pytest.raises(KeyError):
        walk.each_block(lambda block: {}[block.index], [walk.direction(0)])
    for one in (broken, model, vit):
        assert hooks_of(one) == 0
        assert all(p.requires_grad for p in one.parameters())
        assert all(block.attn.fused_attn for block in one.blocks)
    assert torch.is_grad_enabled()
    assert not walk.operators.are_fixed


def test_a_gradient_that_was_there_stays(vit):
    model = copy.deepcopy(vit)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    MapMaker(model).maps(pictures(model), CLASSES)
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
