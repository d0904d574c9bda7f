"""Training changes exactly the parameters that `freeze.trainable_blocks` and `freeze.parameters`
name."""

import pytest
import timm
import torch

from tests.model.small import SMALL, randomised, split_model_of, store
from tests.small_vits import pictures
from tests.training.examples import make_trainer, plain_settings
from vit_finetune.core.errors import UserError
from vit_finetune.model.freezing import count_parameters, freeze

HEAD = {"head.weight", "head.bias"}
PLAIN = plain_settings(  # what moves, moves by its gradient
    epochs=1, weight_decay=0.0, warmup=0.0, layer_decay=0.8, label_smoothing=0.0, grad_clip=None
)


def build(name="vit_tiny_patch16_224", **options):
    return randomised(timm.create_model(name, **{**SMALL, "num_classes": 3, **options}))


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def names_of(model, *prefixes):
    return {name for name, _ in model.named_parameters() if name.startswith(prefixes)}


# freeze.trainable_blocks


@pytest.mark.parametrize(
    ("blocks", "prefixes"),
    [
        (0, ("head.",)),
        (1, ("blocks.2.", "norm.", "head.")),
        (2, ("blocks.1.", "blocks.2.", "norm.", "head.")),
        ("all", ("",)),
    ],
)
def test_the_last_blocks_and_all_that_follows_them_are_trained_and_nothing_before(blocks, prefixes):
    model = build()
    freeze(model, blocks)
    assert trained(model) == names_of(model, *prefixes)
    freeze(model, 1)
    freeze(model, blocks)  # the earlier call leaves no trace
    assert trained(model) == names_of(model, *prefixes)


def test_with_more_than_ten_blocks_block_ten_is_not_taken_for_block_one():
    model = build(depth=12)
    freeze(model, 2)
    assert trained(model) == names_of(model, "blocks.10.", "blocks.11.", "norm.", "head.")
    freeze(model, 11)
    assert not trained(model) & names_of(model, "blocks.0.")
    assert names_of(model, "blocks.1.") <= trained(model)


@pytest.mark.parametrize(
    "name",
    [
        "vit_base_patch16_siglip_224",
        "vit_so150m_patch16_reg4_map_256",
        "vit_pe_core_tiny_patch16_384",
        "vit_wee_patch16_reg1_gap_256",
    ],
)
def test_pooling_and_its_norm_are_trained_with_the_blocks_before_them(name):
    model = build(name)
    assert names_of(model, "attn_pool.", "fc_norm.")
    freeze(model, 0)
    assert trained(model) == HEAD
    freeze(model, 1)
    behind = names_of(model, "attn_pool.", "blocks.2.", "norm.", "fc_norm.", "head.")
    assert trained(model) == behind


def test_a_distilled_models_second_head_is_not_trained():
    model = build("deit_tiny_distilled_patch16_224")
    second = names_of(model, "head_dist.")
    for blocks in (0, 1, "all"):
        freeze(model, blocks)
        assert not trained(model) & second
        assert trained(model) >= HEAD
    assert trained(model) == names_of(model, "") - second


def test_more_trainable_blocks_than_the_model_has_is_an_error(tiny_vit):
    with pytest.raises(
        UserError, match="trainable_blocks is 4: the model has 3 blocks; use 0 to 3 or all"
    ):
        freeze(tiny_vit, 4)


def test_trainable_parameters_of_the_default_model_are_the_published_counts():
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10)
    counts = {}
    for blocks in (0, 1, 2, "all"):
        freeze(model, blocks)
        counts[blocks] = count_parameters(model)
    assert counts[0][0] == 1_930
    assert counts[1][0] == 447_178
    assert counts[2][0] == 892_042
    assert {sum(pair) for pair in counts.values()} == {counts["all"][0]}


# freeze.parameters


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {}),
        ("vit_tiny_patch16_224", {"qk_norm": True}),
        ("eva02_base_patch14_224", {"img_size": 28}),  # norms inside the MLP
        # blocks whose type is named after their norms
        ("eva02_enormous_patch14_clip_224", {"img_size": 28}),
        ("vit_small_patch16_dinov3", {}),
        ("beit_base_patch16_224", {}),
    ],
)
def test_norms_alone_are_the_parameters_of_normalisation_layers_in_every_family(name, options):
    model = build(name, **options)
    norms = set()
    for place, module in model.named_modules():
        if isinstance(module, torch.nn.LayerNorm | torch.nn.RMSNorm):
            norms |= {f"{place}.{parameter}" for parameter, _ in module.named_parameters()}
    behind = names_of(model, "blocks.1.", "blocks.2.", "norm.", "fc_norm.")
    assert norms & behind
    freeze(model, 2, "norms")
    assert trained(model) == norms & behind | HEAD
    freeze(model, 0, "norms")
    assert trained(model) == HEAD
    freeze(model, "all", "norms")
    assert trained(model) == norms | HEAD


def test_biases_alone_are_trained_by_name():
    model = build()
    biases = {name for name in names_of(model, "") if name.endswith("bias")}
    freeze(model, 1, "biases")
    assert trained(model) == biases & names_of(model, "blocks.2.", "norm.") | HEAD
    freeze(model, "all", "biases")
    assert trained(model) == biases | HEAD


def test_biases_of_beit_include_those_of_query_and_value_but_not_the_position_biases():
    model = build("beit_base_patch16_224")
    freeze(model, 1, "biases")
    assert {"blocks.2.attn.q_bias", "blocks.2.attn.v_bias"} <= trained(model)
    assert "blocks.2.attn.relative_position_bias_table" not in trained(model)


KINDS = ("weight", "bias")
NORMS_OF_2 = {f"blocks.2.norm{i}.{kind}" for i in (1, 2) for kind in KINDS}
LAST_NORM = {"norm.weight", "norm.bias"}
ATTENTION_OF_2 = {f"blocks.2.attn.{part}.{kind}" for part in ("qkv", "proj") for kind in KINDS}
MLP_OF_2 = {f"blocks.2.mlp.{part}.{kind}" for part in ("fc1", "fc2") for kind in KINDS}
WEIGHTS = {name for name in ATTENTION_OF_2 if name.endswith("weight")}


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["blocks.*.attn.*"], ATTENTION_OF_2),
        (["blocks.*.attn.*", "!*.bias"], WEIGHTS),
        (["!*.bias", "blocks.*.attn.*"], ATTENTION_OF_2),
        (
            ["blocks.*", "!*.mlp.*", "*.mlp.fc1.weight"],
            NORMS_OF_2 | ATTENTION_OF_2 | {"blocks.2.mlp.fc1.weight"},
        ),
        (["blocks.2.mlp.*", "norm.*"], MLP_OF_2 | LAST_NORM),
        (["*.fc[12].bias"], {"blocks.2.mlp.fc1.bias", "blocks.2.mlp.fc2.bias"}),
        (["*", "!*"], set()),
        (["*", "!head.*"], NORMS_OF_2 | ATTENTION_OF_2 | MLP_OF_2 | LAST_NORM),
    ],
)
def test_patterns_add_and_take_away_in_their_order_and_the_head_always_learns(patterns, expected):
    model = build()
    freeze(model, 1, patterns)
    assert trained(model) == expected | HEAD


@pytest.mark.parametrize(
    ("blocks", "patterns", "named"),
    [
        (1, ["blocks.*.attn.*", "blocks.*.atn.*"], r"'blocks\.\*\.atn\.\*'"),
        (1, ["blocks.0.*"], r"'blocks\.0\.\*'"),  # there is one, before the boundary
        (2, ["*", "!blocks.0.*"], r"'!blocks\.0\.\*'"),
        (0, ["norm.*"], r"'norm\.\*'"),
        (1, ["Norm.*"], r"'Norm\.\*'"),
        (1, ["attn"], "'attn'"),  # a whole name, not a part of one
    ],
)
def test_a_pattern_that_matches_nothing_behind_the_boundary_is_named(blocks, patterns, named):
    message = rf"freeze\.parameters: {named} matches no parameter that .*; there are \S+, "
    with pytest.raises(UserError, match=message):
        freeze(build(), blocks, patterns)


def test_a_pattern_of_another_section_is_named_with_its_key():
    with pytest.raises(UserError, match=r"^adapt\.parameters: 'nope' matches no parameter that "):
        freeze(build(), "all", ["nope"], "adapt.parameters")


# An epoch of training


STRATEGIES = ["all", "norms", "biases", ["blocks.*.attn.*", "!*.bias"]]


@pytest.mark.parametrize("blocks", [1, "all"])
@pytest.mark.parametrize("parameters", STRATEGIES, ids=str)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {}),
        ("deit_tiny_distilled_patch16_224", {}),
        ("vit_base_patch16_siglip_224", {}),
        ("eva02_tiny_patch14_224", {"img_size": 28}),
        ("vit_small_patch16_rope_mixed_224", {}),
        ("beit_base_patch16_224", {"use_shared_rel_pos_bias": True}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_epoch_changes_the_trained_parameters_and_keeps_the_bits_of_all_others(
    name, options, parameters, blocks
):
    model = build(name, **options)
    pixels = pictures(model, 16)
    labels = torch.arange(16) % 3
    freeze(model, blocks, parameters)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    stored = store(model, pixels, blocks)
    make_trainer(split_model_of(model, blocks), stored, labels, PLAIN).run_epoch(1)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == trained(model)
    assert HEAD < moved < set(before) or (parameters, blocks) == ("all", "all")
