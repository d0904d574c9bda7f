"""Which token is what, and which of them the head reads."""

import pytest
import timm
import torch
from torch import nn

from tests.small_vits import SIDES, SMALL, build, pictures
from vit_finetune.attention.walk import Walk
from vit_finetune.core.errors import UserError
from vit_finetune.model.families import token_layout
from vit_finetune.model.tokens import TokenLayout

REGISTERS = ("REG1", "REG2", "REG3", "REG4")
LAYOUTS = {  # prefix tokens, pooling, tokens that the head reads
    "vit_tiny_patch16_224": (("CLS",), "token", [0]),
    "deit_tiny_distilled_patch16_224": (("CLS", "DIST"), "token", [0, 1]),
    "vit_small_patch14_reg4_dinov2": (("CLS", *REGISTERS), "token", [0]),
    "vit_mediumd_patch16_reg4_gap_256": (REGISTERS, "avg", [*range(4, 20)]),
    "vit_small_patch16_dinov3": (("CLS", *REGISTERS), "avg", [*range(5, 21)]),
    "vit_base_patch16_siglip_224": ((), "map", [*range(16)]),
    "beit_base_patch16_224": (("CLS",), "avg", [*range(1, 17)]),
    "eva02_tiny_patch14_224": (("CLS",), "avg", [*range(1, 17)]),
    "vit_pe_core_tiny_patch16_384": (("CLS",), "map", [*range(17)]),
}


def pooled_by(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """What the head of the model reads from the tokens, before a norm of its own."""
    model.fc_norm = nn.Identity()
    return model.forward_head(tokens, pre_logits=True)


@pytest.mark.parametrize("name", SIDES)
def test_the_layout_names_the_prefix_tokens_and_those_that_the_head_reads(name):
    prefix, pooling, pooled = LAYOUTS[name]
    layout = token_layout(build(name))
    assert (layout.prefix, layout.grid, layout.pooling) == (prefix, (4, 4), pooling)
    assert layout.patch == (SIDES[name] // 4,) * 2
    assert layout.tokens == len(prefix) + 16
    assert [*layout.pooled] == pooled


@pytest.mark.parametrize(
    "name", [name for name, (_, pooling, _) in LAYOUTS.items() if pooling != "map"]
)
def test_the_readout_is_what_the_head_reads(name):
    model = build(name)
    layout = token_layout(model)
    tokens = torch.randn(2, layout.tokens, 48)
    with torch.no_grad():
        expected = pooled_by(model, tokens)
    assert torch.allclose(torch.einsum("t,btd->bd", layout.readout(), tokens), expected, atol=1e-6)


@pytest.mark.parametrize(
    "name", [name for name, (_, pooling, _) in LAYOUTS.items() if pooling == "map"]
)
def test_the_readout_of_attention_pooling_is_its_own_attention(name):
    model = build(name)
    layout = token_layout(model)
    row = Walk(model, pictures(model), frozenset()).pooling
    assert (len(row), *row.shape[2:]) == (2, 1, layout.tokens)
    assert torch.allclose(layout.readout(row), row[:, :, 0].mean(dim=1))
    assert torch.allclose(layout.readout(row).sum(dim=1), torch.ones(2))


def test_the_readout_of_attention_pooling_needs_that_attention():
    layout = TokenLayout((), (4, 4), (16, 16), "map", range(16))
    with pytest.raises(ValueError, match=r"pools by attention over 16 tokens.*got None"):
        layout.readout()
    with pytest.raises(ValueError, match=r"pools by attention over 16 tokens.*got \(2, 3, 1, 17\)"):
        layout.readout(torch.zeros(2, 3, 1, 17))


def test_the_grid_holds_the_patches_row_by_row_without_the_prefix():
    layout = TokenLayout(("CLS", "REG1"), (2, 3), (16, 8), "token", range(1))
    assert layout.to_grid(torch.arange(8)).tolist() == [[2, 3, 4], [5, 6, 7]]
    with pytest.raises(
        ValueError, match=r"11 tokens, but 2 prefix tokens and a grid of 2 x 3 patches make 8"
    ):
        layout.to_grid(torch.zeros(1, 11))


def test_an_unknown_pooling_and_unknown_prefix_tokens_are_refused():
    with pytest.raises(
        UserError, match="VisionTransformer pools by 'max'; known are token, avg and map"
    ):
        token_layout(
            timm.create_model("vit_tiny_patch16_224", img_size=64, global_pool="max", **SMALL)
        )
    model = build()
    model.num_prefix_tokens = 3
    with pytest.raises(
        UserError, match=r"VisionTransformer has 3 prefix tokens, known are \['CLS'\]"
    ):
        token_layout(model)
