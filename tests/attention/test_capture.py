"""The captured attention is the model's own: proven by self-check, three other extractors, and mutations."""

import copy
import math

import numpy as np
import pytest
import timm
import torch
from timm.utils import AttentionExtract
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer as TorchvisionViT
from torchvision.transforms.v2 import functional as transforms

from vit_finetune import attention
from vit_finetune.attention import (
    Capture,
    PixelGrid,
    attention_gradients,
    capture,
    check,
    readout_maps,
    token_layout,
)

SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 3, "num_classes": 5}
FAMILIES = {  # name -> side of a 4 x 4 grid; prefix tokens, pooling, tokens whose mean the head reads
    "vit_tiny_patch16_224": (64, ("CLS",), "token", [0]),
    "deit_tiny_distilled_patch16_224": (64, ("CLS", "DIST"), "token", [0, 1]),
    "vit_small_patch14_reg4_dinov2": (56, ("CLS", "REG1", "REG2", "REG3", "REG4"), "token", [0]),
    "vit_mediumd_patch16_reg4_gap_256": (64, ("REG1", "REG2", "REG3", "REG4"), "avg", [*range(4, 20)]),
    "vit_small_patch14_dinov2": (56, ("CLS",), "token", [0]),
    "vit_small_patch16_dinov3": (64, ("CLS", "REG1", "REG2", "REG3", "REG4"), "avg", [*range(5, 21)]),
    "vit_base_patch16_siglip_224": (64, (), "map", [*range(16)]),
    "beit_base_patch16_224": (64, ("CLS",), "avg", [*range(1, 17)]),
    "eva02_tiny_patch14_224": (56, ("CLS",), "avg", [*range(1, 17)]),
    "vit_relpos_small_patch16_224": (64, (), "avg", [*range(16)]),
    "vit_pe_core_tiny_patch16_384": (64, ("CLS",), "map", [*range(17)]),
    "torchvision_vit_b_16": (64, ("CLS",), "token", [0]),
}


def scatter_weights(model: nn.Module, std: float = 0.15) -> nn.Module:
    """Random weights wide enough that attention is far from uniform, so that an error shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * std)
    return model.eval()


def build(name: str) -> nn.Module:
    if name == "torchvision_vit_b_16":  # an even number of heads: where torch's fused encoder would step in
        return scatter_weights(TorchvisionViT(64, 16, 2, 4, 48, 96, num_classes=5))
    return scatter_weights(timm.create_model(name, img_size=FAMILIES[name][0], **SMALL))


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param, build(request.param)


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    return build("vit_tiny_patch16_224")


def pictures(side: int = 64, n: int = 2) -> Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(1))


def state() -> tuple:
    return F.scaled_dot_product_attention, torch.backends.mha.get_fastpath_enabled()


UNTOUCHED = state()  # read at import, before any capture could have left something behind


# Every family


def test_every_block_is_captured_and_the_logits_are_the_models_own(family):
    name, model = family
    images = pictures(FAMILIES[name][0])
    with torch.no_grad():
        expected = model(images)
        with capture(model) as seen:
            logits = model(images)
    numbers = check(seen, tolerance=1e-5)
    assert torch.allclose(logits, expected, atol=1e-5)
    assert numbers["blocks_captured"] == numbers["blocks_total"] == 2
    assert numbers["pooling_captured"] == (FAMILIES[name][2] == "map")
    assert seen.stacked().shape[:2] == (2, 2)
    assert seen.stacked().std() > 0.01


def test_replacing_the_kernel_changes_nothing_and_gives_gradients(family):
    name, model = family
    images, classes = pictures(FAMILIES[name][0]), torch.tensor([1, 3])
    found = attention_gradients(model, images, classes)
    assert torch.allclose(found.logits, model(images), atol=1e-4)
    assert found.grads.shape == found.attn.shape
    assert (found.grads.abs().amax(dim=(0, 2, 3, 4)) > 0).all()
    assert all(p.grad is None for p in model.parameters())


def test_token_layout(family):
    name, model = family
    _, prefix, pooling, pooled = FAMILIES[name]
    layout = token_layout(model)
    assert (layout.prefix, layout.grid, layout.pooling) == (prefix, (4, 4), pooling)
    assert [*layout.pooled] == pooled


def test_self_check_detects_an_extractor_that_drops_the_scale(family, monkeypatch):
    real = attention._probabilities
    monkeypatch.setattr(attention, "_probabilities", lambda q, k, m, c, s: real(q, k, m, c, 1.0))
    with pytest.raises(RuntimeError, match=r"(blocks\.0|encoder_layer_0): .*relative error"):
        observe(family)


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "vit_relpos_small_patch16_224"])
def test_self_check_detects_an_extractor_that_drops_the_bias(name, monkeypatch):
    real = attention._probabilities
    monkeypatch.setattr(attention, "_probabilities", lambda q, k, m, c, s: real(q, k, None, c, s))
    with pytest.raises(RuntimeError, match=r"blocks\.0.*relative error"):
        observe((name, build(name)))


def observe(family: tuple[str, nn.Module]) -> Capture:
    name, model = family
    with torch.no_grad(), capture(model) as seen:
        model(pictures(FAMILIES[name][0]))
    check(seen)
    return seen


# Other extractors must agree, and wrong ones must not


def qkv(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v (B, H, T, d) straight from the projection: before any norm or rotary embedding."""
    projected = F.linear(x, module.qkv.weight, module.qkv.bias)
    return tuple(projected.unflatten(-1, (3, module.num_heads, -1)).permute(2, 0, 3, 1, 4))


def inputs_of(model: nn.Module, path: str, images: Tensor) -> list[Tensor]:
    """The first argument of the attention module of every block."""
    seen: list[Tensor] = []
    hooks = [
        block.get_submodule(path).register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
        for block in model.blocks
    ]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return seen


def test_agrees_with_timms_own_extractor(vit):
    unfused = copy.deepcopy(vit)
    for block in unfused.blocks:
        block.attn.fused_attn = False
    with torch.no_grad():
        reference = AttentionExtract(unfused, method="hook")(pictures())
    seen = observe(("vit_tiny_patch16_224", vit))
    for block, expected in zip(seen.attn, reference.values(), strict=True):
        assert torch.allclose(block, expected, atol=1e-6)


def test_agrees_with_torchs_multihead_attention():
    model = build("torchvision_vit_b_16")
    inputs: list[Tensor] = []
    layers = model.encoder.layers
    hooks = [m.self_attention.register_forward_pre_hook(lambda _m, a: inputs.append(a[0])) for m in layers]
    with torch.no_grad(), capture(model) as seen:
        model(pictures())
    for hook in hooks:
        hook.remove()
    for layer, x, captured in zip(layers, inputs, seen.attn, strict=True):
        with torch.no_grad():
            _, weights = layer.self_attention(x, x, x, need_weights=True, average_attn_weights=False)
        assert torch.allclose(captured, weights, atol=1e-6)


def test_agrees_with_a_forward_written_by_hand(vit):
    seen = observe(("vit_tiny_patch16_224", vit))
    for block, x, captured in zip(vit.blocks, inputs_of(vit, "attn", pictures()), seen.attn, strict=True):
        q, k, _ = qkv(block.attn, x)
        for head in range(3):
            for row in (0, 7):
                scores = torch.stack([(q[0, head, row] * key).sum() / 4 for key in k[0, head]])  # sqrt(16) = 4
                assert torch.allclose(captured[0, head, row], scores.exp() / scores.exp().sum(), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "right"),
    [
        ("vit_tiny_patch16_224", {}, True),  # the control: nothing happens between projection and softmax
        ("vit_tiny_patch16_224", {"qk_norm": True}, False),
        ("vit_small_patch16_dinov3", {}, False),
    ],
    ids=["plain", "leaves out the q/k norm", "leaves out the rotary embedding"],
)
def test_attention_rebuilt_from_the_projection_alone(name, options, right, monkeypatch):
    """The common recipe, hook qkv and take the softmax, has rows that sum to 1 and fails the self-check."""
    model = scatter_weights(timm.create_model(name, img_size=64, **SMALL, **options))
    inputs = inputs_of(model, "attn", pictures())
    naive = []
    for block, x in zip(model.blocks, inputs, strict=True):
        assert getattr(block.attn, "q_bias", None) is None
        q, k, _ = qkv(block.attn, x)
        naive.append((q @ k.transpose(-2, -1) / math.sqrt(16)).softmax(dim=-1))
    rebuilt = iter(naive)
    monkeypatch.setattr(attention, "_probabilities", lambda *_: next(rebuilt))
    with torch.no_grad(), capture(model) as seen:
        model(pictures())
    if right:
        assert check(seen)["selfcheck_max_rel_err"] < 1e-5
    else:
        with pytest.raises(RuntimeError, match=r"blocks\.0: .*relative error"):
            check(seen)


def test_shuffled_patches_shuffle_the_attention(vit):
    model, order = copy.deepcopy(vit), torch.randperm(16, generator=torch.Generator().manual_seed(3))
    nn.init.zeros_(model.pos_embed)
    images = pictures()
    tiles = images.unfold(2, 16, 16).unfold(3, 16, 16).flatten(2, 3)  # (B, 3, 16, 16, 16)
    shuffled = tiles[:, :, order].unflatten(2, (4, 4)).permute(0, 1, 2, 4, 3, 5).reshape(images.shape)
    found = []
    for batch in (images, shuffled):
        with torch.no_grad(), capture(model) as seen:
            model(batch)
        found.append(seen.stacked())
    tokens = torch.cat([torch.zeros(1, dtype=torch.long), order + 1])
    assert torch.allclose(found[0][..., tokens, :][..., tokens], found[1], atol=1e-5)


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


MASK = torch.rand(6, 6, generator=torch.Generator().manual_seed(2)) > 0.4
CALLS = {
    "bool mask": {"attn_mask": MASK},
    "mask with an empty row": {"attn_mask": MASK & (torch.arange(6) != 2)[:, None]},
    "float mask": {"attn_mask": torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(2))},
    "causal": {"is_causal": True},
    "scale": {"scale": 0.7},
    "grouped queries": {"enable_gqa": True},
}


@pytest.mark.parametrize("mode", ["observe", "replace"])
@pytest.mark.parametrize("options", CALLS.values(), ids=CALLS)
def test_every_form_of_the_call(options, mode):
    generator, heads = torch.Generator().manual_seed(0), 2 if "enable_gqa" in options else 4
    q, k, v = (torch.randn(2, h, 6, 8, generator=generator) for h in (4, heads, heads))
    model = Bare(**options)
    with capture(model, mode) as seen:
        output = model((q, k, v))
    assert check(seen)["selfcheck_max_rel_err"] < 1e-5
    assert torch.allclose(output, model((q, k, v)), atol=1e-5)
    assert seen.attn[0].shape == (2, 4, 6, 6)


def test_active_attention_dropout_is_an_error():
    model, x = Bare(dropout_p=0.5), [torch.ones(1, 1, 3, 4)] * 3
    with pytest.raises(RuntimeError, match=r"dropout of 0\.5.*eval\(\)"), capture(model):
        model(x)


def test_another_models_call_is_left_alone(vit):
    with torch.no_grad(), capture(vit) as seen:
        Bare(dropout_p=0.5)([torch.ones(1, 1, 3, 4)] * 3)
        assert not seen.attn
        vit(pictures())
    assert check(seen)["blocks_captured"] == 2


def test_half_precision_fails_the_self_check_and_says_so(vit):
    with torch.no_grad(), capture(vit) as seen, torch.autocast("cpu", torch.bfloat16):
        vit(pictures())
    assert all(matrix.dtype == torch.float32 for matrix in seen.attn)
    with pytest.raises(RuntimeError, match=r"blocks\.0.*run the model in float32"):
        check(seen)


# Restored, whatever happens


class Silent(nn.Module):
    def forward(self, x, **_):
        return x


class Faulty(nn.Module):
    def forward(self, x):
        raise ZeroDivisionError("inside a block")


@pytest.mark.parametrize("mode", ["observe", "replace"])
def test_everything_is_restored_after_an_error(mode):
    model = build("vit_tiny_patch16_224")
    model.blocks[0].attn.fused_attn = False
    model.blocks[1].mlp = Faulty()

    def fail_inside_a_capture() -> None:
        with capture(model, mode):
            assert model.blocks[0].attn.fused_attn is True
            assert state() != UNTOUCHED
            model(pictures())

    with pytest.raises(ZeroDivisionError):
        fail_inside_a_capture()
    assert state() == UNTOUCHED
    assert model.blocks[0].attn.fused_attn is False
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_a_failed_pass_does_not_spoil_the_next(vit):
    with torch.no_grad(), capture(vit) as seen:
        with pytest.raises(AssertionError):
            vit(pictures(32))
        Bare()([torch.ones(1, 1, 3, 4)] * 3)  # nor is another model's call taken for this one's
        assert not seen.pooling
        assert not seen.attn
        vit(pictures())
    assert check(seen)["blocks_captured"] == 2


def test_captures_do_not_nest(vit):
    with capture(vit), pytest.raises(RuntimeError, match="already running"), capture(vit):
        pass
    with capture(vit):  # and the outer one has released the function
        pass


def test_unfused_modules_are_captured():
    model = build("vit_tiny_patch16_224")
    for block in model.blocks:
        block.attn.fused_attn = False
    assert len(observe(("vit_tiny_patch16_224", model)).attn) == 2


def test_unknown_mode(vit):
    with pytest.raises(ValueError, match=r"'watch'.*'observe' or 'replace'"), capture(vit, "watch"):
        pass


# Nothing missing, nothing twice


def test_a_block_that_does_not_attend_is_named():
    model = build("vit_tiny_patch16_224")
    model.blocks[1].attn = Silent()
    with pytest.raises(RuntimeError, match=r"1 of 2 encoder blocks was not captured: blocks\.1;"):
        observe(("vit_tiny_patch16_224", model))


def test_matrices_are_of_the_last_pass_and_the_self_check_of_all(vit):
    with torch.no_grad(), capture(vit) as seen:
        vit(pictures())
        seen.selfcheck["blocks.1"] = 0.5  # as if an earlier batch had gone wrong
        vit(pictures(n=3))
    assert seen.stacked().shape[:2] == (3, 2)
    with pytest.raises(RuntimeError, match=r"blocks\.1.*5\.0e-01"):
        check(seen)


@pytest.mark.parametrize("errors", [[math.nan, 0.0], [0.0, math.nan]])
def test_a_self_check_that_is_not_a_number_fails(errors):
    seen = Capture(("blocks.0",))
    for error in errors:
        seen.clear()
        seen.record("blocks.0.attn", torch.zeros(1, 1, 2, 2), error)
    with pytest.raises(RuntimeError, match=r"blocks\.0.*nan"):
        check(seen)


def test_a_block_that_attends_twice_is_named(vit):
    with torch.no_grad(), capture(vit) as seen:
        vit.blocks(vit.blocks(torch.randn(1, 5, 48)))
    with pytest.raises(RuntimeError, match=r"blocks\.0, blocks\.1 attended more than once"):
        check(seen)


def test_a_matrix_that_is_not_square_is_named():
    model = Bare()
    with capture(model) as seen:
        model([torch.ones(1, 1, n, 4) for n in (1, 3, 3)])
    with pytest.raises(RuntimeError, match=r"blocks\.0 has attention of shape \(1, 1, 1, 3\)"):
        check(seen)


def test_block_ten_is_not_taken_for_block_one():
    seen = Capture(tuple(f"blocks.{i}" for i in range(11)))
    seen.record("blocks.10.attn", torch.zeros(1, 1, 2, 2), 0.0)
    assert seen.names == ["blocks.10"]


# Models whose attention cannot be shown


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1), "embed_dim": 12, "num_heads": (1, 1)}, "windows"),
        ("levit_128s", {}, "never passes"),
        ("coat_lite_tiny", {}, "factorised"),
        ("convit_tiny", {"depth": 2}, "positional"),
        ("cait_xxs24_224", {"depth": 1, "embed_dim": 48, "num_heads": 3}, "talking heads"),
        ("xcit_nano_12_p16_224", {"depth": 1}, "across channels"),
        ("resnet10t", {}, "neither `blocks`"),
    ],
)
def test_unsupported_models_are_refused_with_the_reason(name, options, reason):
    model = timm.create_model(name, num_classes=2, **options)
    with pytest.raises(ValueError, match=reason), capture(model):
        pass
    assert state() == UNTOUCHED


def test_differential_attention_is_refused():
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, attn_layer="diff", **SMALL)
    with pytest.raises(ValueError, match="differential attention"), capture(model):
        pass


@pytest.mark.filterwarnings("ignore")
def test_a_traced_model_is_refused(vit):
    with pytest.raises(ValueError, match="traced"), capture(torch.jit.trace(vit, pictures())):
        pass


# Gradients


def test_gradients_are_those_of_the_chosen_logit(vit):
    """A step along the gradient of one entry of P changes the logit by what the gradient says."""
    images, classes = pictures(), torch.tensor([1, 3])
    found, (block, head, row, column) = attention_gradients(vit, images, classes), (1, 2, 0, 5)
    original = attention._probabilities

    def moved(step):
        calls = iter(range(2))

        def nudged(*args):
            matrix = original(*args)
            if next(calls) == block:
                matrix[:, head, row, column] += step
            return matrix

        with pytest.MonkeyPatch.context() as patch, torch.no_grad():
            patch.setattr(attention, "_probabilities", nudged)
            with capture(vit, "replace"):
                return vit(images)

    step = 0.01
    change = (moved(step) - moved(-step)).gather(1, classes[:, None])[:, 0] / (2 * step)
    assert torch.allclose(change, found.grads[:, block, head, row, column], rtol=2e-3, atol=5e-4)


def test_gradients_of_a_frozen_model_and_of_each_image_alone_are_the_same(vit):
    images, classes = pictures(), torch.tensor([1, 3])
    expected = attention_gradients(vit, images, classes, per_block=True)
    frozen = copy.deepcopy(vit).requires_grad_(False)
    for image in range(2):
        with torch.inference_mode(False), torch.no_grad():
            alone = attention_gradients(frozen, images[[image]], classes[[image]], per_block=True)
        for ours, theirs in ((alone.grads, expected.grads), (alone.block_grads, expected.block_grads)):
            assert torch.allclose(ours, theirs[[image]], rtol=1e-3, atol=1e-5)


def test_per_block_gradients_read_the_blocks_own_output(vit):
    images, classes = pictures(), torch.tensor([1, 3])
    found = attention_gradients(vit, images, classes, per_block=True)
    assert torch.allclose(found.block_grads[:, -1], found.grads[:, -1], atol=1e-6)
    shallow = copy.deepcopy(vit)
    shallow.blocks = shallow.blocks[:1]
    expected = attention_gradients(shallow, images, classes).grads
    assert torch.allclose(found.block_grads[:, :1], expected, atol=1e-6)


def test_gradients_ask_for_one_class_per_image_and_a_head(vit):
    with pytest.raises(ValueError, match=r"one class per image, \(2,\)"):
        attention_gradients(vit, pictures(), torch.tensor([1]))
    with pytest.raises(ValueError, match="Bare has none"):
        attention_gradients(Bare(), pictures(), torch.tensor([1, 3]), per_block=True)


# Tokens and readouts


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("vit_tiny_patch16_224", [1] + [0] * 16),
        ("deit_tiny_distilled_patch16_224", [1 / 2] * 2 + [0] * 16),
        ("vit_mediumd_patch16_reg4_gap_256", [0] * 4 + [1 / 16] * 16),
    ],
)
def test_readout_takes_what_the_head_takes(name, weights):
    model = build(name)
    layout = token_layout(model)
    assert torch.allclose(layout.readout(), torch.tensor(weights, dtype=torch.float32))
    with torch.no_grad():  # an average of tokens really is what the head reads
        tokens = torch.randn(2, layout.tokens, 48)
        pooled = torch.einsum("t,btd->bd", layout.readout(), tokens)
        if name.startswith("deit"):
            expected = model.forward_head(tokens, pre_logits=True)
            assert torch.allclose(pooled, expected, atol=1e-6)
        else:
            assert torch.allclose(pooled, model.pool(tokens), atol=1e-6)


def test_readout_of_attention_pooling_is_its_row():
    model = build("vit_base_patch16_siglip_224")
    layout, seen = token_layout(model), observe(("vit_base_patch16_siglip_224", model))
    row = seen.pooling_row()
    assert row.shape == (2, 3, 1, 16)
    assert torch.allclose(layout.readout(row), row[:, :, 0].mean(dim=1))
    with pytest.raises(ValueError, match=r"pools by attention over 16 tokens.*got None"):
        layout.readout()


def test_maps_of_the_readout_against_a_loop():
    model = timm.create_model("vit_small_patch14_reg4_dinov2", img_size=(42, 70), **SMALL)
    layout = token_layout(model)
    attn = torch.rand(2, 2, 3, layout.tokens, layout.tokens)
    readout = torch.rand(2, layout.tokens)
    maps = readout_maps(attn, layout, readout)
    assert maps.shape == (2, 2, 3, 3, 5)
    for b, block, head, i, j in np.ndindex(*maps.shape):
        column = 5 + 5 * i + j
        expected = sum(readout[b, t] * attn[b, block, head, t, column] for t in range(layout.tokens))
        assert maps[b, block, head, i, j] == pytest.approx(float(expected), rel=1e-5)


def test_a_model_of_any_size_has_the_grid_of_the_image():
    model = build("vit_tiny_patch16_224")
    flexible = timm.create_model("vit_tiny_patch16_224", img_size=64, dynamic_img_size=True, **SMALL)
    assert token_layout(flexible, (32, 80)).grid == (2, 5)
    with torch.no_grad(), capture(flexible) as seen:
        flexible(torch.randn(1, 3, 32, 80))
    assert token_layout(flexible, (32, 80)).to_grid(seen.stacked()).shape[-2:] == (2, 5)
    with pytest.raises(ValueError, match=r"11 tokens, but 1 prefix tokens and a grid of 4 x 4 patches make 17"):
        token_layout(model).to_grid(seen.stacked())


def test_unknown_layouts_are_errors():
    with pytest.raises(ValueError, match="pools by 'max'"):
        token_layout(timm.create_model("vit_tiny_patch16_224", img_size=64, global_pool="max", **SMALL))
    with pytest.raises(ValueError, match="no fixed grid"):
        token_layout(Bare())
    model = build("vit_tiny_patch16_224")
    model.num_prefix_tokens = 3
    with pytest.raises(ValueError, match=r"3 prefix tokens, known are \['CLS'\]"):
        token_layout(model)


# Pixels

GEOMETRIES = {  # image, resized, crop, grid
    "cifar": ((32, 32), (224, 224), (224, 224), (14, 14)),
    "cifar with crop": ((32, 32), (248, 248), (224, 224), (14, 14)),
    "landscape": ((100, 160), (64, 102), (48, 64), (3, 4)),
    "portrait, odd crop offset": ((161, 90), (123, 69), (64, 48), (4, 3)),
    "squash": ((50, 90), (48, 64), (48, 64), (6, 8)),
    "enlarged": ((20, 33), (96, 158), (96, 96), (6, 6)),
    "padded": ((41, 60), (41, 60), (48, 48), (3, 3)),
}


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_a_landmark_is_lit_and_nothing_else(geometry):
    """Exactly the original pixels whose centres the real resize and crop carry into the patch are lit."""
    grid = PixelGrid(*geometry)
    image, _, _, (rows, columns) = geometry
    for row, column in ((0, 0), (rows - 1, 0), (1, columns - 1), (rows // 2, columns // 2)):
        one_hot = np.zeros((rows, columns))
        one_hot[row, column] = 1
        lit = grid.paint(one_hot) == 1
        top, left, bottom, right = grid.boxes()[row, column]
        y, x = np.arange(image[0]) + 0.5, np.arange(image[1]) + 0.5
        expected = np.outer((y >= top - 1e-9) & (y < bottom - 1e-9), (x >= left - 1e-9) & (x < right - 1e-9))
        assert np.array_equal(lit, expected)


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_on_the_resized_canvas_the_overlay_is_what_the_model_was_given(geometry):
    """Crop the overlay as the image is cropped: every patch of the model's input has one value, its own."""
    grid = PixelGrid(*geometry)
    _, resized, crop, (rows, columns) = geometry
    values = np.arange(1.0, rows * columns + 1).reshape(rows, columns)
    canvas = torch.from_numpy(np.nan_to_num(grid.paint(values, resized)))
    seen = transforms.center_crop(canvas[None], list(crop))[0].numpy()
    expected = np.kron(values, np.ones((crop[0] // rows, crop[1] // columns)))
    assert np.array_equal(seen[seen != 0], expected[seen != 0])
    inside = min(resized[0], crop[0]) * min(resized[1], crop[1])
    assert (seen != 0).sum() == inside


def test_a_bright_pixel_of_the_image_reaches_the_patch_that_paints_it():
    """End to end: light the painted pixels of one patch, resize and crop as the model's input is made."""
    geometry = GEOMETRIES["landscape"]
    grid, (_, resized, crop, shape) = PixelGrid(*geometry), geometry
    for row, column in np.ndindex(*shape):
        one_hot = np.zeros(shape)
        one_hot[row, column] = 1
        picture = torch.from_numpy(np.nan_to_num(grid.paint(one_hot)))[None]
        given = transforms.center_crop(transforms.resize(picture, list(resized), antialias=True), list(crop))[0]
        brightness = given.unfold(0, 16, 16).unfold(1, 16, 16).mean(dim=(-1, -2))
        assert divmod(int(brightness.argmax()), shape[1]) == (row, column)
        assert brightness.max() > 0.9


def test_outside_the_crop_there_is_no_value():
    painted = PixelGrid((100, 160), (64, 102), (48, 64), (3, 4)).paint(np.ones((3, 4)))
    assert np.isnan(painted[0]).all()
    assert np.isnan(painted[:, 0]).all()
    assert painted[50, 80] == 1


def test_pixel_grid_errors():
    with pytest.raises(ValueError, match=r"\(50, 64\) pixels cannot be cut into \(3, 4\)"):
        PixelGrid((100, 160), (64, 102), (50, 64), (3, 4))
    with pytest.raises(ValueError, match=r"the map is \(4, 3\), the grid \(3, 4\)"):
        PixelGrid((100, 160), (64, 102), (48, 64), (3, 4)).paint(np.ones((4, 3)))
