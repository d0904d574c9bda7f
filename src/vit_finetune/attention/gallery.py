"""A few images with the matrices and every map of them: for the interactive page, the montage,
other tools.

L blocks, H heads, T tokens, a grid of G_h x G_w patches, K classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from vit_finetune.attention.kept import Kept, kept_in_file, kept_on_page
from vit_finetune.attention.maps import (
    Contrast,
    MapMaker,
    Maps,
    MapsOfDirection,
    asked_by,
    go_back,
    joined,
    readout_maps,
)
from vit_finetune.attention.pixels import PixelGrid
from vit_finetune.attention.sample import PredictedImages, Preprocess, Sample, draw_for_classes
from vit_finetune.attention.walk import BlockAttention, Walk

Rng = np.random.Generator
Floats = NDArray[np.floating]

ENOUGH = 20  # images of a mean map
RIVALS = 10  # classes with which the predicted one is compared
CLASSES_AT_ONCE = 16  # whose gradients, a few (T, D) each, are held together


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One image and everything that the model computed on it.

    Attributes:
        row: its place in the test part.
        image: (H, W, 3), the original pixels.
        file: where it came from.
        content: the image without bars: top, left, bottom, right in pixels; None without bars.
        label, predicted: true and predicted class.
        probabilities: (K,).
        heads: (L, H, G_h, G_w), where each head looks for what the model's head reads.
        attn: (blocks, H or 1 for their mean, T, T) float16, for the file of matrices.
        page_attn: the same in float32, for the page.
        maps: per method (K, G_h, G_w), or (1, G_h, G_w) where it knows no class.
        rivals: classes with which the predicted one is compared, the most probable first.
        contrasts: per method that knows the class (rivals, G_h, G_w), signed: what speaks for the
            predicted class minus what speaks for the rival.
    """

    row: int
    image: NDArray[np.uint8]
    file: str
    content: tuple[int, int, int, int] | None
    label: int
    predicted: int
    probabilities: Floats
    heads: Floats
    attn: Tensor
    page_attn: Floats
    maps: dict[str, Floats]
    rivals: list[int]
    contrasts: dict[str, Floats]

    @property
    def confidence(self) -> float:
        return float(self.probabilities.max())


class BlocksOfImage:
    """Takes the blocks of one image: its maps for several classes, and the contrasts of the first
    one, which is the predicted class, with those that follow it. Maps that know no class are made
    with the first one alone."""

    def __init__(self, maker: MapMaker, walk: Walk, classes: int, rivals: int) -> None:
        knowing = [kind for kind in maker.kinds if kind.asks]
        readout = maker.readout(walk)
        settings = maker.settings
        self.maps = [MapsOfDirection(maker.kinds, readout, settings)]
        self.maps += [MapsOfDirection(knowing, readout, settings) for _ in range(1, classes)]
        self.contrasts = [Contrast(knowing, readout, settings) for _ in range(rivals)]
        self.predicted: BlockAttention | None = None

    def pass_block(self, block: BlockAttention) -> None:
        c = block.direction
        self.maps[c].pass_block(block)
        if c == 0:
            self.predicted = block
        elif c <= len(self.contrasts):
            assert self.predicted is not None
            self.contrasts[c - 1].pass_block(self.predicted.minus(block))


class Matrices:
    """Takes the attention of one image: the blocks that are kept, and where each head looks."""

    def __init__(self, maker: MapMaker, walk: Walk, in_file: Kept, on_page: Kept) -> None:
        self.layout = maker.layout
        self.readout = maker.readout(walk)
        self.in_file = in_file
        self.on_page = on_page
        self.of_file: dict[int, Tensor] = {}
        self.of_page: dict[int, Tensor] = {}
        self.heads: dict[int, Tensor] = {}

    def pass_block(self, block: BlockAttention) -> None:
        index = block.index
        if block.direction > 0:
            return
        self.heads[index] = readout_maps(block.attn, self.layout, self.readout)[0].cpu()
        if index in self.in_file.blocks:
            self.of_file[index] = self.in_file.take(block.attn)[0].half().cpu()
        if index in self.on_page.blocks:
            self.of_page[index] = self.on_page.take(block.attn)[0].cpu()


def stacked(by_block: Mapping[int, Tensor]) -> Tensor:
    """(...) of some blocks -> (blocks, ...), in the order of the blocks."""
    return torch.stack([by_block[index] for index in sorted(by_block)])


def rivals_of(logits: Tensor, predicted: int, label: int) -> list[int]:
    """The classes with which the predicted one is compared, the most probable first, from (K,): up
    to RIVALS, the true one among them."""
    order = [k for k in logits.argsort(descending=True).tolist() if k != predicted]
    chosen = order[:RIVALS]
    if label != predicted and label not in chosen:
        chosen[-1] = label
    return chosen


@dataclass(frozen=True)
class Gallery:
    """The images, and which of their matrices are kept in the file and on the page."""

    images: list[Shown]
    in_file: Kept
    on_page: Kept

    def stacked_attn(self) -> Tensor:
        """The matrices of the file, (N, blocks, H or 1, T, T) float16."""
        return torch.stack([one.attn for one in self.images])


def fill_gallery(
    maker: MapMaker, pixels: Tensor, rows: NDArray[np.intp], chosen: PredictedImages
) -> Gallery:
    """Matrices, maps for each class, contrasts and probabilities of the chosen images, `pixels`
    (N, 3, h, w)."""
    model: Any = maker.model
    sizes = len(pixels), len(model.blocks), model.blocks[0].attn.num_heads, maker.layout.tokens
    gallery = Gallery([], kept_in_file(*sizes), kept_on_page(*sizes))
    for i, row in enumerate(rows):
        walk = Walk(maker.model, pixels[i : i + 1], asked_by(maker.kinds))
        label = int(chosen.labels[i])
        predicted = int(chosen.predicted[i])
        rivals = rivals_of(walk.logits[0], predicted, label)
        matrices = Matrices(maker, walk, gallery.in_file, gallery.on_page)
        maps, contrasts = maps_of_image(maker, walk, [predicted, *rivals], matrices)
        content = None if chosen.content is None else tuple(chosen.content[i].tolist())
        gallery.images.append(
            Shown(
                row=int(row),
                image=chosen.images[i],
                file=chosen.files[i],
                content=content,
                label=label,
                predicted=predicted,
                probabilities=walk.logits[0].softmax(dim=0).cpu().numpy(),
                heads=stacked(matrices.heads).numpy(),
                attn=stacked(matrices.of_file),
                page_attn=stacked(matrices.of_page).numpy(),
                maps=maps,
                rivals=rivals,
                contrasts=contrasts,
            )
        )
        del walk  # and with it the graph, before the next image makes its own
    return gallery


def maps_of_image(
    maker: MapMaker, walk: Walk, compared: Sequence[int], matrices: Matrices
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """The maps of one image for every class, and the contrasts of the first of the compared classes
    with each other one; see `Shown`."""
    count = walk.logits.shape[1]
    others = [k for k in range(count) if k not in compared]
    groups = [[*compared]]
    for start in range(0, len(others), CLASSES_AT_ONCE):
        groups.append(others[start : start + CLASSES_AT_ONCE])
    of_class: dict[int, Maps] = {}
    contrasts: dict[str, Floats] = {}
    for number, group in enumerate(groups):
        blocks = BlocksOfImage(maker, walk, len(group), len(group) - 1 if number == 0 else 0)
        takers: list[Any] = [blocks, matrices] if number == 0 else [blocks]
        go_back(walk, [walk.direction(k) for k in group], takers)
        for k, maps in zip(group, blocks.maps, strict=True):
            of_class[k] = maker.on_grid(maps.values())
        if blocks.contrasts:
            signed = joined([maker.on_grid(one.values()) for one in blocks.contrasts])
            contrasts = {name: values.numpy() for name, values in signed.items()}
    found = {}
    for kind in maker.kinds:
        classes = range(count) if kind.asks else [compared[0]]
        found[kind.name] = torch.cat([of_class[k][kind.name] for k in classes]).numpy()
    return found, contrasts


def map_of(shown: Shown, method: str, label: int) -> Floats:
    """The map (G_h, G_w) of an image for a class."""
    maps = shown.maps[method]
    return maps[label] if len(maps) > 1 else maps[0]


def painted(shown: Shown, patch_map: Floats, grid: PixelGrid) -> Floats:
    """A map (G_h, G_w) of an image on the pixels of the resized image, NaN outside the crop and on
    bars."""
    return grid.paint(patch_map, size=grid.resized, content=shown.content)


def relevance_by_class(
    maker: MapMaker,
    test: PredictedImages,
    preprocess: Preprocess,
    sample: Sample,
    maps: Tensor,
    rng: Rng,
) -> tuple[Tensor, NDArray[np.intp]]:
    """Relevance maps of the sample and of further images of classes that have few, with their rows
    in the test part.

    Args:
        maps: relevance of the sample, (n, G_h, G_w).
    """
    more = draw_for_classes(test.predicted, sample.rows, ENOUGH, rng)
    if len(more):
        drawn = test.take(more)
        pixels = preprocess(torch.from_numpy(drawn.images))
        predicted = torch.from_numpy(drawn.predicted)
        found = maker.maps(pixels, predicted, methods=["relevance"])
        maps = torch.cat([maps, found["relevance"]])
    return maps, np.concatenate([sample.rows, more])


class ClassMean(NamedTuple):
    """A mean map (G_h, G_w) of n images, NaN of none."""

    name: str
    map: NDArray[np.float64]
    n: int


def class_means(
    maps: Tensor, predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: Sequence[str]
) -> list[ClassMean]:
    """The mean map of the images (N, G_h, G_w) predicted as each class; right and wrong apart if
    both are ENOUGH."""
    means = []
    for k, name in enumerate(classes):
        right = (predicted == k) & (labels == k)
        wrong = (predicted == k) & (labels != k)
        parts = {name: right | wrong}
        if min(right.sum(), wrong.sum()) >= ENOUGH:
            parts = {f"{name}, right": right, f"{name}, wrong": wrong}
        for text, rows in parts.items():
            mean = np.full(maps.shape[1:], np.nan)
            if rows.any():
                mean = maps[torch.from_numpy(rows)].double().mean(dim=0).numpy()
            means.append(ClassMean(text, mean, int(rows.sum())))
    return means


def write_tensors(
    folder: Path, gallery: Gallery, maps: Maps, sample: NDArray[np.intp], prefix: tuple[str, ...]
) -> None:
    """`gallery.safetensors`: the matrices (float16) of `blocks`; `maps.safetensors`: every map of
    the sample.

    `rows` in both are the images' places in the test split.
    """
    kept = gallery.in_file
    # One key only: safetensors writes several in an order that changes from run to run.
    axes = f"images, blocks, {'heads' if kept.each_head else 'the mean over heads'}, queries, keys"
    which = f"blocks: {' '.join(map(str, kept.blocks))} of {kept.depth}"
    metadata = {"attn": f"{axes}; prefix tokens: {' '.join(prefix) or 'none'}; {which}"}
    tensors = {
        "attn": gallery.stacked_attn(),
        "blocks": torch.tensor(kept.blocks),
        "rows": torch.tensor([shown.row for shown in gallery.images]),
    }
    (folder / "gallery.safetensors").write_bytes(save(tensors, metadata))
    by_name = {name.replace(" ", "_"): values.contiguous() for name, values in maps.items()}
    (folder / "maps.safetensors").write_bytes(save({**by_name, "rows": torch.from_numpy(sample)}))


def distance_rows(distances: Tensor) -> list[dict[str, Any]]:
    """(2, L, H) mean attention distances, pretrained and fine-tuned, as one row per block and
    head."""
    before, after = distances.double().round(decimals=3).tolist()
    return [
        {"block": block, "head": head, "pretrained": old, "finetuned": new}
        for block, pairs in enumerate(zip(before, after, strict=True))
        for head, (old, new) in enumerate(zip(*pairs, strict=True))
    ]
