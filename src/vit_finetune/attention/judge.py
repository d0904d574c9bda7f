"""Computes every map of a sample of images and runs each test of them once, with n and a 95 % interval.

B images, L blocks, H heads, T tokens, a grid of G_h x G_w patches. `Maps` is method -> (B, G_h, G_w).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vit_finetune.attention import faithfulness
from vit_finetune.attention.capture import capture, check
from vit_finetune.attention.maps import METHODS, MapMaker, Maps, readout_maps
from vit_finetune.attention.pointing import quadrant_share
from vit_finetune.attention.sample import Mosaics, Sample
from vit_finetune.attention.sanity import randomised, rank_correlation
from vit_finetune.attention.shape import attention_distance, corner_share, effective_patches, prefix_mass
from vit_finetune.intervals import Interval, mean, share
from vit_finetune.model.families import family_of

Rng = np.random.Generator

SANITY_IMAGES = 16


def rounded(interval: Interval) -> dict[str, Any]:
    """An interval as it is written: {mean, ci95, n}."""
    mean, low, high, n = interval
    return {"mean": round(mean, 4), "ci95": [round(low, 4), round(high, 4)], "n": n}


def per_method(values: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    return {name: rounded(mean(value)) for name, value in values.items()}


def faithfulness_report(
    maker: MapMaker, pixels: Tensor, targets: Tensor, maps: Maps, rng: Rng
) -> tuple[dict[str, Any], dict[str, faithfulness.Curves]]:
    """Deletion and insertion of every map and of the two baselines; the curves, and their summary."""
    grid = maker.layout.grid
    baselines = {
        "random": faithfulness.random_maps(len(pixels), grid, rng),
        "centre": faithfulness.centre_prior(grid).expand(len(pixels), *grid),
    }
    curves = faithfulness.deletion_insertion(maker.model, pixels, targets, {**maps, **baselines}, rng)
    over_random = faithfulness.margins(curves, "random")
    over_centre = {name: margin for name, margin in faithfulness.margins(curves, "centre").items() if name != "random"}
    return {
        "score": per_method({name: curve.score for name, curve in curves.items()}),
        "minus_random": {name: rounded(margin) for name, margin in over_random.items()},
        "minus_centre_prior": {name: rounded(margin) for name, margin in over_centre.items()},
        "verdict": faithfulness.verdict(over_centre),
    }, curves


Bands = dict[str, dict[str, NDArray[Any]]]  # `deletion` and `insertion` -> map -> (3, F)


def curve_bands(curves: Mapping[str, faithfulness.Curves]) -> Bands:
    """Mean, low and high, (3, F), of every map's curve: `deletion` and `insertion` -> map -> band."""
    return {
        kind: {name: np.clip([mean(v)[:3] for v in getattr(curve, kind).T], 0, 1).T for name, curve in curves.items()}
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


def mosaic_report(maker: MapMaker, mosaics: Mosaics) -> dict[str, Any]:
    """Share of the positive relevance in the quadrant of the asked-for class; chance is 0.25."""
    maps = maker.maps(mosaics.pixels, mosaics.classes)
    return per_method({name: quadrant_share(values, mosaics.quadrants) for name, values in maps.items()})


def region_report(maker: MapMaker, pixels: Tensor, labels: Tensor, maps: Tensor, rng: Rng) -> dict[str, Any]:
    """Accuracy from a fifth of the patches (the map's top, or random) and from the centre or the border alone."""
    kept = faithfulness.kept_correct(maker.model, pixels, labels, maps, rng)
    whole = faithfulness.kept_probabilities(maker.model, pixels, torch.arange(maps[0].numel()).expand(len(maps), -1))
    kept = {"all patches": (whole.argmax(1) == labels).numpy().astype(float), **kept}
    return {name: rounded(share(right)) for name, right in kept.items()}


@torch.no_grad()
def shapes_of(maker: MapMaker, pixels: Tensor) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Shape of the attention of each image, and what `check` says of all batches.

    Returns `effective_patches`, `corner_share` and `prefix_mass`, (B, L), and `distance`, (B, L, H).
    """
    layout, parts, checks = maker.layout, [], []
    with capture(maker.model) as seen:
        for batch in pixels.split(maker.batch_size):
            maker.model(batch)
            checks.append(check(seen))
            attn, readout = seen.stacked(), layout.readout(seen.pooling_row())
            maps = readout_maps(attn, layout, readout).mean(dim=2)
            parts.append(
                {
                    "effective_patches": effective_patches(maps),
                    "corner_share": corner_share(maps),
                    "prefix_mass": prefix_mass(attn, layout, readout),
                    "distance": attention_distance(attn, layout),
                }
            )
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}, checks[-1]


def shape_report(maker: MapMaker, pretrained: nn.Module, pixels: Tensor) -> tuple[dict[str, Any], Tensor]:
    """How wide, how far and where the attention goes, block by block, and the self-check of both models.

    Returns the report, and the distances per head before and after, (2, L, H) in pixels of the model's input.
    """
    before, checked_before = shapes_of(replace(maker, model=pretrained), pixels)
    after, checked = shapes_of(maker, pixels)
    worst = max(checks["selfcheck_max_rel_err"] for checks in (checked_before, checked))
    distances = before["distance"], after["distance"]
    by_block = {
        **{name: after[name] for name in ("effective_patches", "corner_share", "prefix_mass")},
        "distance_px": distances[1].mean(dim=2),
        "distance_px_minus_pretrained": (distances[1] - distances[0]).mean(dim=2),
    }
    report = {
        name: {f"block_{b}": rounded(mean(values[:, b].numpy())) for b in range(values.shape[1])}
        for name, values in by_block.items()
    }
    return {**checked_before, "selfcheck_max_rel_err": worst, **report}, torch.stack([d.mean(dim=0) for d in distances])


def sanity_report(maker: MapMaker, pixels: Tensor, targets: Tensor, maps: Maps, seed: int) -> dict[str, Any]:
    """Rank correlation of each map with that of the same model after its weights are shuffled."""
    pixels, targets = pixels[:SANITY_IMAGES], targets[:SANITY_IMAGES]
    heads = family_of(maker.model).heads
    report = {}
    for name, parts in (("head", heads), ("head_and_blocks", [*heads, "blocks"])):
        shuffled = randomised(maker.model, parts, torch.Generator().manual_seed(seed))
        others = replace(maker, model=shuffled).maps(pixels, targets)
        correlations = {m: rank_correlation(maps[m][:SANITY_IMAGES], others[m]) for m in METHODS}
        report[f"{name}_shuffled"] = per_method(correlations)
    return report


@dataclass(frozen=True)
class Judgement:
    """What `judge` finds: the report for metrics/attention.json, and what is drawn."""

    report: dict[str, Any]
    maps: Maps
    bands: Bands
    distances: Tensor  # (2, L, H), pretrained and fine-tuned


def judge(
    maker: MapMaker,
    pretrained: nn.Module,
    sample: Sample,
    mosaics: Mosaics,
    seed: int,
    step: Callable[[], object] = lambda: None,
) -> Judgement:
    """The whole analysis; `step` is called STEPS times, for a progress bar."""
    rng = np.random.default_rng(seed)
    shape, distances = shape_report(maker, pretrained, sample.pixels)
    step()
    maps = maker.maps(sample.pixels, sample.predicted)
    step()
    faithful, curves = faithfulness_report(maker, sample.pixels, sample.predicted, maps, rng)
    step()
    pointing = mosaic_report(maker, mosaics)
    step()
    regions = region_report(maker, sample.pixels, sample.labels, maps["relevance"], rng)
    sanity = sanity_report(maker, sample.pixels, sample.predicted, maps, seed)
    step()
    report = {
        "images": len(sample.pixels),
        **shape,
        "faithfulness": faithful,
        "mosaic_share": {"chance": 0.25, **pointing},
        "accuracy_from_patches": regions,
        "sanity_correlation": sanity,
    }
    return Judgement(report, maps, curve_bands(curves), distances)


STEPS = 5
