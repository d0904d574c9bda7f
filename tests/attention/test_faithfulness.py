"""Scores on models and maps whose right answer is known beforehand."""

import copy
from collections import Counter
from contextlib import nullcontext

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor, nn

from vit_finetune import faithfulness
from vit_finetune.attention import TokenLayout
from vit_finetune.faithfulness import (
    Curves,
    Interval,
    attention_distance,
    centre_prior,
    corner_share,
    deletion_insertion,
    effective_patches,
    interval,
    keep_patches,
    kept_correct,
    kept_probabilities,
    margins,
    mosaics,
    prefix_mass,
    quadrant_share,
    random_maps,
    randomised,
    rank_correlation,
    ranking,
    verdict,
)

SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 3, "num_classes": 5}
KEEP = torch.tensor([[3, 0, 9], [1, 2, 15], [8, 4, 6]])
LAYOUT = TokenLayout(("CLS", "REG1"), (2, 3), (16, 8), "token", range(1))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def build(name: str = "vit_tiny_patch16_224", side: int = 64, **options: object) -> nn.Module:
    model = timm.create_model(name, img_size=side, **SMALL, **options).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return model


def pictures(side: int = 64, n: int = 3) -> Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(1))


# Baselines and rankings


def test_centre_prior_falls_with_the_distance_from_the_middle():
    prior = centre_prior((3, 6), sigma=0.25)
    for i, j in np.ndindex(3, 6):
        squared = ((i + 0.5) / 3 - 0.5) ** 2 + ((j + 0.5) / 6 - 0.5) ** 2
        assert prior[i, j] == pytest.approx(np.exp(-squared / (2 * 0.25**2)), rel=1e-5)


def test_ranking_puts_the_largest_first(rng):
    maps = random_maps(4, (3, 5), rng)
    order = ranking(maps, rng)
    assert torch.equal(order, maps.flatten(1).argsort(dim=1, descending=True))


def test_ranking_breaks_ties_at_random_and_by_the_given_generator():
    maps = torch.zeros(2000, 2, 2)
    maps[:, 1, 1] = 1
    order = ranking(maps, np.random.default_rng(5))
    assert (order[:, 0] == 3).all()
    assert all(abs(count - 2000 / 3) < 120 for count in Counter(order[:, 1].tolist()).values())
    assert torch.equal(order, ranking(maps, np.random.default_rng(5)))
    assert not torch.equal(order, ranking(maps, np.random.default_rng(6)))


# Dropping tokens


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("vit_tiny_patch16_224", 64),
        ("deit_tiny_distilled_patch16_224", 64),
        ("vit_mediumd_patch16_reg4_gap_256", 64),
        ("vit_small_patch14_reg4_dinov2", 56),
        ("vit_base_patch16_siglip_224", 64),
    ],
)
def test_dropped_tokens_are_as_if_they_had_never_been(name, side):
    model, images = build(name, side), pictures(side)
    with torch.no_grad(), keep_patches(model, KEEP):
        found = model(images)
    prefix = model.num_prefix_tokens
    for image, patches in enumerate(KEEP.tolist()):
        with torch.no_grad():
            tokens = model.norm_pre(model._pos_embed(model.patch_embed(images[[image]])))
            chosen = tokens[:, [*range(prefix), *(prefix + p for p in sorted(patches))]]
            expected = model.forward_head(model.norm(model.blocks(chosen)))
        assert torch.allclose(found[[image]], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "side", "options"),
    [
        ("vit_tiny_patch16_224", 64, {}),
        ("deit_tiny_distilled_patch16_224", 64, {}),
        ("vit_mediumd_patch16_reg4_gap_256", 64, {}),
        ("vit_small_patch14_reg4_dinov2", 56, {}),
        ("vit_small_patch16_dinov3", 64, {}),
        ("vit_small_patch16_dinov3", 64, {"global_pool": "token"}),
        ("eva02_tiny_patch14_224", 56, {}),
        ("eva02_tiny_patch14_224", 56, {"global_pool": "token"}),
        ("eva_giant_patch14_224", 56, {}),
        ("vit_small_patch16_rope_224", 64, {}),
        ("vit_small_patch16_rope_mixed_224", 64, {}),
        ("vit_small_patch16_rope_mixed_ape_224", 64, {"global_pool": "avg"}),
    ],
)
def test_dropped_tokens_are_as_if_nothing_attended_to_them(name, side, options):
    model, images = build(name, side, **options), pictures(side)
    with torch.no_grad():
        with keep_patches(model, KEEP):
            found = model(images)
        with faithfulness._unseen(model, KEEP):
            expected = model(images)
        assert torch.allclose(found, expected, atol=1e-5)
        with keep_patches(model, KEEP.roll(1, dims=0)):
            assert not torch.allclose(found, model(images), atol=1e-3)
        assert not torch.allclose(found, model(images), atol=1e-3)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_rotary_model_turns_each_kept_patch_as_its_own_place_says(mixed):
    model = build("vit_small_patch16_rope_mixed_224" if mixed else "vit_small_patch16_dinov3")
    images = pictures()
    with torch.no_grad():
        with keep_patches(model, KEEP):
            found = model(images)
        for image, patches in enumerate(KEEP.tolist()):
            tokens, rope = model._pos_embed(model.patch_embed(images[[image]]))
            prefix = model.num_prefix_tokens
            tokens = model.norm_pre(tokens)[:, [*range(prefix), *(prefix + p for p in patches)]]
            for block, turn in zip(model.blocks, rope if mixed else [rope] * 2, strict=True):
                tokens = block(tokens, rope=turn[..., patches, :])
            assert torch.allclose(found[[image]], model.forward_head(model.norm(tokens)), atol=1e-5)


BEITS = {
    "absolute positions": {"use_rel_pos_bias": False, "use_abs_pos_emb": True},
    "a bias in each block": {"use_rel_pos_bias": True},
    "one bias for all": {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True},
    "both biases": {"use_rel_pos_bias": True, "use_shared_rel_pos_bias": True, "use_abs_pos_emb": True},
}


@pytest.mark.parametrize("pooling", [{"global_pool": "token"}, {"global_pool": "avg"}, {"use_fc_norm": False}], ids=str)
@pytest.mark.parametrize("positions", BEITS)
def test_patches_that_beit_does_not_see_are_as_if_they_and_their_biases_had_never_been(positions, pooling, monkeypatch):
    model, images = build("beit_base_patch16_224", **BEITS[positions], **pooling), pictures()
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


@pytest.mark.parametrize(("name", "options"), EVERY_KIND)
def test_keeping_everything_changes_nothing_in_any_order_and_batch(name, options, rng):
    model, images = build(name, **options), pictures(n=5)
    order = ranking(random_maps(5, (4, 4), rng), rng)
    expected = model(images).softmax(dim=-1)
    assert torch.allclose(kept_probabilities(model, images, order, batch_size=2), expected, atol=1e-5)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(("name", "options"), EVERY_KIND)
def test_the_model_is_restored_afterwards_and_after_an_error(name, options, fails):
    model, images, attention = build(name, **options), pictures(), F.scaled_dot_product_attention
    modules, before = dict(model.named_modules()), getattr(model, "patch_drop", None)
    with torch.no_grad():
        expected = model(images)
        with pytest.raises(ZeroDivisionError) if fails else nullcontext(), keep_patches(model, KEEP):
            assert not torch.allclose(model(images), expected, atol=1e-3)
            if fails:
                raise ZeroDivisionError
        assert torch.equal(model(images), expected)
    assert getattr(model, "patch_drop", None) is before
    assert F.scaled_dot_product_attention is attention
    assert dict(model.named_modules()) == modules
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules.values())


# Deletion and insertion


@pytest.fixture
def only_patch_three_matters(monkeypatch) -> list[int]:
    """Stands in for the model: class 1 has probability 1 where patch 3 is present, else 0. Returns the calls."""
    calls: list[int] = []

    def probabilities(_model, _images, keep, _batch_size=0):
        calls.append(keep.shape[1])
        present = (keep == 3).any(dim=1).float()
        return torch.stack([1 - present, present], dim=1)

    monkeypatch.setattr(faithfulness, "kept_probabilities", probabilities)
    return calls


def test_scores_of_the_right_and_the_wrong_map(only_patch_three_matters, rng):
    right = torch.zeros(2, 2, 5)
    right.view(2, 10)[:, 3] = 1
    fractions = (0.0, 0.2, 0.6, 1.0)
    curves = deletion_insertion(
        build(), torch.zeros(2, 1), torch.tensor([1, 1]), {"right": right, "wrong": -right}, rng, fractions
    )
    assert curves["right"].deletion.tolist() == [[1, 0, 0, 0]] * 2
    assert curves["right"].insertion.tolist() == [[1, 1, 1, 1]] * 2
    assert curves["wrong"].deletion.tolist() == [[1, 1, 1, 1]] * 2
    assert curves["wrong"].insertion.tolist() == [[0, 0, 0, 1]] * 2
    # areas: insertion 1, deletion 0.2 / 2; and insertion 0.4 / 2, deletion 1
    assert curves["right"].score == pytest.approx([0.9, 0.9])
    assert curves["wrong"].score == pytest.approx([-0.8, -0.8])
    assert only_patch_three_matters.count(10) == 1  # the whole image is asked once for all maps


def test_targets_choose_the_class(only_patch_three_matters, rng):
    maps = {"any": random_maps(2, (2, 5), rng)}
    found = deletion_insertion(build(), torch.zeros(2, 1), torch.tensor([0, 1]), maps, rng, (0.0, 1.0))
    assert found["any"].deletion[:, 0].tolist() == [0, 1]


def test_a_map_measured_patch_by_patch_beats_its_opposite_on_a_real_model(rng):
    model, images = build(), pictures(n=6)
    with torch.no_grad():
        targets = model(images).argmax(dim=1)
    everything = torch.arange(16).expand(6, -1)
    alone = [
        kept_probabilities(model, images, torch.cat([everything[:, :p], everything[:, p + 1 :]], dim=1))
        for p in range(16)
    ]
    maps = -torch.stack([p.gather(1, targets[:, None])[:, 0] for p in alone], dim=1).view(6, 4, 4)
    curves = deletion_insertion(model, images, targets, {"drop": maps, "opposite": -maps}, rng)
    assert curves["drop"].score.mean() > curves["opposite"].score.mean() + 0.05
    assert curves["drop"].deletion.shape == (6, len(faithfulness.FRACTIONS))


# Intervals


def test_interval_of_a_large_normal_sample_is_the_textbook_one(rng):
    values = rng.normal(3, 2, size=900)
    found = interval(values, rng, resamples=4000)
    error = values.std() / 30
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)
    assert found.n == 900


def test_intervals_hold_the_truth_as_often_as_they_say(rng):
    hits = 0
    for _ in range(300):
        found = interval(rng.exponential(1, size=60), rng, resamples=400, level=0.8)
        hits += found.low <= 1 <= found.high
    assert 0.72 < hits / 300 < 0.86


@pytest.mark.parametrize("values", [[], [[1.0]], [1.0, np.nan]])
def test_interval_refuses_what_has_none(values, rng):
    with pytest.raises(ValueError, match="list of finite values"):
        interval(np.array(values), rng)


def test_margins_are_paired_by_image(rng):
    base = rng.normal(0, 5, size=50)  # images differ widely, the maps by exactly 0.1
    curves = {
        name: Curves((0.0, 1.0), np.zeros((50, 2)), np.stack([base + more] * 2, axis=1))
        for name, more in (("centre", 0.0), ("better", 0.1))
    }
    found = margins(curves, "centre", rng)
    assert [*found] == ["better"]
    assert (found["better"].low, found["better"].high) == pytest.approx((0.1, 0.1))


def test_verdict_names_the_maps():
    numbers = {
        "rollout": Interval(-0.02, -0.14, 0.09, 40),
        "raw": Interval(0.04, -0.04, 0.13, 40),
        "chefer": Interval(0.25, 0.18, 0.31, 40),
    }
    told = verdict(numbers)
    assert told == "On 40 images, not distinguishable from a centre prior: rollout, raw."
    numbers["random"] = Interval(-0.1, -0.16, -0.04, 40)
    assert verdict(numbers).endswith("rollout, raw; worse than it: random.")
    assert verdict({"chefer": numbers["chefer"]}) == "On 40 images, not distinguishable from a centre prior: none."


# Which regions


def test_kept_correct_keeps_the_patches_it_says(monkeypatch, rng):
    kept: list[Tensor] = []

    def probabilities(_model, _images, keep):
        kept.append(keep)
        return torch.eye(2)[(keep == 7).any(dim=1).long()]

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


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_mosaics_are_four_images_of_which_one_alone_is_of_the_class_asked_for(classes, rng):
    images = rng.integers(256, size=(40, 4, 6, 3), dtype=np.uint8)
    labels = rng.permutation(np.arange(40) % classes) * 3 + 2  # numbers with gaps, none of them 0
    made, chosen, asked = mosaics(images, labels, 200, rng)
    assert made.shape == (200, 8, 12, 3)
    assert made.dtype == np.uint8
    assert chosen.shape == (200, 4)
    for picture, numbers, quadrant in zip(made, chosen, asked, strict=True):
        shown = labels[numbers].tolist()
        assert shown.count(shown[quadrant]) == 1
        assert len(set(shown)) == min(classes, 4)
        corners = (picture[:4, :6], picture[:4, 6:], picture[4:, :6], picture[4:, 6:])
        for corner, number in zip(corners, numbers, strict=True):
            assert np.array_equal(corner, images[number])
    questions = Counter(zip(asked.tolist(), labels[chosen[np.arange(200), asked]].tolist(), strict=True))
    assert {quadrant for quadrant, _ in questions} == {0, 1, 2, 3}
    assert {label for _, label in questions} == set(labels.tolist())
    assert max(Counter(asked.tolist()).values()) < 80  # of 200, in four quadrants


def test_mosaics_follow_from_the_generator(rng):
    images, labels = rng.integers(256, size=(12, 2, 2, 3), dtype=np.uint8), np.arange(12) % 3
    first, again, other = (mosaics(images, labels, 9, np.random.default_rng(seed)) for seed in (1, 1, 2))
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a, b)
    assert not np.array_equal(first[1], other[1])


@pytest.mark.parametrize("grid", [(4, 6), (3, 5), (4, 3)])
def test_quadrant_share_against_a_loop(grid, rng):
    maps = random_maps(4, grid, rng) - 0.3
    shares = quadrant_share(maps, torch.arange(4))
    for quadrant, relevance in enumerate(maps):
        inside = total = 0.0
        for i, j in np.ndindex(*grid):
            down, across = 2 * i + 1 - grid[0], 2 * j + 1 - grid[1]  # below 0: upper, left half
            vertical = 0.5 if down == 0 else float((down > 0) == (quadrant >= 2))
            horizontal = 0.5 if across == 0 else float((across > 0) == (quadrant % 2 == 1))
            inside += vertical * horizontal * max(0.0, float(relevance[i, j]))
            total += max(0.0, float(relevance[i, j]))
        assert shares[quadrant] == pytest.approx(inside / total, rel=1e-5)


def test_a_map_without_positive_relevance_is_at_chance():
    assert quadrant_share(-torch.ones(1, 4, 4), torch.tensor([2])).tolist() == [0.25]


# Shape of the attention


def test_effective_patches():
    maps = torch.zeros(3, 2, 4)
    maps[0, 1, 2] = 5
    maps[1] = 0.3
    maps[2, 0] = torch.tensor([0.5, 0.25, 0.25, 0.0])
    expected = [1, 8, np.exp(0.5 * np.log(2) + 2 * 0.25 * np.log(4))]
    assert effective_patches(maps).tolist() == pytest.approx(expected, rel=1e-5)


def test_corner_share():
    maps = torch.arange(1.0, 13).reshape(1, 3, 4).repeat(2, 1, 1)
    maps[1] = 0.3
    assert corner_share(maps).tolist() == pytest.approx([(1 + 4 + 9 + 12) / 78, 4 / 12])
    assert corner_share(torch.ones(1, 1)).item() == 1
    assert corner_share(torch.ones(2, 1)).item() == 1


@pytest.fixture
def attn() -> Tensor:
    return torch.rand(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).softmax(dim=-1)


def test_prefix_mass_against_a_loop(attn):
    readout = torch.tensor([0.5, 0, 0.5, 0, 0, 0, 0, 0])
    found = prefix_mass(attn, LAYOUT, readout)
    for b, block in np.ndindex(2, 2):
        total = sum(float(readout[t] * attn[b, block, h, t, :2].sum()) for h in range(3) for t in range(8))
        assert found[b, block] == pytest.approx(total / 3, rel=1e-5)


def test_attention_distance_against_a_loop(attn):
    found = attention_distance(attn, LAYOUT)
    for b, block, head in np.ndindex(2, 2, 3):
        rows = []
        for q in range(6):
            weights = attn[b, block, head, 2 + q, 2:]
            moved = 0.0
            for k in range(6):
                down, across = 16 * (q // 3 - k // 3), 8 * (q % 3 - k % 3)
                moved += float(weights[k]) * np.hypot(down, across)
            rows.append(moved / float(weights.sum()))
        assert found[b, block, head] == pytest.approx(np.mean(rows), rel=1e-5)


def test_uniform_attention_of_a_14_by_14_grid_reaches_116_pixels():
    layout = TokenLayout(("CLS",), (14, 14), (16, 16), "token", range(1))
    uniform = torch.full((1, 1, 1, 197, 197), 1 / 197)
    assert attention_distance(uniform, layout).item() == pytest.approx(116, abs=1)


# Sanity


def test_randomised_shuffles_the_named_parts_of_a_copy_and_nothing_else():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, **(SMALL | {"depth": 11}))
    before = copy.deepcopy(model.state_dict())
    changed = randomised(model, ["head", "blocks.1"], torch.Generator().manual_seed(0))
    for name, value in changed.state_dict().items():
        assert torch.equal(model.state_dict()[name], before[name])
        assert torch.equal(value.flatten().sort().values, before[name].flatten().sort().values)
        named = name.startswith(("head.", "blocks.1."))
        constant = before[name].unique().numel() == 1
        assert torch.equal(value, before[name]) == (constant or not named), name
    again = randomised(model, ["head", "blocks.1"], torch.Generator().manual_seed(0))
    assert torch.equal(again.head.weight, changed.head.weight)
    with pytest.raises(ValueError, match=r"no parameters in 'neck'"):
        randomised(model, ["neck"], torch.Generator())


def test_rank_correlation_agrees_with_scipy(rng):
    first = torch.from_numpy(rng.integers(6, size=(5, 3, 4)).astype(np.float32))  # many equal values
    second = first + torch.from_numpy(rng.normal(0, 2, size=(5, 3, 4)).astype(np.float32))
    expected = [spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(first, second, strict=True)]
    assert rank_correlation(first, second) == pytest.approx(expected)
    assert rank_correlation(first, -first) == pytest.approx([-1] * 5)


def test_a_constant_map_correlates_with_nothing():
    assert rank_correlation(torch.ones(1, 2, 2), torch.rand(1, 2, 2)).tolist() == [0.0]
