"""A model split at the freeze boundary computes what the whole model computes."""

import re

import pytest
import timm
import torch
import torch.nn.functional as F

from tests.model.small import KINDS, OURS, SMALL, build, randomised, split_model_of, store
from tests.small_vits import pictures
from vit_finetune.core.errors import UserError
from vit_finetune.model.boundary import boundary_of, run_blocks, run_prefix, to_device
from vit_finetune.model.families import FAMILIES, family_of
from vit_finetune.model.freezing import freeze


def test_what_is_stored_follows_from_the_trainable_blocks():
    stored = [boundary_of(blocks) for blocks in (0, 1, 12, "all")]
    assert stored == ["features", "tokens", "tokens", "images"]


@pytest.mark.parametrize("kind", KINDS)
def test_first_part_then_second_part_gives_the_logits_of_the_whole_model(kind):
    model = build(kind)
    pixels = pictures(model)
    with torch.no_grad():
        whole = model(pixels)
    for blocks in (0, 1, 2, "all"):
        split = split_model_of(model, blocks).predict_logits(store(model, pixels, blocks))
        torch.testing.assert_close(split, whole, rtol=0, atol=1e-5)
    # the logits tell images apart, so that an error shows
    assert (whole[0] - whole[1]).abs().max() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_the_trained_part_has_the_gradients_of_the_whole_model(kind):
    model = build(kind)
    pixels = pictures(model)
    labels = torch.tensor([1, 4])
    for blocks in (1, "all"):
        freeze(model, blocks)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        split_model = split_model_of(model, blocks)
        logits = split_model.logits(split_model.tokens(store(model, pixels, blocks)))
        split = torch.autograd.grad(F.cross_entropy(logits, labels), list(trained.values()))
        second = getattr(model, "head_dist", None)
        if second is not None:  # one head twice, so its gradients add up
            model.head_dist = model.head
        loss = F.cross_entropy(model(pixels), labels)
        whole = torch.autograd.grad(loss, list(trained.values()))
        if second is not None:
            model.head_dist = second
        pairs = dict(zip(trained, zip(split, whole, strict=True), strict=True))
        assert max(g.abs().max() for name, (g, _) in pairs.items() if "head" not in name) > 1e-3
        for name, (gradient, expected) in pairs.items():
            assert torch.allclose(gradient, expected, rtol=1e-3, atol=1e-6), name


def one_of_each_variant():
    """An architecture of timm of every kind that differs by more than its size."""
    sizes = (
        r"_(tiny|x?small|medium|base|large|huge|giant|gigantic|enormous|\d+b)(?=_)"
        r"|\d{3}|_?(so\d+m\d?|betwixt|wee)"
    )
    chosen = {}
    for file in OURS:
        for name in sorted(timm.list_models(module=file), key=len):
            # convolutions first: slow, and no other blocks
            if not re.search(r"_r\d*_|resnet|mci", name):
                chosen.setdefault((file, re.sub(sizes, "", name)), name)
    return list(chosen.values())


def test_every_variant_that_timm_has_is_split_exactly():
    kinds = []
    for name in one_of_each_variant():
        options = {**SMALL, "depth": 2, "patch_size": 16, "num_classes": 3}
        if "sapiens2" in name:
            options["num_kv_heads"] = (4, 2)
        if name == "vit_giant_patch14_dinov2":  # its gated MLP wants a width that can be halved
            options["mlp_ratio"] = 4
        model = randomised(timm.create_model(name, **options))
        try:
            family_of(model)
        except UserError:
            continue
        if hasattr(model, "head_dist"):
            model.head_dist.load_state_dict(model.head.state_dict())
        pixels = pictures(model, 1)
        with torch.no_grad():
            whole = model(pixels)
            split = split_model_of(model, 1).predict_logits(run_prefix(model, pixels, 1))
        assert torch.allclose(split, whole, rtol=0, atol=1e-5), name
        kinds.append(type(model))
    assert set(kinds) == set(FAMILIES)
    assert len(kinds) > 50


def test_a_last_block_that_normalises_its_keys_is_run_whole():
    model = timm.create_model(
        "vit_tiny_patch16_224", **{**SMALL, "depth": 2}, qk_norm=True, num_classes=0
    ).eval()
    tokens = torch.randn(2, 5, 64)
    expected = model.norm(model.blocks[1](tokens))[:, 0]
    torch.testing.assert_close(run_blocks(model, tokens, 1), expected)


@pytest.mark.parametrize(
    ("device", "precision", "size", "fused"),
    [
        ("cpu", torch.bfloat16, 32, False),
        ("cpu", torch.float32, 32, True),
        ("meta", torch.bfloat16, 32, True),  # any other device
        ("cpu", torch.bfloat16, 33 * 8, True),  # 1,089 tokens
    ],
)
def test_attention_is_unfused_only_where_that_is_faster_and_the_logits_stay(
    device, precision, size, fused
):
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=size, patch_size=8, embed_dim=32, depth=2, num_heads=2
    )
    model.eval()
    pixels = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        expected = model(pixels)
    placed = to_device(model, torch.device(device), precision)
    assert [block.attn.fused_attn for block in placed.blocks] == [fused, fused]
    if device == "cpu":
        with torch.inference_mode():
            torch.testing.assert_close(placed(pixels), expected, rtol=0, atol=1e-5)
