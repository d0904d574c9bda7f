"""Patches are left out as if they had never been, and scores are right where the answer is known
beforehand."""

from collections import Counter
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.small_vits import build, pictures
from vit_finetune.attention import faithfulness
from vit_finetune.attention.faithfulness import (
    CHECKED,
    FRACTIONS,
    Curves,
    Schedule,
    centre_prior,
    deletion_insertion,
    kept_correct,
    kept_probabilities,
    precision_for,
    random_maps,
    ranking,
)
from vit_finetune.intervals import mean
from vit_finetune.model.boundary import to_device
from vit_finetune.model.families import family_of

KEEP = torch.tensor([[3, 0, 9], [1, 2, 15], [8, 4, 6]])


# Baselines and rankings


def test_centre_prior_falls_with_the_distance_from_the_middle():
    prior = centre_prior((3, 6), sigma=0.25)
    for i, j in np.ndindex(3, 6):
        squared = ((i + 0.5) / 3 - 0.5) ** 2 + ((j + 0.5) / 6 - 0.5) ** 2
        assert prior[i, j] == pytest.approx(np.exp(-squared / (2 * 0.25**2)), rel=1e-5)


def test_ranking_puts_the_largest_first_and_breaks_ties_at_random_and_by_the_given_generator():
    maps = torch.zeros(2000, 2, 2)
    maps[:, 1, 1] = 1
    maps[:, 0, 1] = -1
    order = ranking(maps, np.random.default_rng(5))
    assert (order[:, [0, 3]] == torch.tensor([3, 1])).all()
    assert all(abs(count - 1000) < 120 for count in Counter(order[:, 1].tolist()).values())
    assert torch.equal(order, ranking(maps, np.random.default_rng(5)))
    assert not torch.equal(order, ranking(maps, np.random.default_rng(6)))


# Leaving patches out (each family in its own way)


def keep_patches(model, keep):
    return family_of(model).keep_patches(model, keep)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {}),
        ("deit_tiny_distilled_patch16_224", {}),
        ("vit_mediumd_patch16_reg4_gap_256", {}),
        ("vit_small_patch14_reg4_dinov2", {}),
        ("vit_base_patch16_siglip_224", {}),
        ("vit_small_patch16_dinov3", {}),
        ("vit_small_patch16_dinov3", {"global_pool": "token"}),
        ("eva02_tiny_patch14_224", {}),
        ("eva02_tiny_patch14_224", {"global_pool": "token"}),
        ("eva_giant_patch14_224", {"img_size": 56}),
        ("vit_pe_core_tiny_patch16_384", {}),
        ("vit_small_patch16_rope_224", {}),
        ("vit_small_patch16_rope_mixed_224", {}),
        ("vit_small_patch16_rope_mixed_ape_224", {"global_pool": "avg"}),
    ],
    ids=str,
)
def test_patches_left_out_are_as_if_they_had_never_been_and_the_others_keep_their_places(
    name, options
):
    model = build(name, **options)
    images = pictures(model, 3)
    prefix = model.num_prefix_tokens
    family = family_of(model)
    with torch.no_grad(), keep_patches(model, KEEP):
        found = model(images)
    with torch.no_grad():
        tokens = family.tokens(model, images)
        block_options = family.block_options(model)
        for image, patches in enumerate(KEEP.tolist()):
            kept = tokens[[image]][:, [*range(prefix), *(prefix + p for p in patches)]]
            for block, given in zip(model.blocks, block_options, strict=True):
                kept = block(
                    kept, **{k: None if v is None else v[..., patches, :] for k, v in given.items()}
                )
            assert torch.allclose(found[[image]], model.forward_head(model.norm(kept)), atol=1e-4)
        with keep_patches(model, KEEP.roll(1, dims=0)):
            assert not torch.allclose(found, model(images), atol=1e-3)


BEITS = {
    "absolute positions": {"use_rel_pos_bias": False, "use_abs_pos_emb": True},
    "a bias in each block": {"use_rel_pos_bias": True},
    "one bias for all": {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True},
    "both biases": {"use_shared_rel_pos_bias": True, "use_abs_pos_emb": True},
}


@pytest.mark.parametrize(
    "pooling", [{"global_pool": "token"}, {"global_pool": "avg"}, {"use_fc_norm": False}], ids=str
)
@pytest.mark.parametrize("positions", BEITS)
def test_patches_that_beit_leaves_out_are_as_if_they_and_their_biases_had_never_been(
    positions, pooling, monkeypatch
):
    model = build("beit_base_patch16_224", **BEITS[positions], **pooling)
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad(), keep_patches(model, KEEP):
        found = model(images)
    own = [block.attn._get_rel_pos_bias() for block in model.blocks if block.attn.window_size]
    for image, patches in enumerate(KEEP.tolist()):
        kept = torch.tensor([0, *(1 + p for p in patches)])
        for block, bias in zip(model.blocks, own, strict=False):
            chosen = bias[..., kept, :][..., kept]
            monkeypatch.setattr(block.attn, "_get_rel_pos_bias", lambda chosen=chosen: chosen)
        shared = None if model.rel_pos_bias is None else model.rel_pos_bias()[:, kept][..., kept]
        with torch.no_grad():
            tokens = torch.cat([model.cls_token, model.patch_embed(images[[image]])], dim=1)
            tokens = (tokens if model.pos_embed is None else tokens + model.pos_embed)[:, kept]
            for block in model.blocks:
                tokens = block(tokens, shared_rel_pos_bias=shared)
            expected = model.forward_head(model.norm(tokens))
        assert torch.allclose(found[[image]], expected, atol=1e-5)


EVERY_KIND = [
    ("vit_tiny_patch16_224", {}),
    ("vit_base_patch16_siglip_224", {}),
    ("vit_small_patch16_dinov3", {}),
    ("vit_small_patch16_rope_mixed_224", {}),
    ("beit_base_patch16_224", {}),
    ("beit_base_patch16_224", {"use_shared_rel_pos_bias": True, "global_pool": "token"}),
]


@pytest.mark.parametrize(("name", "options"), EVERY_KIND, ids=str)
def test_keeping_everything_changes_nothing_in_any_order_and_batch(name, options, rng):
    model = build(name, **options)
    images = pictures(model, 5)
    order = ranking(random_maps(5, (4, 4), rng), rng)
    expected = model(images).softmax(dim=-1)
    assert torch.allclose(
        kept_probabilities(model, images, order[:, None], 32)[:, 0], expected, atol=1e-5
    )


@pytest.mark.parametrize(("name", "options"), EVERY_KIND, ids=str)
def test_several_choices_of_an_image_are_what_each_is_alone(name, options):
    model = build(name, **options)
    images = pictures(model, 3)
    keep = torch.stack([KEEP, (KEEP + 7) % 16], dim=1)
    with torch.no_grad(), keep_patches(model, keep[:, 1]):
        second = model(images).softmax(dim=-1)
    found = kept_probabilities(model, images, keep, batch_tokens=12)  # two images, then one
    assert found.shape == (3, 2, 5)
    assert torch.allclose(found[:, 1], second, atol=1e-5)
    assert torch.allclose(found[:, :1], kept_probabilities(model, images, keep[:, :1]), atol=1e-5)
    assert (found[:, 0] - found[:, 1]).abs().amax() > 1e-3
    assert not model.patch_embed._forward_hooks


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(("name", "options"), EVERY_KIND, ids=str)
def test_the_model_is_restored_afterwards_and_after_an_error(name, options, fails):
    model = build(name, **options)
    attention = F.scaled_dot_product_attention
    images = pictures(model, 3)
    modules = dict(model.named_modules())
    before = getattr(model, "patch_drop", None)
    with torch.no_grad():
        expected = model(images)
        with (
            pytest.raises(ZeroDivisionError) if fails else nullcontext(),
            keep_patches(model, KEEP),
        ):
            assert not torch.allclose(model(images), expected, atol=1e-3)
            if fails:
                raise ZeroDivisionError
        assert torch.equal(model(images), expected)
    assert getattr(model, "patch_drop", None) is before
    assert F.scaled_dot_product_attention is attention
    assert dict(model.named_modules()) == modules
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in modules.values()
    )


# Deletion and insertion


@pytest.fixture
def only_patch_three_matters(monkeypatch) -> list[int]:
    """Stands in for the model: class 1 has probability 1 where patch 3 is present, else 0. Returns
    the calls."""
    calls: list[int] = []

    def probabilities(_model, _images, keep):
        calls.append(keep.shape[2])
        present = (keep == 3).any(dim=2).float()
        return torch.stack([1 - present, present], dim=2)

    monkeypatch.setattr(faithfulness, "kept_probabilities", probabilities)
    return calls


def test_scores_of_the_right_and_the_wrong_map(only_patch_three_matters, rng):
    right = torch.zeros(2, 2, 5)
    right.view(2, 10)[:, 3] = 1
    fractions = (0.0, 0.2, 0.6, 1.0)
    maps = {"right": right, "wrong": -right}
    targets = torch.tensor([1, 1])
    curves = deletion_insertion(build(), torch.zeros(2, 1), targets, maps, rng, Schedule(fractions))
    assert curves["right"].deletion.tolist() == [[1, 0, 0, 0]] * 2
    assert curves["right"].insertion.tolist() == [[1, 1, 1, 1]] * 2
    assert curves["wrong"].deletion.tolist() == [[1, 1, 1, 1]] * 2
    assert curves["wrong"].insertion.tolist() == [[0, 0, 0, 1]] * 2
    # areas: insertion 1, deletion 0.2 / 2; and insertion 0.4 / 2, deletion 1
    assert curves["right"].score() == pytest.approx((0.9, 0.9, 0.9, 2))
    assert curves["wrong"].score() == pytest.approx((-0.8, -0.8, -0.8, 2))
    # the whole image is asked once at either end for all maps
    assert only_patch_three_matters.count(10) == 2


def test_curves_are_of_the_target_class_of_each_image(only_patch_three_matters, rng):
    maps = {"any": random_maps(2, (2, 5), rng)}
    found = deletion_insertion(
        build(), torch.zeros(2, 1), torch.tensor([0, 1]), maps, rng, Schedule((0.0, 1.0))
    )
    assert found["any"].deletion[:, 0].tolist() == [0, 1]


@pytest.mark.parametrize(("name", "options"), EVERY_KIND, ids=str)
def test_every_kind_of_model_can_be_asked_in_bfloat16(name, options, capsys):
    model = build(name, **options)
    images = pictures(model, 3)
    keep = torch.stack([KEEP, (KEEP + 7) % 16], dim=1)
    exact = kept_probabilities(model, images, keep)
    model = to_device(model, torch.device("cpu"), torch.bfloat16)
    # also where it is not fused
    assert torch.allclose(kept_probabilities(model, images, keep), exact, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = kept_probabilities(model, images, keep)
    assert not torch.equal(found, exact)
    assert torch.allclose(found, exact, atol=0.05)
    assert precision_for(model, images, torch.float32) == torch.float32
    assert precision_for(model, images, torch.bfloat16) == torch.bfloat16
    assert capsys.readouterr().out == ""


def test_where_bfloat16_changes_the_probabilities_the_model_is_asked_in_float32_and_that_is_said(
    monkeypatch, capsys
):
    monkeypatch.setattr(faithfulness, "TOLERANCE", 1e-5)
    model = build()
    images = pictures(model, CHECKED + 4)
    assert precision_for(model, images, torch.bfloat16) == torch.float32
    middle = centre_prior((4, 4)).flatten().argsort(descending=True, stable=True)
    keep = middle[:8].expand(CHECKED, 1, -1)
    exact = kept_probabilities(model, images[:CHECKED], keep)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = kept_probabilities(model, images[:CHECKED], keep)
    difference = (found - exact).abs().amax(dim=2).mean()
    assert difference > 1e-5
    assert capsys.readouterr().out == (
        f"attention: in bfloat16 probabilities differ by {difference:.3f}, "
        "so patches are left out in float32\n"
    )


def test_a_map_measured_patch_by_patch_beats_its_opposite_on_a_real_model(rng):
    model = build()
    images = pictures(model, 6)
    with torch.no_grad():
        targets = model(images).argmax(dim=1)
    everything = torch.arange(16).expand(6, -1)
    alone = torch.stack(
        [torch.cat([everything[:, :p], everything[:, p + 1 :]], dim=1) for p in range(16)], dim=1
    )
    found = kept_probabilities(model, images, alone)
    maps = -found[torch.arange(6), :, targets].view(6, 4, 4)
    curves = deletion_insertion(model, images, targets, {"drop": maps, "opposite": -maps}, rng)
    assert curves["drop"].score().mean > curves["opposite"].score().mean + 0.05
    assert curves["drop"].deletion.shape == (6, len(FRACTIONS))


def test_an_image_is_asked_at_the_fractions_of_its_group_as_if_it_were_asked_at_all(rng):
    model = build()
    images = pictures(model, 9)
    maps = {"any": random_maps(9, (4, 4), rng)}
    targets = torch.arange(9) % 3

    def curves(groups: int) -> Curves:
        rng = np.random.default_rng(1)
        schedule = Schedule(groups=groups)
        return deletion_insertion(model, images, targets, maps, rng, schedule)["any"]

    every = curves(1)
    some = curves(4)
    for whole, part in ((every.deletion, some.deletion), (every.insertion, some.insertion)):
        assert not np.isnan(whole).any()
        asked = np.arange(9)[:, None] % 4 == np.arange(len(FRACTIONS)) % 4
        assert np.array_equal(~np.isnan(part), asked)
        assert np.allclose(part[asked], whole[asked], atol=1e-5)


def test_with_few_images_each_group_still_has_two(rng):
    maps = {"any": random_maps(4, (4, 4), rng)}
    curves = deletion_insertion(
        build(), torch.randn(4, 3, 64, 64), torch.zeros(4, dtype=torch.long), maps, rng
    )["any"]
    assert len(np.unique(np.isnan(curves.deletion), axis=0)) == 2
    assert curves.score().n == 4


# Comparisons of maps


def test_margins_are_paired_by_image(rng):
    base = rng.normal(0, 5, size=50)  # images differ widely, the maps by exactly 0.1
    centre, better = (
        Curves((0.0, 1.0), np.zeros((50, 2)), np.stack([base + more] * 2, axis=1))
        for more in (0.0, 0.1)
    )
    assert better.score(centre) == pytest.approx((0.1, 0.1, 0.1, 50))


def test_asked_everywhere_the_score_is_the_mean_area_by_trapezoids(rng):
    curves = Curves(FRACTIONS, rng.random((30, 8)), rng.random((30, 8)))
    areas = np.trapezoid(curves.insertion - curves.deletion, FRACTIONS, axis=1)
    assert curves.score() == pytest.approx(mean(areas))


def test_groups_estimate_the_same_score_and_their_interval_holds():
    rng = np.random.default_rng(0)
    held = 0
    found = []
    truth = np.linspace(-0.2, 0.6, 8)
    for _ in range(1000):
        # the fractions of an image go together
        image = rng.normal(0, 0.3, size=(24, 1)) * np.ones(8)
        gain = truth + image + rng.normal(0, 0.1, size=(24, 8))
        gain[np.arange(24)[:, None] % 6 != np.arange(8) % 6] = np.nan
        score = Curves(FRACTIONS, np.zeros((24, 8)), gain).score()
        held += score.low <= np.trapezoid(truth, FRACTIONS) <= score.high
        found.append(score.mean)
    assert np.mean(found) == pytest.approx(np.trapezoid(truth, FRACTIONS), abs=0.01)
    assert 930 <= held <= 980  # of 1,000 intervals of 95 %, on 24 images in six groups


# Which regions


def test_accuracy_from_some_patches_keeps_the_patches_that_it_says(monkeypatch, rng):
    kept: list[Tensor] = []

    def probabilities(_model, _images, keep):
        kept.append(keep[:, 0])
        return torch.eye(2)[(keep == 7).any(dim=2).long()]

    monkeypatch.setattr(faithfulness, "kept_probabilities", probabilities)
    maps = torch.zeros(3, 4, 5)
    maps[:, 1, 2] = 1  # patch 7
    found = kept_correct(build(), torch.zeros(3, 1), torch.tensor([1, 1, 0]), maps, rng, share=0.2)
    top, chance, centre, border = kept
    assert top.shape == chance.shape == (3, 4)
    assert (top[:, 0] == 7).all()
    assert not torch.equal(chance[0], chance[1])
    prior = centre_prior((4, 5)).flatten()
    for image in range(3):
        assert sorted([*centre[image].tolist(), *border[image].tolist()]) == [*range(20)]
        assert prior[centre[image]].min() >= prior[border[image]].max()
    assert found["top"].tolist() == [1, 1, 0]
    assert found["border"].tolist() == [0, 0, 1]


def test_a_batch_is_bounded_in_choices_and_in_patches(rng):
    model = build("vit_tiny_patch16_224")
    seen = []
    model.patch_embed.register_forward_pre_hook(lambda _m, args: seen.append(len(args[0])))
    images = pictures(model, 10)
    order = ranking(random_maps(10, (4, 4), rng), rng)
    for patches, choices, at_a_time, largest in (
        (1, 1, 4, 4),
        (16, 1, 64, 2),
        (16, 1, 1, 1),
        (1, 3, 9, 3),
        (1, 3, 2, 1),
    ):
        seen.clear()
        keep = order[:, None, :patches].expand(-1, choices, -1)
        kept_probabilities(model, images, keep, batch_tokens=32, batch_choices=at_a_time)
        assert sum(seen) == 10
        assert max(seen) == largest
