"""Every map of a set of images, and what the maps are worth: numbers with n and a 95 % interval.

B images, L blocks, H heads, T tokens, a grid of G_h x G_w patches. `Maps` is method -> (B, G_h, G_w).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vit_finetune import faithfulness, relevance
from vit_finetune.attention import Gradients, TokenLayout, attention_gradients, capture, check, readout_maps

Maps = dict[str, Tensor]
Rng = np.random.Generator

METHODS = {
    "last block": "The last block's attention for what the head reads, heads fused. It knows no class.",
    "rollout": "Attention multiplied through all blocks, half of each block passing by (Abnar & Zuidema 2020). "
    "It knows no class.",
    "gradient rollout": "Rollout of attention times its gradient for a class, where that is positive.",
    "relevance": "Attention times its gradient for a class, accumulated over the blocks (Chefer et al. 2021).",
    "LeGrad": "Positive gradients of a class score with respect to each block's attention (Bousselham et al. 2025).",
}
CLASS_AGNOSTIC = ("last block", "rollout")
SANITY_IMAGES = 16


@dataclass(frozen=True)
class Reader:
    """A model with its token layout and the settings of the maps."""

    model: nn.Module
    layout: TokenLayout
    fusion: Literal["mean", "max"]
    discard_ratio: float
    batch_size: int

    def gradients(self, pixels: Tensor, classes: Tensor) -> Gradients:
        return attention_gradients(self.model, pixels, classes, per_block=True)

    def readout(self, found: Gradients) -> Tensor:
        return self.layout.readout(found.pooling)

    def maps_of(self, found: Gradients) -> Maps:
        """Every method's map of one batch."""
        readout, prefix = self.readout(found), len(self.layout.prefix)
        assert found.block_grads is not None
        tokens = {
            "last block": relevance.raw(found.attn, readout, self.fusion),
            "rollout": relevance.rollout(found.attn, readout, self.fusion, self.discard_ratio, prefix),
            "gradient rollout": relevance.gradient_rollout(
                found.attn, found.grads, readout, self.discard_ratio, prefix
            ),
            "relevance": relevance.chefer(found.attn, found.grads, readout),
            "LeGrad": relevance.legrad(found.block_grads),
        }
        return {name: self.layout.to_grid(values) for name, values in tokens.items()}

    def maps(self, pixels: Tensor, classes: Tensor) -> Maps:
        """Every method's map of images (B, 3, h, w) for one class each, batch by batch."""
        batches = zip(pixels.split(self.batch_size), classes.split(self.batch_size), strict=True)
        parts = [self.maps_of(self.gradients(some, targets)) for some, targets in batches]
        return {name: torch.cat([part[name] for part in parts]) for name in METHODS}


def rounded(values: Any) -> dict[str, Any]:
    """An interval as it is written: {mean, ci95, n}."""
    mean, low, high, n = values
    return {"mean": round(mean, 4), "ci95": [round(low, 4), round(high, 4)], "n": n}


def per_method(values: Mapping[str, NDArray[Any]], rng: Rng) -> dict[str, Any]:
    return {name: rounded(faithfulness.interval(found, rng)) for name, found in values.items()}


def faithfulness_report(
    reader: Reader, pixels: Tensor, targets: Tensor, maps: Maps, rng: Rng
) -> tuple[dict[str, Any], dict[str, faithfulness.Curves]]:
    """Deletion and insertion of every map and of the two baselines; the curves, and their summary."""
    grid = reader.layout.grid
    baselines = {
        "random": faithfulness.random_maps(len(pixels), grid, rng),
        "centre": faithfulness.centre_prior(grid).expand(len(pixels), *grid),
    }
    curves = faithfulness.deletion_insertion(reader.model, pixels, targets, {**maps, **baselines}, rng)
    over_random = faithfulness.margins(curves, "random", rng)
    over_centre = {
        name: margin for name, margin in faithfulness.margins(curves, "centre", rng).items() if name != "random"
    }
    return {
        "score": per_method({name: curve.score for name, curve in curves.items()}, rng),
        "minus_random": {name: rounded(margin) for name, margin in over_random.items()},
        "minus_centre_prior": {name: rounded(margin) for name, margin in over_centre.items()},
        "verdict": faithfulness.verdict(over_centre),
    }, curves


Bands = dict[str, dict[str, NDArray[Any]]]


def curve_bands(curves: Mapping[str, faithfulness.Curves], rng: Rng) -> Bands:
    """Mean, low and high, (3, F), of every map's curve: `deletion` and `insertion` -> map -> band."""
    return {
        kind: {
            name: np.array([faithfulness.interval(v, rng)[:3] for v in getattr(curve, kind).T]).T
            for name, curve in curves.items()
        }
        for kind in ("deletion", "insertion")
    }


def band_rows(bands: Mapping[str, NDArray[Any]]) -> list[dict[str, float]]:
    """Bands of one kind for plots: a row per fraction of the patches, each map's mean, then its interval's ends."""
    return [
        {"fraction": fraction}
        | {
            f"{name}{end}": round(float(band[i, f]), 4)
            for i, end in enumerate(("", " low", " high"))
            for name, band in bands.items()
        }
        for f, fraction in enumerate(faithfulness.FRACTIONS)
    ]


def mosaic_report(reader: Reader, mosaics: Tensor, targets: Tensor, quadrants: Tensor, rng: Rng) -> dict[str, Any]:
    """Share of positive relevance in the quadrant of the asked-for class; chance is 0.25.

    Args:
        mosaics: (M, 3, h, w), as the model takes them.
        targets: (M,), the class that each is asked for.
        quadrants: (M,), where it is.
    """
    maps = reader.maps(mosaics, targets)
    return per_method({name: faithfulness.quadrant_share(found, quadrants) for name, found in maps.items()}, rng)


def region_report(reader: Reader, pixels: Tensor, labels: Tensor, maps: Tensor, rng: Rng) -> dict[str, Any]:
    """Accuracy from a fifth of the patches (the map's top, or random) and from the centre or the border alone."""
    kept = faithfulness.kept_correct(reader.model, pixels, labels, maps, rng)
    whole = faithfulness.kept_probabilities(reader.model, pixels, torch.arange(maps[0].numel()).expand(len(maps), -1))
    kept = {"all patches": (whole.argmax(1) == labels).numpy().astype(float), **kept}
    return per_method(kept, rng)


@torch.no_grad()
def shape_report(reader: Reader, pretrained: nn.Module, pixels: Tensor, rng: Rng) -> tuple[dict[str, Any], Tensor]:
    """How wide, how far and where the attention goes, block by block, and the self-check over all batches.

    Returns the report, and the distances per head before and after, (2, L, H) in pixels of the model's input.
    """
    layout, spread, corners, mass, distances = reader.layout, [], [], [], []
    checks: dict[str, Any] = {}
    for network in (pretrained, reader.model):
        found = []
        with capture(network) as seen:
            for some in pixels.split(reader.batch_size):
                network(some)
                checked = check(seen)
                attn = seen.stacked()
                found.append(faithfulness.attention_distance(attn, layout))
                if network is reader.model:
                    readout = layout.readout(seen.pooling_row())
                    fused = readout_maps(attn, layout, readout).mean(dim=2)
                    spread.append(faithfulness.effective_patches(fused))
                    corners.append(faithfulness.corner_share(fused))
                    mass.append(faithfulness.prefix_mass(attn, layout, readout))
        checks = checks or checked
        checks = {**checked, "selfcheck_max_rel_err": max(c["selfcheck_max_rel_err"] for c in (checks, checked))}
        distances.append(torch.cat(found))
    blocks = range(distances[0].shape[1])
    by_block = {
        "effective_patches": torch.cat(spread),
        "corner_share": torch.cat(corners),
        "prefix_mass": torch.cat(mass),
        "distance_px": distances[1].mean(dim=2),
        "distance_px_minus_pretrained": (distances[1] - distances[0]).mean(dim=2),
    }
    report = {
        name: {f"block_{b}": rounded(faithfulness.interval(values[:, b].numpy(), rng)) for b in blocks}
        for name, values in by_block.items()
    }
    return {**checks, **report}, torch.stack([found.mean(dim=0) for found in distances])


def sanity_report(reader: Reader, pixels: Tensor, targets: Tensor, maps: Maps, seed: int, rng: Rng) -> dict[str, Any]:
    """Rank correlation of each map with that of the same model after its weights are shuffled (Adebayo et al.)."""
    children = dict(reader.model.named_children())
    heads = [name for name in ("head", "head_dist") if name in children]
    blocks = [name for name in ("blocks",) if name in children]
    some, classes = pixels[:SANITY_IMAGES], targets[:SANITY_IMAGES]
    report = {}
    for name, parts in (("head", heads), ("head_and_blocks", [*heads, *blocks])):
        generator = torch.Generator().manual_seed(seed)
        shuffled = faithfulness.randomised(reader.model, parts, generator)
        other = Reader(shuffled, reader.layout, reader.fusion, reader.discard_ratio, reader.batch_size)
        found = other.maps(some, classes)
        correlations = {m: faithfulness.rank_correlation(maps[m][:SANITY_IMAGES], found[m]) for m in METHODS}
        report[f"{name}_shuffled"] = per_method(correlations, rng)
    return report


@dataclass(frozen=True)
class Judgement:
    """What `judge` finds: the report for metrics/attention.json, and what is drawn."""

    report: dict[str, Any]
    maps: Maps
    bands: Bands
    distances: Tensor  # (2, L, H), pretrained and fine-tuned


def judge(
    reader: Reader,
    pretrained: nn.Module,
    pixels: Tensor,
    predicted: Tensor,
    labels: Tensor,
    mosaics: tuple[Tensor, Tensor, Tensor],
    seed: int,
) -> Iterator[Judgement | None]:
    """The whole analysis in STEPS steps, for a progress bar; the last yields the judgement.

    Args:
        pixels: a sample (B, 3, h, w) as the model takes it, with what the model predicts, (B,), and the labels.
        mosaics: (M, 3, h, w), the class that each is asked for, (M,), and its quadrant, (M,).
    """
    rng = np.random.default_rng(seed)
    shape, distances = shape_report(reader, pretrained, pixels, rng)
    yield None
    maps = reader.maps(pixels, predicted)
    yield None
    faithful, curves = faithfulness_report(reader, pixels, predicted, maps, rng)
    yield None
    pointing = mosaic_report(reader, *mosaics, rng)
    yield None
    regions = region_report(reader, pixels, labels, maps["relevance"], rng)
    sanity = sanity_report(reader, pixels, predicted, maps, seed, rng)
    report = {
        "images": len(pixels),
        **shape,
        "faithfulness": faithful,
        "mosaic_share": {"chance": 0.25, **pointing},
        "accuracy_from_patches": regions,
        "sanity_correlation": sanity,
    }
    yield Judgement(report, maps, curve_bands(curves, rng), distances)


STEPS = 5
