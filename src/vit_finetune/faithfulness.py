"""Does a map show what the model uses? Tokens are dropped and the model is asked again; nothing is assumed.

B images, `maps` (B, G_h, G_w) relevance per patch, `keep` (B, n) patch numbers, row by row. Dropping tokens
needs no replacement value (TIS, ICCVW 2023). Two baselines put every score in its place: random maps, and a
centre prior that no model made, because the objects of most data sets are centred (arXiv:2112.09195).
Values are per image, so that differences between maps are paired; `interval` turns them into numbers to report.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from timm.models.eva import Eva
from torch import Tensor, nn

from vit_finetune.attention import TokenLayout

Array = npt.NDArray[Any]
Rng = np.random.Generator

FRACTIONS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)

# Baselines and rankings


def centre_prior(grid: tuple[int, int], sigma: float = 0.25) -> Tensor:
    """A Gaussian blob in the middle, (G_h, G_w); `sigma` in widths of the image."""
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


# Dropping tokens


class _KeepPatches(nn.Module):
    """Stands where timm drops patches; Eva also takes the numbers of those kept, for its rotary embedding."""

    def __init__(self, keep: Tensor, prefix: int, tell: bool) -> None:
        super().__init__()
        self.keep, self.prefix, self.tell = keep, prefix, tell

    def forward(self, tokens: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        patches = tokens[:, self.prefix :]
        kept = patches.gather(1, self.keep[..., None].expand(-1, -1, patches.shape[-1]))
        tokens = torch.cat([tokens[:, : self.prefix], kept], dim=1)
        return (tokens, self.keep) if self.tell else tokens


@contextmanager
def keep_patches(model: Any, keep: Tensor) -> Iterator[None]:
    """The model sees its prefix tokens and the patches `keep` (B, n) only, each at its own position.

    They go after the position embedding, where timm's patch dropout stands. Beit, whose attention adds a bias for
    every pair of positions, keeps them, but nothing attends to the others and the mean over patches leaves them out.
    """
    if not hasattr(model, "patch_drop"):
        with _unseen(model, keep):
            yield
        return
    usual = model.patch_drop
    model.patch_drop = _KeepPatches(keep, model.num_prefix_tokens, tell=isinstance(model, Eva))
    try:
        yield
    finally:
        model.patch_drop = usual


@contextmanager
def _unseen(model: Any, keep: Tensor) -> Iterator[None]:
    original, prefix = F.scaled_dot_product_attention, model.num_prefix_tokens
    seen = torch.zeros(len(keep), model.patch_embed.num_patches, dtype=torch.bool, device=keep.device)
    seen = F.pad(seen.scatter(1, keep, True), (prefix, 0), value=True)
    nobody = torch.zeros(seen.shape, device=keep.device).masked_fill(~seen, -torch.inf)[:, None, None]

    def attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
        mask = nobody if attn_mask is None else attn_mask + nobody
        return original(query, key, value, attn_mask=mask.to(query.dtype), **options)

    def kept_mean(_module: nn.Module, _inputs: Any, tokens: Tensor) -> Tensor:
        weights = seen[:, prefix:, None].to(tokens.dtype)
        mean = (tokens[:, prefix:] * weights).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True)
        return torch.cat([tokens[:, :prefix], mean.expand_as(tokens[:, prefix:])], dim=1)

    hook = model.norm.register_forward_hook(kept_mean)
    functional: Any = F
    functional.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = original
        hook.remove()


@torch.inference_mode()
def kept_probabilities(model: nn.Module, images: Tensor, keep: Tensor, batch_size: int = 32) -> Tensor:
    """Class probabilities (B, K) from the patches `keep` (B, n) of images (B, 3, h, w)."""
    parts = []
    for some, indices in zip(images.split(batch_size), keep.to(images.device).split(batch_size), strict=True):
        with keep_patches(model, indices):
            parts.append(model(some).float().softmax(dim=-1))
    return torch.cat(parts).cpu()


# Deletion and insertion


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


class Interval(NamedTuple):
    """Mean of n values with its bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int


def interval(values: Array, rng: Rng, resamples: int = 2000, level: float = 0.95) -> Interval:
    """Percentile bootstrap of the mean (Efron 1979) over images; paired if `values` are differences per image."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"an interval needs a list of finite values; got shape {values.shape}")
    means = values[rng.integers(len(values), size=(resamples, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high), len(values))


def margins(curves: Mapping[str, Curves], baseline: str, rng: Rng) -> dict[str, Interval]:
    """Score of every other map minus the score of the map `baseline`, paired by image."""
    reference = curves[baseline].score
    return {name: interval(c.score - reference, rng) for name, c in curves.items() if name != baseline}


def verdict(over_centre: Mapping[str, Interval]) -> str:
    """One sentence naming the maps not distinguishable from the centre prior (interval contains 0), or worse."""
    n = max(m.n for m in over_centre.values())
    same = [name for name, m in over_centre.items() if m.low <= 0 <= m.high]
    worse = [name for name, m in over_centre.items() if m.high < 0]
    told = f"not distinguishable from a centre prior: {', '.join(same) or 'none'}"
    return f"On {n} images, {told}" + (f"; worse than it: {', '.join(worse)}." if worse else ".")


# Which regions


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


def mosaics(images: Array, labels: Array, count: int, rng: Rng) -> tuple[Array, Array, Array]:
    """2 x 2 mosaics of four images, uint8 (count, 2H, 2W, 3), their numbers (count, 4), and the quadrant asked for.

    Quadrants are top left, top right, bottom left, bottom right: the grid pointing game of Böhle et al. 2021
    (arXiv:2104.00032). The classes are four; where there are fewer, only the one asked for is in one place alone.
    """
    classes, chosen, asked = np.unique(labels), [], rng.integers(4, size=count)
    for quadrant in asked:
        order = rng.permutation(classes)
        others = np.resize(order[1:4], 3)
        chosen.append([rng.choice(np.flatnonzero(labels == k)) for k in np.insert(others, quadrant, order[0])])
    numbers = np.array(chosen)
    height, width = images.shape[1:3]
    tiles = images[numbers].reshape(count, 2, 2, height, width, 3)
    return tiles.transpose(0, 1, 3, 2, 4, 5).reshape(count, 2 * height, 2 * width, 3), numbers, asked


def quadrant_share(maps: Tensor, quadrants: Tensor) -> Array:
    """Share of the positive relevance that lies in quadrant 0..3 of each map, (B,); chance is .25.

    On an odd grid the middle row and column count half to either side. A map without positive relevance points
    nowhere, which is chance.
    """
    low, left = ((n / 2 - torch.arange(n)).clamp(0, 1) for n in maps.shape[1:])
    down, across = torch.stack([low, 1 - low]), torch.stack([left, 1 - left])
    weights = down[quadrants // 2][:, :, None] * across[quadrants % 2][:, None, :]
    positive = maps.cpu().clamp_min(0)
    total = positive.sum(dim=(1, 2))
    share = (positive * weights).sum(dim=(1, 2)) / total.clamp_min(torch.finfo(total.dtype).tiny)
    return torch.where(total > 0, share, 0.25).numpy()


# Shape of the attention


def effective_patches(maps: Tensor) -> Tensor:
    """exp(entropy) of maps (..., G_h, G_w), between 1 (one patch) and G_h G_w (all alike) -> (...)."""
    shares = maps.clamp_min(0).flatten(-2)
    shares = shares / shares.sum(dim=-1, keepdim=True)
    return torch.special.entr(shares).sum(dim=-1).exp()


def corner_share(maps: Tensor) -> Tensor:
    """Share of maps (..., G_h, G_w) on the four corner patches -> (...), where attention sinks show."""
    corners = torch.zeros(maps.shape[-2:], dtype=torch.bool)
    corners[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    return maps[..., corners].sum(dim=-1) / maps.sum(dim=(-2, -1))


def prefix_mass(attn: Tensor, layout: TokenLayout, readout: Tensor) -> Tensor:
    """Share of the readout's attention on prefix tokens per block, mean over heads: (B, L, H, T, T) -> (B, L)."""
    rows = torch.einsum("bt,blhts->blhs", readout.to(attn).expand(len(attn), -1), attn)
    return rows[..., : len(layout.prefix)].sum(dim=-1).mean(dim=-1)


def attention_distance(attn: Tensor, layout: TokenLayout) -> Tensor:
    """Mean distance, in pixels of the input, from a patch to the patches it attends to -> (B, L, H).

    Dosovitskiy et al. 2021 (arXiv:2010.11929), figure 7. Between patch centres, each row's attention on patches
    scaled to one: what goes to prefix tokens travels no distance and would make a head look local.
    """
    (rows, columns), (height, width), prefix = layout.grid, layout.patch, len(layout.prefix)
    centres = torch.cartesian_prod(torch.arange(rows) * float(height), torch.arange(columns) * float(width))
    among = attn[..., prefix:, prefix:]
    among = among / among.sum(dim=-1, keepdim=True)
    return (among * torch.cdist(centres, centres).to(attn)).sum(dim=-1).mean(dim=-1)


# Sanity: a map that ignores the weights explains nothing


def randomised(model: nn.Module, parts: Sequence[str], generator: torch.Generator) -> nn.Module:
    """A copy in which the parameters of the submodules `parts` are shuffled, each within itself.

    Adebayo et al. 2018 (arXiv:1810.03292); shuffling keeps every parameter's scale, so the signal survives.
    ValueError for a part without parameters.
    """
    changed = copy.deepcopy(model)
    for part in parts:
        parameters = [p for name, p in changed.named_parameters() if f"{name}.".startswith(f"{part}.")]
        if not parameters:
            raise ValueError(f"no parameters in {part!r} of {type(model).__name__}; name a submodule such as 'head'")
        for parameter in parameters:
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.data = parameter.data.flatten()[order.to(parameter.device)].view_as(parameter)
    return changed


def rank_correlation(first: Tensor, second: Tensor) -> Array:
    """Spearman's correlation of two maps per image, (B, G_h, G_w) twice -> (B,); equal values share their rank.

    0 where a map is constant: it says nothing about the other.
    """
    ranks = []
    for maps in (first, second):
        values = maps.flatten(1).cpu().numpy()
        mean_rank = (values[:, :, None] > values[:, None]).sum(2) + (values[:, :, None] >= values[:, None]).sum(2)
        ranks.append(mean_rank - mean_rank.mean(axis=1, keepdims=True))
    a, b = ranks
    norm = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.asarray(np.divide((a * b).sum(axis=1), norm, out=np.zeros(len(a)), where=norm > 0))
