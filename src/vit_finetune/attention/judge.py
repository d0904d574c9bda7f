"""Computes every map of a sample of images and runs each test of them once, with n and a 95 %
interval.

B images, L blocks, H heads, T tokens, a grid of G_h x G_w patches. `Maps` is method -> (B, G_h,
G_w).
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vit_finetune.attention import faithfulness
from vit_finetune.attention.effective import decompose
from vit_finetune.attention.maps import (
    EffectiveGradient,
    MapMaker,
    Maps,
    MapsOfDirection,
    asked_by,
    go_back,
    joined,
    readout_maps,
)
from vit_finetune.attention.pointing import cell_share
from vit_finetune.attention.sample import Mosaics, Sample, Trial
from vit_finetune.attention.sanity import randomised, rank_correlation
from vit_finetune.attention.shape import (
    attention_distance,
    corner_share,
    effective_patches,
    prefix_mass,
)
from vit_finetune.attention.walk import BlockAttention, Walk
from vit_finetune.intervals import Interval, fraction, mean
from vit_finetune.model.boundary import autocast, to_device
from vit_finetune.model.families import family_of
from vit_finetune.model.tokens import TokenLayout
from vit_finetune.verdict import NOT_JUDGED, in_order, word_for

Rng = np.random.Generator
Row = dict[str, Any]
Intervals = dict[str, Interval]  # by the name of a map, a block or a choice of patches

SANITY_IMAGES = 16
STEPS = 5
BASELINES = ("random", "centre")
NUMBERS = (
    "score",
    "minus_random",
    "minus_centre",
    "mosaic_share",
    "mosaic_share_3x3",
    "head_shuffled",
    "blocks_shuffled",
)


def cells(name: str, interval: Interval | None) -> Row:
    """The columns of an interval in a table: its mean, `_low` and `_high`; empty for None."""
    values = ["" if interval is None else round(value, 4) for value in (interval or (0, 0, 0))[:3]]
    return {f"{name}{end}": value for end, value in zip(("", "_low", "_high"), values, strict=True)}


def per_method(values: Mapping[str, NDArray[Any]]) -> Intervals:
    return {name: mean(value) for name, value in values.items()}


def faithfulness_of(
    asked: nn.Module, sample: Sample, maps: Maps, rng: Rng
) -> dict[str, faithfulness.Curves]:
    """Deletion and insertion of every map and of the two baselines."""
    count, *grid = maps["relevance"].shape
    baselines = {
        "random": faithfulness.random_maps(count, (grid[0], grid[1]), rng),
        "centre": faithfulness.centre_prior((grid[0], grid[1])).expand(count, *grid),
    }
    return faithfulness.deletion_insertion(
        asked, sample.pixels, sample.predicted, {**maps, **baselines}, rng
    )


Bands = dict[str, dict[str, NDArray[Any]]]  # `deletion` and `insertion` -> map -> (3, F)


def curve_bands(curves: Mapping[str, faithfulness.Curves]) -> Bands:
    """Mean, low and high, (3, F), of every map's curve: `deletion` and `insertion` -> map ->
    band."""

    def band(values: NDArray[Any]) -> NDArray[Any]:
        return np.clip([mean(column[~np.isnan(column)])[:3] for column in values.T], 0, 1).T

    return {
        kind: {name: band(getattr(curve, kind)) for name, curve in curves.items()}
        for kind in ("deletion", "insertion")
    }


def curve_rows(bands: Bands) -> list[Row]:
    """A row for each curve, map and fraction of the patches: the mean probability with its
    interval."""
    return [
        {"curve": curve, "map": name, "fraction": fraction}
        | {end: round(float(band[i, f]), 4) for i, end in enumerate(("probability", "low", "high"))}
        for curve, of_maps in bands.items()
        for name, band in of_maps.items()
        for f, fraction in enumerate(faithfulness.FRACTIONS)
    ]


def mosaic_shares(maker: MapMaker, mosaics: Mosaics) -> Intervals:
    """Share of the positive relevance in the cell of the class asked for; chance is one of the
    cells."""
    maps = maker.maps(mosaics.pixels, mosaics.classes)
    return per_method(
        {name: cell_share(values, mosaics.cells, mosaics.side) for name, values in maps.items()}
    )


def patch_rows(asked: nn.Module, sample: Sample, maps: Tensor, rng: Rng) -> list[Row]:
    """Accuracy from a fifth of the patches (the map's top, or random) and from the centre or the
    border alone."""
    kept = {"all": (sample.predicted == sample.labels).numpy().astype(float)}
    kept |= faithfulness.kept_correct(asked, sample.pixels, sample.labels, maps, rng)
    return [
        {"patches": name, **cells("accuracy", fraction(right)), "n": len(right)}
        for name, right in kept.items()
    ]


class Shapes:
    """How wide, how far and where the attention of one batch goes, taken from its blocks, last
    block first."""

    def __init__(self, layout: TokenLayout, readout: Tensor) -> None:
        self.layout = layout
        self.readout = readout
        self.blocks: list[dict[str, Tensor]] = []

    def pass_block(self, block: BlockAttention) -> None:
        read = readout_maps(block.attn, self.layout, self.readout).mean(dim=1)
        self.blocks.append(
            {
                "effective_patches": effective_patches(read),
                "corner_share": corner_share(read),
                "prefix_mass": prefix_mass(block.attn, self.layout, self.readout),
                "distance": attention_distance(block.attn, self.layout),
            }
        )

    def stacked(self) -> dict[str, Tensor]:
        """By name, first block first: (B, L), `distance` (B, L, H)."""
        return {
            name: torch.stack([one[name] for one in reversed(self.blocks)], dim=1).cpu()
            for name in self.blocks[0]
        }


def maps_and_shapes(maker: MapMaker, sample: Sample) -> tuple[Maps, dict[str, Tensor], float]:
    """Every map for the predicted class, the shape of the attention of each image, and the
    self-check's error.

    The shapes are `effective_patches`, `corner_share` and `prefix_mass`, (B, L), and `distance`,
    (B, L, H).
    """
    maps = []
    shapes = []
    errors = []
    for pixels, classes in maker.batches(sample.pixels, sample.predicted):
        walk = Walk(maker.model, pixels, asked_by(maker.kinds))
        found = MapsOfDirection(maker.kinds, maker.readout(walk), maker.settings)
        shape = Shapes(maker.layout, maker.readout(walk))
        go_back(walk, [walk.direction(classes)], [found, shape])
        maps.append(maker.on_grid(found.values()))
        shapes.append(shape.stacked())
        errors.append(walk.error)
        del walk  # and with it the graph, before the next batch makes its own
    return joined(maps), joined(shapes), max(errors)


def distances_of(maker: MapMaker, pixels: Tensor) -> tuple[Tensor, float]:
    """Attention distance of each image, (B, L, H), and the self-check's error."""
    parts = []
    errors = []
    for (batch,) in maker.batches(pixels):
        walk = Walk(maker.model, batch, frozenset())
        distances = Distances(maker.layout)
        go_back(walk, [walk.direction(0)], [distances])
        parts.append(torch.stack(distances.blocks[::-1], dim=1).cpu())
        errors.append(walk.error)
        del walk
    return torch.cat(parts), max(errors)


class Distances:
    """The attention distance of each block of one batch, (B, H), last block first."""

    def __init__(self, layout: TokenLayout) -> None:
        self.layout = layout
        self.blocks: list[Tensor] = []

    def pass_block(self, block: BlockAttention) -> None:
        self.blocks.append(attention_distance(block.attn, self.layout))


def block_rows(shapes: Mapping[str, Tensor], before: Tensor) -> list[Row]:
    """How wide, how far and where the attention goes: a row for each block.

    Args:
        before: distances of the pretrained model, (B, L, H), in pixels of its input.
    """
    by_block = {
        **{name: shapes[name] for name in ("effective_patches", "corner_share", "prefix_mass")},
        "distance": shapes["distance"].mean(dim=2),
        "distance_change": (shapes["distance"] - before).mean(dim=2),
    }
    rows = []
    for block in range(before.shape[1]):
        found = [cells(name, mean(values[:, block].numpy())) for name, values in by_block.items()]
        rows.append(
            {"block": block}
            | {key: value for one in found for key, value in one.items()}
            | {"n": len(before)}
        )
    return rows


def sanity_correlations(
    maker: MapMaker, pixels: Tensor, targets: Tensor, maps: Maps, seed: int
) -> dict[str, Intervals]:
    """Rank correlation of each map with that of the same model after its weights are shuffled."""
    pixels = pixels[:SANITY_IMAGES]
    targets = targets[:SANITY_IMAGES]
    heads = family_of(maker.model).heads
    found = {}
    for name, parts in (("head_shuffled", heads), ("blocks_shuffled", [*heads, "blocks"])):
        shuffled = randomised(maker.model, parts, torch.Generator().manual_seed(seed))
        others = replace(maker, model=shuffled).maps(pixels, targets)
        found[name] = per_method(
            {m: rank_correlation(maps[m][:SANITY_IMAGES], others[m]) for m in maps}
        )
    return found


def map_rows(
    curves: Mapping[str, faithfulness.Curves], others: Mapping[str, Intervals], above_chance: bool
) -> list[Row]:
    """What each map is worth, a row each, and the two baselines: NUMBERS, and a verdict on each
    map.

    Args:
        others: mosaic_share, mosaic_share_3x3, head_shuffled and blocks_shuffled of each map.
        above_chance: whether the model is; if not, no map of it is judged.
    """
    rows = []
    for name, curve in curves.items():
        found = {"score": curve.score()}
        found |= {
            f"minus_{base}": curve.score(curves[base])
            for base in BASELINES
            if name not in (base, "random")
        }
        found |= {key: values[name] for key, values in others.items() if name in values}
        row: Row = {"map": name, "n": found["score"].n}
        for number in NUMBERS:
            row |= cells(number, found.get(number))
        judged = word_for(*found["minus_centre"][1:3]) if name not in BASELINES else ""
        rows.append(row | {"verdict": NOT_JUDGED if judged and not above_chance else judged})
    return rows


@dataclass(frozen=True)
class Judgement:
    """What `judge` finds.

    Attributes:
        metrics: the numbers of metrics/attention.json.
        tables: rows by the name of their file in plots/. The maps come in the order of `in_order`.
        maps: of the sample, for the predicted class.
        distances: (2, L, H), mean attention distance, pretrained and fine-tuned.
        shares: which share of the score of the predicted class comes from which of `Parts`; empty
            if the model's operators are not all known.
    """

    metrics: dict[str, Any]
    tables: dict[str, list[Row]]
    maps: Maps
    distances: Tensor
    shares: dict[str, float]


def part_shares(model: nn.Module, sample: Sample, added: Tensor) -> tuple[dict[str, float], float]:
    """Mean share of each part in the sizes of all parts of the predicted class's logit, and how far
    the parts are from adding up to it; see `Parts`. Of a few images.

    Args:
        added: what the patches of each image add by the map of the effective gradient, (B,).
    """
    shares: dict[str, list[float]] = {}
    errors = []
    for i in range(min(SANITY_IMAGES, len(added))):
        parts = decompose(model, sample.pixels[i], int(sample.predicted[i]))
        errors.append(parts.error(float(added[i])))
        sizes = parts.sizes()
        for name, size in sizes.items():
            shares.setdefault(name, []).append(size / (sum(sizes.values()) or 1.0))
    return {name: float(np.mean(values)) for name, values in shares.items()}, max(errors)


def judge(
    maker: MapMaker,
    pretrained: nn.Module,
    trial: Trial,
    seed: int,
    step: Callable[[], object] = lambda: None,
    precision: torch.dtype = torch.float32,
) -> Judgement:
    """The whole analysis.

    Args:
        step: called STEPS times, for a progress bar.
        precision: of the passes in which patches are left out, if the probabilities stay the same
            in it. Attention and gradients are always in float32.
    """
    sample = trial.sample
    rng = np.random.default_rng(seed)
    device = sample.pixels.device
    precision = faithfulness.precision_for(maker.model, sample.pixels, precision)
    asked = to_device(deepcopy(maker.model), device, precision)
    maps, shapes, error = maps_and_shapes(maker, sample)
    step()
    before, first_error = distances_of(replace(maker, model=pretrained), sample.pixels)
    step()
    with autocast(device, precision):
        curves = faithfulness_of(asked, sample, maps, rng)
        patches = patch_rows(asked, sample, maps["relevance"], rng)
    step()
    others = {
        "mosaic_share": mosaic_shares(maker, trial.mosaics),
        "mosaic_share_3x3": mosaic_shares(maker, trial.mosaics_3x3),
    }
    step()
    others |= sanity_correlations(maker, sample.pixels, sample.predicted, maps, seed)
    step()
    rows = map_rows(curves, others, trial.above_chance)
    metrics = {
        "images": len(sample.pixels),
        "selfcheck_max_rel_err": max(first_error, error),
        "margin": max(row["minus_centre"] for row in rows if row["map"] not in BASELINES),
    }
    shares: dict[str, float] = {}
    if not EffectiveGradient.obstacle(maker.model):
        added = maps[EffectiveGradient.name].sum(dim=(1, 2))
        shares, metrics["completeness_max_rel_err"] = part_shares(maker.model, sample, added)
    tables = {
        "attention_maps": in_order(rows),
        "attention_blocks": block_rows(shapes, before),
        "attention_patches": patches,
        "attention_curves": curve_rows(curve_bands(curves)),
    }
    distances = torch.stack([before.mean(dim=0), shapes["distance"].mean(dim=0)])
    return Judgement(metrics, tables, maps, distances, shares)
