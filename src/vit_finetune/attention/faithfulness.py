"""Does a map show what the model uses? Patches are left out in its order, and the model is asked again.

B images, `maps` (B, G_h, G_w) relevance per patch, `keep` (B, n) patch numbers, row by row. Leaving tokens out needs
no replacement value (TIS, ICCVW 2023). Two baselines put every score in its place: random maps, and a Gaussian in the
centre, because the objects of most data sets are centred (arXiv:2112.09195). Values are per image, so that differences
between maps are paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vit_finetune.intervals import Interval, mean
from vit_finetune.model.families import family_of

Array = npt.NDArray[Any]
Rng = np.random.Generator

FRACTIONS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)


def centre_prior(grid: tuple[int, int], sigma: float = 0.25) -> Tensor:
    """A Gaussian in the centre, (G_h, G_w); `sigma` in widths of the image."""
    down, across = (((torch.arange(n) + 0.5) / n - 0.5) ** 2 for n in grid)
    return torch.exp(-(down[:, None] + across[None]) / (2 * sigma**2))


def random_maps(count: int, grid: tuple[int, int], rng: Rng) -> Tensor:
    """(count, G_h, G_w), uniform in [0, 1)."""
    return torch.from_numpy(rng.random((count, *grid), dtype=np.float32))


def ranking(maps: Tensor, rng: Rng) -> Tensor:
    """Patches from most to least relevant, (B, N); equal values in random, not in reading order."""
    values = maps.flatten(1).cpu()
    shuffled = torch.from_numpy(rng.permuted(np.tile(np.arange(values.shape[1]), (len(values), 1)), axis=1))
    order = values.gather(1, shuffled).argsort(dim=1, descending=True, stable=True)
    return shuffled.gather(1, order)


@torch.inference_mode()
def kept_probabilities(model: nn.Module, images: Tensor, keep: Tensor, batch_size: int = 32) -> Tensor:
    """Class probabilities (B, K) from the patches `keep` (B, n) of images (B, 3, h, w)."""
    parts = []
    for some, indices in zip(images.split(batch_size), keep.to(images.device).split(batch_size), strict=True):
        with family_of(model).keep_patches(model, indices):
            parts.append(model(some).float().softmax(dim=-1))
    return torch.cat(parts).cpu()


@dataclass(frozen=True)
class Curves:
    """Probability of the target class per image: (B, F) at each fraction of patches deleted, or inserted."""

    fractions: tuple[float, ...]
    deletion: Array
    insertion: Array

    @property
    def score(self) -> Array:
        """Area under insertion minus area under deletion, (B,), by trapezoids; 0: no better than its reverse."""
        return np.asarray(np.trapezoid(self.insertion - self.deletion, self.fractions, axis=1))


def deletion_insertion(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    maps: Mapping[str, Tensor],
    rng: Rng,
    fractions: Sequence[float] = FRACTIONS,
    batch_size: int = 32,
) -> dict[str, Curves]:
    """Curves of every map: the most relevant patches leave first (deletion), or come first (insertion).

    images (B, 3, h, w) as the model takes them, targets (B,), maps (B, G_h, G_w). Petsiuk et al. 2018
    (arXiv:1806.07421), on tokens. One patch always stays, so that average pooling has something to average.
    """

    def probability(keep: Tensor) -> Array:
        found = kept_probabilities(model, images, keep, batch_size)
        return found.gather(1, targets.cpu()[:, None])[:, 0].numpy()

    count = next(iter(maps.values()))[0].numel()
    whole = probability(torch.arange(count).expand(len(images), -1))  # the same for every map
    curves = {}
    for name, relevance in maps.items():
        order = ranking(relevance, rng)
        gone = [round(fraction * count) for fraction in fractions]
        deletion = [probability(order[:, min(g, count - 1) :]) if g else whole for g in gone]
        insertion = [probability(order[:, : max(g, 1)]) if g < count else whole for g in gone]
        curves[name] = Curves(tuple(fractions), np.stack(deletion, axis=1), np.stack(insertion, axis=1))
    return curves


def margins(curves: Mapping[str, Curves], baseline: str) -> dict[str, Interval]:
    """Score of every other map minus the score of the map `baseline`, paired by image."""
    reference = curves[baseline].score
    return {name: mean(c.score - reference) for name, c in curves.items() if name != baseline}


def verdict(over_centre: Mapping[str, Interval]) -> str:
    """One sentence naming the maps not distinguishable from the centre prior (interval contains 0), or worse."""
    n = max(m.n for m in over_centre.values())
    same = [name for name, m in over_centre.items() if m.low <= 0 <= m.high]
    worse = [name for name, m in over_centre.items() if m.high < 0]
    equal = f"not distinguishable from a centre prior: {', '.join(same) or 'none'}"
    return f"On {n} images, {equal}" + (f"; worse than it: {', '.join(worse)}." if worse else ".")


def kept_correct(
    model: nn.Module, images: Tensor, labels: Tensor, maps: Tensor, rng: Rng, share: float = 0.2
) -> dict[str, Array]:
    """Whether the model is right, (B,) of 0 and 1, given only some patches.

    `top`: the `share` of patches the map ranks highest; `random`: as many at random; `centre` and `border`: the
    half of the patches nearest to the middle, and the other half.
    """
    order = ranking(maps, rng)
    chance = ranking(random_maps(len(maps), (maps.shape[1], maps.shape[2]), rng), rng)
    middle = ranking(centre_prior((maps.shape[1], maps.shape[2])).expand_as(maps), rng)
    few, half = max(1, round(share * order.shape[1])), order.shape[1] // 2
    kept = {"top": order[:, :few], "random": chance[:, :few], "centre": middle[:, :half], "border": middle[:, half:]}
    return {
        name: (kept_probabilities(model, images, keep).argmax(dim=1) == labels.cpu()).numpy().astype(float)
        for name, keep in kept.items()
    }
