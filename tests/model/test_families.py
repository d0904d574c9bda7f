"""What differs between the families of Vision Transformers is answered for each as the model itself
behaves."""

import pytest
import timm
import torch

from tests.model.small import KINDS, SMALL, build, store
from tests.small_vits import pictures
from vit_finetune.core.errors import UserError
from vit_finetune.model.families import FAMILIES, family_of

# class of its models -> a kind; heads, knows_positions
OF_FAMILY = {
    "VisionTransformer": ("vit", ["head"], False),
    "VisionTransformerDistilled": ("deit, distilled", ["head", "head_dist"], False),
    "Eva": ("rotary, axial", ["head"], True),
    "Beit": ("beit, relative positions in each block", ["head"], True),
}
each_family = pytest.mark.parametrize("name", OF_FAMILY)


def one_of(name):
    """A small model of a family, its family, and what is expected of it."""
    kind, *expected = OF_FAMILY[name]
    model = build(kind)
    assert type(model).__name__ == name
    return model, family_of(model), expected


def answer(model, tokens):
    """Logits from tokens before the first block."""
    with torch.no_grad():
        for block, options in zip(model.blocks, family_of(model).block_options(model), strict=True):
            tokens = block(tokens, **options)
        return model.forward_head(model.norm(tokens))


def test_every_family_is_tested_here():
    assert {kind.__name__ for kind in FAMILIES} == set(OF_FAMILY)


@each_family
def test_heads_are_the_modules_that_classify(name):
    model, family, (heads, _) = one_of(name)
    assert list(family.heads) == heads
    modules = model.named_modules()
    assert heads == [place for place, m in modules if getattr(m, "out_features", None) == 5]


@each_family
def test_only_a_family_that_knows_positions_tells_tokens_in_another_order(name):
    model, family, (_, knows_positions) = one_of(name)
    tokens = store(model, pictures(model), 3)
    first = model.num_prefix_tokens
    swapped = torch.cat([tokens[:, :first], tokens[:, first:].flip(1)], dim=1)
    difference = (answer(model, swapped) - answer(model, tokens)).abs().max()
    assert family.knows_positions is knows_positions
    assert bool(difference > 1e-4) is knows_positions


@each_family
def test_keeping_all_patches_gives_the_whole_models_logits_and_keeping_some_hides_the_others(name):
    model, family, _ = one_of(name)
    pixels = pictures(model)
    several = torch.tensor([[2, 0, 3, 1], [1, 3, 2, 0]])
    changed = pixels.clone()
    changed[:, :, :16, 16:] += 1  # patch 1
    with torch.no_grad():
        whole = model(pixels)
        with family.keep_patches(model, several):
            torch.testing.assert_close(model(pixels), whole, rtol=0, atol=1e-5)
            assert (model(changed) - whole).abs().max() > 1e-3
        with family.keep_patches(model, torch.tensor([[0, 3], [2, 0]])):
            without = model(pixels)
            torch.testing.assert_close(model(changed), without, rtol=0, atol=1e-6)
        assert (without - whole).abs().max() > 1e-3
        assert torch.equal(model(pixels), whole)  # afterwards the model is as before


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "rotary" in kind or "beit, " in kind])
def test_block_options_are_given_where_a_model_has_them_and_they_matter(kind):
    model = build(kind)
    tokens = store(model, pictures(model), 2)
    options = family_of(model).block_options(model)
    assert len(options) == len(model.blocks)
    given = [value for block in options for value in block.values() if value is not None]
    shared = getattr(model, "rel_pos_bias", None) is not None
    assert bool(given) is ("rotary" in kind or shared)
    if given:
        with torch.no_grad():
            assert (
                model.blocks[1](tokens, **options[1]) - model.blocks[1](tokens)
            ).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("name", "options", "applies"),
    [
        ("vit_tiny_patch16_224", {}, True),
        ("vit_tiny_patch16_224", {"global_pool": "avg"}, False),
        ("vit_tiny_patch16_224", {"qk_norm": True}, False),
        ("vit_base_patch16_siglip_224", {}, False),
        ("deit_tiny_distilled_patch16_224", {}, False),
        ("vit_small_patch16_rope_224", {"global_pool": "token"}, False),
        ("beit_base_patch16_224", {"global_pool": "token"}, False),
    ],
)
def test_the_cls_token_is_computed_alone_only_where_nothing_else_is_read_and_attention_is_plain(
    name, options, applies
):
    model = timm.create_model(name, **SMALL, **options)
    assert family_of(model).reads_only_cls(model) is applies


def test_a_model_without_a_fixed_grid_is_refused():
    model = timm.create_model("vit_tiny_patch16_224", **SMALL)
    family_of(model)
    model.patch_embed.img_size = None
    with pytest.raises(UserError, match="a PatchEmbed has no fixed grid of patches"):
        family_of(model)
