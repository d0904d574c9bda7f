"""The captured attention is the model's own: proven by the self-check and by three other ways to
compute it."""

import copy
import math
from dataclasses import replace

import pytest
import timm
import torch
from timm.utils import AttentionExtract
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer as TorchvisionViT

from tests.small_vits import RELPOS, SIDES, SMALL, Faulty, build, pictures, scatter_weights
from vit_finetune.attention.capture import Call, Capture, capture, check
from vit_finetune.core.errors import UserError
from vit_finetune.model.torchvision import load_torchvision_state

# read at import, before any capture could have left something behind
ORIGINAL = F.scaled_dot_product_attention


def observe(model: nn.Module) -> Capture:
    with torch.no_grad(), capture(model) as seen:
        model(pictures(model))
    check(seen)
    return seen


# Every kind of model


def test_every_block_is_captured_and_the_logits_stay_the_same(any_model):
    images = pictures(any_model)
    with torch.no_grad():
        expected = any_model(images)
        with capture(any_model) as seen:
            logits = any_model(images)
    numbers = check(seen, tolerance=1e-5)
    assert torch.allclose(logits, expected, atol=1e-5)
    assert numbers["blocks_captured"] == numbers["blocks_total"] == 2
    assert numbers["pooling_captured"] == (getattr(any_model, "attn_pool", None) is not None)
    assert seen.stacked().shape[:3] == (2, 2, 3)
    assert seen.stacked().std() > 0.01


# Other ways to compute it agree, and wrong ones fail the self-check


def qkv(attn: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v (B, H, T, d) straight from the projection: before any norm or rotary embedding."""
    projected = F.linear(x, attn.qkv.weight, attn.qkv.bias)
    return tuple(projected.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4))


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


def attention_inputs(model: nn.Module) -> list[Tensor]:
    return inputs_of([block.attn for block in model.blocks], model, pictures(model))


def test_agrees_with_timms_own_extractor_also_where_the_fused_kernel_is_not_used(vit):
    unfused = copy.deepcopy(vit)
    for block in unfused.blocks:
        block.attn.fused_attn = False
    with torch.no_grad():
        reference = AttentionExtract(unfused, method="hook")(pictures(vit))
    for captured, expected in zip(observe(unfused).attn, reference.values(), strict=True):
        assert torch.allclose(captured, expected, atol=1e-6)


def test_agrees_with_the_weights_of_torchs_multihead_attention():
    """torchvision's model as timm's: what is captured there are the weights that torchvision's own
    layers return."""
    theirs = scatter_weights(TorchvisionViT(64, 16, 2, 4, 48, 96, num_classes=5))
    model = timm.create_model(
        "vit_base_patch16_224", **{**SMALL, "img_size": 64, "num_heads": 4, "mlp_ratio": 2}
    )
    load_torchvision_state(model.eval(), theirs.state_dict())
    layers = [layer.self_attention for layer in theirs.encoder.layers]
    inputs = inputs_of(layers, theirs, pictures(model))
    for layer, x, captured in zip(layers, inputs, observe(model).attn, strict=True):
        with torch.no_grad():
            _, weights = layer(x, x, x, need_weights=True, average_attn_weights=False)
        assert torch.allclose(captured, weights, atol=1e-6)


def test_agrees_with_the_formula_written_by_hand(vit):
    for block, x, captured in zip(
        vit.blocks, attention_inputs(vit), observe(vit).attn, strict=True
    ):
        q, k, _ = qkv(block.attn, x)
        for head in range(3):
            for row in (0, 7):
                # sqrt(16) = 4
                scores = torch.stack([(q[0, head, row] * key).sum() / 4 for key in k[0, head]])
                assert torch.allclose(
                    captured[0, head, row], scores.exp() / scores.exp().sum(), atol=1e-6
                )


def without_scale(call: Call, attn: nn.Module, x: Tensor) -> Call:
    return replace(call, scale=1.0)


def without_bias(call: Call, attn: nn.Module, x: Tensor) -> Call:
    return replace(call, mask=None)


def from_the_projection(call: Call, attn: nn.Module, x: Tensor) -> Call:
    """The common recipe, hook qkv and take the softmax: it is right for a plain ViT only."""
    query, key, _ = qkv(attn, x)
    return replace(call, query=query, key=key)


@pytest.mark.parametrize(
    ("name", "options", "spoil"),
    [
        *((name, {}, without_scale) for name in [*SIDES, RELPOS]),
        ("beit_base_patch16_224", {}, without_bias),
        (RELPOS, {}, without_bias),
        ("vit_tiny_patch16_224", {"qk_norm": True}, from_the_projection),
        ("vit_small_patch16_dinov3", {}, from_the_projection),
    ],
)
def test_a_capture_that_leaves_something_out_fails_the_self_check(name, options, spoil):
    model = build(name, **options)
    inputs = attention_inputs(model)
    with torch.no_grad(), capture(model, later=True) as seen:
        model(pictures(model))
    seen.calls[0] = spoil(seen.calls[0], model.blocks[0].attn, inputs[0])
    for index in range(2):
        seen.matrix(index)
    with pytest.raises(UserError, match=r"^blocks\.0: .*relative error"):
        check(seen)


# What scaled_dot_product_attention can be asked for


class Block(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.options = options

    def forward(self, x):
        return F.scaled_dot_product_attention(*x, **self.options)


class Bare(nn.Module):
    """One encoder block that is nothing but the call under test."""

    def __init__(self, **options):
        super().__init__()
        self.blocks = nn.Sequential(Block(**options))

    def forward(self, x):
        return self.blocks(x)


def random_qkv() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 4, 6, 8, generator=generator) for _ in range(3))


MASK = torch.rand(6, 6, generator=torch.Generator().manual_seed(2)) > 0.4
CALLS = {
    "bool mask": {"attn_mask": MASK},
    "mask with an empty row": {"attn_mask": MASK & (torch.arange(6) != 2)[:, None]},
    "float mask": {
        "attn_mask": torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(2))
    },
    "scale": {"scale": 0.7},
}


@pytest.mark.parametrize("options", CALLS.values(), ids=CALLS)
def test_masks_and_scales_are_part_of_what_is_captured(options):
    model, x = Bare(**options), random_qkv()
    with capture(model) as seen:
        output = model(x)
    assert check(seen)["selfcheck_max_rel_err"] < 1e-5
    assert torch.allclose(output, model(x), atol=1e-5)
    assert seen.attn[0].shape == (2, 4, 6, 6)


def test_active_attention_dropout_is_refused():
    model = Bare(dropout_p=0.5)
    with pytest.raises(RuntimeError, match=r"dropout of 0\.5.*eval\(\)"), capture(model):
        model(random_qkv())


def test_half_precision_fails_the_self_check_and_the_error_says_what_to_do(vit):
    with torch.no_grad(), capture(vit) as seen, torch.autocast("cpu", torch.bfloat16):
        vit(pictures(vit))
    assert all(matrix.dtype == torch.float32 for matrix in seen.attn)
    with pytest.raises(UserError, match=r"^blocks\.0: .*run the model in float32"):
        check(seen)


# Everything is as before afterwards


def test_everything_is_restored_after_an_error():
    model = build()
    model.blocks[0].attn.fused_attn = False
    model.blocks[1].mlp = Faulty()

    def fail_inside_a_capture() -> None:
        with capture(model):
            assert model.blocks[0].attn.fused_attn is True
            assert F.scaled_dot_product_attention is not ORIGINAL
            model(pictures(model))

    with pytest.raises(ZeroDivisionError):
        fail_inside_a_capture()
    assert F.scaled_dot_product_attention is ORIGINAL
    assert model.blocks[0].attn.fused_attn is False
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_neither_a_pass_that_failed_nor_another_model_spoils_what_is_recorded(vit):
    with torch.no_grad(), capture(vit) as seen:
        with pytest.raises(AssertionError):
            vit(torch.zeros(2, 3, 32, 32))
        Bare(dropout_p=0.5)(random_qkv())  # nor is another model's call taken for this one's
        assert not seen.pooling
        assert not seen.attn
        vit(pictures(vit))
    assert check(seen)["blocks_captured"] == 2


def test_a_capture_inside_a_capture_is_refused(vit):
    with capture(vit), pytest.raises(RuntimeError, match="already running"), capture(vit):
        pass
    with capture(vit):  # and the outer one has released the function
        pass


def test_matrices_made_later_are_the_same_with_the_same_proof():
    model = build("vit_base_patch16_siglip_224")
    with torch.no_grad(), capture(model) as whole:
        model(pictures(model))
    with torch.no_grad(), capture(model, later=True) as seen:
        model(pictures(model))
    assert not seen.attn
    assert torch.equal(seen.pooling_row(), whole.pooling_row())
    before = check(seen)
    assert [
        before[key] for key in ("selfcheck_max_rel_err", "blocks_captured", "pooling_captured")
    ] == [0.0, 2, 1]
    assert all(torch.equal(seen.matrix(index), whole.attn[index]) for index in range(2))
    assert not seen.attn
    assert check(seen) == check(whole)


# A capture that cannot be right is an error that names the block


class Silent(nn.Module):
    """An attention module that does not attend."""

    def forward(self, x, **_):
        return x


def test_a_model_without_blocks_is_refused_in_one_line():
    with pytest.raises(UserError) as raised, capture(timm.create_model("resnet10t", num_classes=2)):
        pass
    assert str(raised.value) == "attention of a ResNet cannot be shown: it has no encoder `blocks`"
    assert F.scaled_dot_product_attention is ORIGINAL


def test_a_block_that_does_not_attend_is_named():
    model = build()
    model.blocks[1].attn = Silent()
    with pytest.raises(
        UserError, match=r"^attention of 1 of 2 encoder blocks was not captured: blocks\.1;"
    ):
        observe(model)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "cait_xxs24_224",
            {"depth": 1},
            r"not captured: blocks\.0; they do not call scaled_dot_product_attention",
        ),
        (
            "vit_tiny_patch16_224",
            {"attn_layer": "diff"},
            r"^blocks\.0, blocks\.1 attended more than once",
        ),
    ],
    ids=["talking heads", "difference of two softmaxes"],
)
def test_attention_that_is_not_one_softmax_fails_the_check(name, options, message):
    with pytest.raises(UserError, match=message):
        observe(build(name, **options))


def test_matrices_are_of_the_last_pass_and_the_self_check_is_of_all(vit):
    with torch.no_grad(), capture(vit) as seen:
        vit(pictures(vit))
        seen.selfcheck["blocks.1"] = 0.5  # as if an earlier batch had gone wrong
        vit(pictures(vit, n=3))
    assert seen.stacked().shape[:2] == (3, 2)
    with pytest.raises(UserError, match=r"^blocks\.1: .*5\.0e-01"):
        check(seen)


@pytest.mark.parametrize("errors", [[math.nan, 0.0], [0.0, math.nan]])
def test_a_self_check_that_is_not_a_number_fails(errors):
    seen = Capture(("blocks.0",))
    for error in errors:
        seen.clear()
        read = torch.full((1, 1, 2, 2), error)  # where it is 0, P v, too
        seen.record("blocks.0.attn", Call(*[torch.zeros(1, 1, 2, 2)] * 3, None, None, read))
    with pytest.raises(UserError, match=r"^blocks\.0: .*nan"):
        check(seen)


def test_a_matrix_that_is_not_square_is_named():
    model = Bare()
    with capture(model) as seen:
        model([torch.ones(1, 1, n, 4) for n in (1, 3, 3)])
    with pytest.raises(UserError, match=r"^blocks\.0 has attention of shape \(1, 1, 1, 3\)"):
        check(seen)


def test_block_ten_is_not_taken_for_block_one():
    seen = Capture(tuple(f"blocks.{i}" for i in range(11)))
    assert seen.block_of("blocks.10.attn") == "blocks.10"
