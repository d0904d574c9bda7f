"""Does a map show what the model uses? Patches are left out in its order, and the model is asked
again.

B images, `maps` (B, G_h, G_w) relevance per patch, M choices of n patches each: `keep` (B, M, n),
patch numbers row by row. Leaving tokens out needs no replacement value (TIS, ICCVW 2023). Two
baselines put every score in its place: random maps, and a Gaussian in the centre, because the
objects of most data sets are centred (arXiv:2112.09195). Every map of an image is asked for at the
same fractions, so that differences between maps are paired.

The passes are computed in the caller's `torch.autocast`, in float32 without it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vit_finetune.intervals import Interval, sum_of_means
from vit_finetune.model.boundary import embed_patches, run_blocks
from vit_finetune.model.families import family_of

Array = npt.NDArray[Any]
Rng = np.random.Generator

FRACTIONS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
# a batch of this many patches is large enough for the matrix products and small enough for caches
BATCH_TOKENS = 4096
# every choice begins with the patches of the whole image, and some families compute all of them
BATCH_CHOICES = 64
GROUPS = 6  # of images; each is asked at every sixth of the fractions
# images, and the mean difference between probabilities of a class, see `precision_for`
CHECKED = 16
TOLERANCE = 0.01


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
    shuffled = torch.from_numpy(
        rng.permuted(np.tile(np.arange(values.shape[1]), (len(values), 1)), axis=1)
    )
    order = values.gather(1, shuffled).argsort(dim=1, descending=True, stable=True)
    return shuffled.gather(1, order)


@torch.inference_mode()
def kept_probabilities(
    model: Any,
    images: Tensor,
    keep: Tensor,
    batch_tokens: int = BATCH_TOKENS,
    batch_choices: int = BATCH_CHOICES,
) -> Tensor:
    """Class probabilities (B, M, K) from the patches `keep` (B, M, n) of images (B, 3, h, w), each
    embedded once.

    Args:
        batch_tokens: patches in one pass, at most; a single image may have more. Batches are about
            equally large.
        batch_choices: choices in one pass, at most; a single image may have more.
    """
    choices = keep.shape[1]
    parts = []
    at_once = max(1, min(batch_choices, batch_tokens // keep.shape[2]) // choices)
    batches = math.ceil(len(keep) / at_once)
    repeat = model.patch_embed.register_forward_hook(
        lambda _module, _args, out: out.repeat_interleave(choices, dim=0)
    )
    try:
        for some, kept in zip(
            images.tensor_split(batches), keep.to(images.device).tensor_split(batches), strict=True
        ):
            with family_of(model).keep_patches(model, kept.flatten(0, 1)):
                logits = logits_of(model, some).float()
                parts.append(logits.softmax(dim=-1).unflatten(0, (-1, choices)))
    finally:
        repeat.remove()
    return torch.cat(parts).cpu()


def logits_of(model: Any, images: Tensor) -> Tensor:
    """(B, K). Where the head reads CLS alone, so does the last block."""
    if not family_of(model).reads_only_cls(model):
        return model(images)
    tokens = embed_patches(model, images)
    return model.head(run_blocks(model, tokens, len(model.blocks)))


def precision_for(model: Any, images: Tensor, wanted: torch.dtype) -> torch.dtype:
    """The precision in which the model can be asked: `wanted` if its probabilities agree with
    float32's, else float32.

    The first CHECKED images are asked in both, for the half of the patches nearest to the middle. A
    score is a difference of mean probabilities, so it changes by at most twice what they do.
    """
    if wanted == torch.float32:
        return wanted
    some = images[:CHECKED]
    middle = (
        centre_prior(model.patch_embed.grid_size).flatten().argsort(descending=True, stable=True)
    )
    keep = middle[: max(1, len(middle) // 2)].expand(len(some), 1, -1)
    exact = kept_probabilities(model, some, keep)
    with torch.autocast(images.device.type, dtype=wanted):
        found = kept_probabilities(model, some, keep)
    difference = float((found - exact).abs().amax(dim=2).mean())
    if difference <= TOLERANCE:
        return wanted
    name = str(wanted).removeprefix("torch.")
    print(
        f"attention: in {name} probabilities differ by {difference:.3f}, so patches are left out "
        "in float32"
    )
    return torch.float32


@dataclass(frozen=True)
class Curves:
    """Probability of the target class per image: (B, F) at each fraction of patches deleted, or
    inserted.

    NaN where an image was not asked.
    """

    fractions: tuple[float, ...]
    deletion: Array
    insertion: Array

    def score(self, baseline: "Curves | None" = None) -> Interval:
        """Area under insertion minus area under deletion, of the mean curves; 0: no better than its
        reverse.

        By trapezoids, a weighted sum over fractions. Its expectation is that of asking every image
        at every fraction, whichever images were asked where. Images that were asked at the same
        fractions are a group, and groups are independent. With a `baseline`, the difference from
        its score, paired by image.
        """
        steps = np.diff(self.fractions)
        gain = self.insertion - self.deletion
        if baseline is not None:
            gain = gain - (baseline.insertion - baseline.deletion)
        asked = ~np.isnan(gain)
        parts = np.nansum(gain * (np.append(steps, 0) + np.append(0, steps)) / 2, axis=1)
        _, group = np.unique(asked, axis=0, return_inverse=True)
        return sum_of_means([parts[group == g] for g in np.unique(group)])


@dataclass(frozen=True)
class Schedule:
    """Which image is asked at which of the fractions of its patches.

    Image i is asked at the fractions f with i = f modulo `groups`; fewer groups where there are few
    images, for each needs two. One group asks every image at every fraction, which costs `groups`
    times as much.
    """

    fractions: Sequence[float] = FRACTIONS
    groups: int = GROUPS


def deletion_insertion(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    maps: Mapping[str, Tensor],
    rng: Rng,
    schedule: Schedule | None = None,
) -> dict[str, Curves]:
    """Curves of every map: the most relevant patches leave first (deletion), or come first
    (insertion).

    Petsiuk et al. 2018 (arXiv:1806.07421), on tokens. One patch always stays, so that average
    pooling has something to average.

    Args:
        images: (B, 3, h, w) as the model takes them.
        targets: (B,).
        maps: (B, G_h, G_w) each.
    """
    schedule = schedule or Schedule()
    fractions = schedule.fractions
    count = next(iter(maps.values()))[0].numel()
    groups = max(1, min(schedule.groups, len(images) // 2))
    group = torch.arange(len(images)) % groups
    known = np.full((len(images), len(fractions)), np.nan)
    curves = {name: Curves(tuple(fractions), known.copy(), known.copy()) for name in maps}
    orders = torch.stack([ranking(relevance, rng) for relevance in maps.values()], dim=1)
    for f, fraction in enumerate(fractions):
        rows = torch.nonzero(group == f % groups)[:, 0]
        gone = round(fraction * count)
        some = images[rows.to(images.device)]
        classes = targets.cpu()[rows][:, None, None]
        order = orders[rows]
        left = order[..., min(gone, count - 1) :]
        come = order[..., : max(gone, 1)]
        for kind, keep in (("deletion", left), ("insertion", come)):
            every = keep.shape[2] == count  # all patches are the same choice in any order
            found = kept_probabilities(model, some, keep[:, :1] if every else keep)
            of_class = (
                found.gather(2, classes.expand(-1, found.shape[1], 1))[..., 0]
                .expand(-1, len(maps))
                .numpy()
            )
            for curve, values in zip(curves.values(), of_class.T, strict=True):
                getattr(curve, kind)[rows.numpy(), f] = values
    return curves


def kept_correct(
    model: nn.Module, images: Tensor, labels: Tensor, maps: Tensor, rng: Rng, share: float = 0.2
) -> dict[str, Array]:
    """Whether the model is right, (B,) of 0 and 1, given only some patches.

    `top`: the `share` of patches the map ranks highest; `random`: as many at random; `centre` and
    `border`: the half of the patches nearest to the middle, and the other half.
    """
    order = ranking(maps, rng)
    chance = ranking(random_maps(len(maps), (maps.shape[1], maps.shape[2]), rng), rng)
    middle = ranking(centre_prior((maps.shape[1], maps.shape[2])).expand_as(maps), rng)
    few = max(1, round(share * order.shape[1]))
    half = order.shape[1] // 2
    kept = {
        "top": order[:, :few],
        "random": chance[:, :few],
        "centre": middle[:, :half],
        "border": middle[:, half:],
    }

    def right(keep: Tensor) -> Array:
        classes = kept_probabilities(model, images, keep[:, None])[:, 0].argmax(dim=1)
        return (classes == labels.cpu()).numpy().astype(float)

    return {name: right(keep) for name, keep in kept.items()}
