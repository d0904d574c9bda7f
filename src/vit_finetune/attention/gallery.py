"""A few images with the matrices and every map of them: for the interactive page, the montage,
other tools."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from vit_finetune.attention.capture import encoder_blocks
from vit_finetune.attention.judge import Judgement
from vit_finetune.attention.kept import Kept, kept_in_file, kept_on_page
from vit_finetune.attention.maps import (
    CLASS_AGNOSTIC,
    METHODS,
    MapMaker,
    Maps,
    Pair,
    joined,
    readout_maps,
)
from vit_finetune.attention.page import Record, render
from vit_finetune.attention.pixels import PixelGrid
from vit_finetune.attention.sample import PredictedImages, Preprocess, Sample, draw_for_classes
from vit_finetune.attention.walk import BlockAttention, Walk
from vit_finetune.model.tokens import TokenLayout
from vit_finetune.verdict import error_chance, in_words

Rng = np.random.Generator

ENOUGH = 20  # images of a mean map
CONTRAST_CLASSES = 10  # each of which is set against each other one: 45 pairs


@dataclass(frozen=True)
class Gallery:
    """Images (N, H, W, 3) uint8 with what was computed on them.

    Attributes:
        rows: (N,), their places in the test split; `files`: where each of them came from.
        content: where the image lies between bars that were added to it, (N, 4); None without bars.
        attn: (N, blocks of `in_file`, H or 1 for their mean, T, T) float16.
        page_attn: (N, blocks of `on_page`, H or 1 for their mean, T, T) float32.
        heads: (N, L, H, G_h, G_w), where each head looks for what the model's head reads.
        probabilities: (N, K).
        class_maps: for each of the K classes, every method's map.
        contrasts: for pairs of classes (a, b), a < b, the signed map of every method that knows the
            class: what speaks for a minus what speaks for b. For (b, a) it is the negative. Of more
                than CONTRAST_CLASSES, those that are
            the most probable in one of the images.
    """

    rows: NDArray[np.intp]
    images: NDArray[np.uint8]
    files: list[str]
    content: NDArray[np.int32] | None
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    attn: Tensor
    in_file: Kept
    page_attn: Tensor
    on_page: Kept
    heads: Tensor
    probabilities: NDArray[np.float32]
    class_maps: list[Maps]
    contrasts: dict[Pair, Maps]


class _Matrices:
    """Takes the attention of the gallery's images batch by batch, and of each batch block by
    block."""

    def __init__(self, maker: MapMaker, images: int) -> None:
        sizes = images, len(encoder_blocks(maker.model)), maker.heads, maker.layout.tokens
        (_, depth, heads, tokens), grid = sizes, maker.layout.grid
        self.in_file, self.on_page = kept_in_file(*sizes), kept_on_page(*sizes)
        self.attn = self.in_file.empty(images, tokens, torch.float16)
        self.page_attn = self.on_page.empty(images, tokens, torch.float32)
        self.heads = torch.empty(images, depth, heads, *grid)

    def take(
        self, block: BlockAttention, images: slice, layout: TokenLayout, readout: Tensor
    ) -> None:
        self.heads[images, block.index] = readout_maps(block.attn, layout, readout)
        for kept, matrices in ((self.in_file, self.attn), (self.on_page, self.page_attn)):
            if block.index in kept.blocks:
                matrices[images, kept.blocks.index(block.index)] = kept.take(block.attn).to(
                    matrices.dtype
                )


def contrasted(maker: MapMaker, pixels: Tensor, classes: int) -> list[int]:
    """The classes that are set against each other, in rising order."""
    if classes <= CONTRAST_CLASSES:
        return [*range(classes)]
    with torch.no_grad():
        logits = torch.cat([maker.model(batch) for (batch,) in maker.batches(pixels)])
    return sorted(logits.softmax(dim=1).amax(dim=0).topk(CONTRAST_CLASSES).indices.tolist())


def fill_gallery(
    maker: MapMaker, pixels: Tensor, rows: NDArray[np.intp], shown: PredictedImages, classes: int
) -> Gallery:
    """Matrices, maps for each of the classes and pairs, and probabilities of the images shown,
    `pixels` (N, 3, h, w).

    One pass forward of each image gives all of it.
    """
    pairs = [*combinations(contrasted(maker, pixels, classes), 2)]
    matrices, logits, found = _Matrices(maker, len(pixels)), [], []
    for batch, numbers in maker.batches(pixels, torch.arange(len(pixels))):
        walk = Walk(maker.model, batch)
        place = slice(int(numbers[0]), int(numbers[-1]) + 1)
        visit = partial(
            matrices.take, images=place, layout=maker.layout, readout=maker.readout(walk)
        )
        found.append(maker.class_maps(walk, range(classes), pairs, visit))
        logits.append(walk.logits)
    class_maps = [
        joined([part.agnostic | part.classes[k] for part in found]) for k in range(classes)
    ]
    return Gallery(
        rows=rows,
        images=shown.images,
        files=shown.files,
        content=shown.content,
        labels=shown.labels,
        predicted=shown.predicted,
        attn=matrices.attn,
        in_file=matrices.in_file,
        page_attn=matrices.page_attn,
        on_page=matrices.on_page,
        heads=matrices.heads,
        probabilities=torch.cat(logits).softmax(dim=1).numpy(),
        class_maps=class_maps,
        contrasts={pair: joined([part.contrasts[pair] for part in found]) for pair in pairs},
    )


def page_records(gallery: Gallery, grid: PixelGrid) -> list[Record]:
    """What the interactive page takes."""
    boxes = grid.boxes()
    top, left, bottom, right = *boxes[0, 0, :2], *boxes[-1, -1, 2:]
    return [
        Record(
            image=gallery.images[i],
            attn=gallery.page_attn[i].numpy(),
            maps={
                name: torch.stack(
                    [
                        maps[name][i]
                        for maps in gallery.class_maps[: 1 if name in CLASS_AGNOSTIC else None]
                    ]
                ).numpy()
                for name in METHODS
            },
            label=int(gallery.labels[i]),
            predicted=int(gallery.predicted[i]),
            probabilities=gallery.probabilities[i],
            box=(float(left), float(top), float(right), float(bottom)),
            file=gallery.files[i],
            content=None
            if gallery.content is None
            else tuple(gallery.content[i][[1, 0, 3, 2]].tolist()),
            contrasts={
                name: torch.stack([maps[name][i] for maps in gallery.contrasts.values()]).numpy()
                for name in METHODS
                if gallery.contrasts and name not in CLASS_AGNOSTIC
            },
        )
        for i in range(len(gallery.rows))
    ]


def painted_maps(gallery: Gallery, grid: PixelGrid) -> dict[str, list[NDArray[Any]]]:
    """Every method's map for the predicted class on the pixels of the resized image."""
    maps = {
        name: [gallery.class_maps[k][name][i] for i, k in enumerate(gallery.predicted)]
        for name in METHODS
    }
    return {
        name: [painted(gallery, i, one, grid) for i, one in enumerate(found)]
        for name, found in maps.items()
    }


def painted(gallery: Gallery, image: int, patch_map: Tensor, grid: PixelGrid) -> NDArray[Any]:
    """A map (G_h, G_w) of an image on the pixels of the resized image, NaN outside the crop and on
    bars."""
    content = None if gallery.content is None else gallery.content[image]
    return grid.paint(patch_map.cpu().numpy(), size=grid.resized, content=content)


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
        pixels, predicted = (
            preprocess(torch.from_numpy(drawn.images)),
            torch.from_numpy(drawn.predicted),
        )
        maps = torch.cat([maps, maker.maps(pixels, predicted)["relevance"]])
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
        right, wrong = (predicted == k) & (labels == k), (predicted == k) & (labels != k)
        apart = min(right.sum(), wrong.sum()) >= ENOUGH
        for text, rows in (
            ((f"{name}, right", right), (f"{name}, wrong", wrong))
            if apart
            else ((name, right | wrong),)
        ):
            none = np.full(maps.shape[1:], np.nan)
            mean = maps[torch.from_numpy(rows)].double().mean(dim=0).numpy() if rows.any() else none
            means.append(ClassMean(text, mean, int(rows.sum())))
    return means


def facts(judgement: Judgement) -> list[tuple[str, str]]:
    """Numbers of the page: the margins that the verdict rests on, and the proof of the capture."""
    rows = [row for row in judgement.tables["attention_maps"] if row["verdict"]]
    said = error_chance(rows)
    return [
        *([("how sure that is", said)] if said else []),
        *(
            (
                f"{row['map']}: score minus that of a centred Gaussian",
                f"{row['minus_centre']:+.3f} [{row['minus_centre_low']:+.3f}, {row['minus_centre_high']:+.3f}]",
            )
            for row in rows
        ),
        (
            "self-check of every block, largest relative error",
            f"{judgement.metrics['selfcheck_max_rel_err']:.1e}",
        ),
    ]


def opening(gallery: Gallery, judgement: Judgement) -> tuple[int, str]:
    """What the page opens on: the image that is right with most confidence, and the map that
    deserves most trust."""
    confidence = gallery.probabilities.max(axis=1) + (gallery.predicted == gallery.labels)
    rows = [row for row in judgement.tables["attention_maps"] if row["verdict"]]
    return int(confidence.argmax()), max(rows, key=lambda row: row["minus_centre_low"])["map"]


def write_page(
    path: Path,
    gallery: Gallery,
    grid: PixelGrid,
    classes: Sequence[str],
    prefix: tuple[str, ...],
    judgement: Judgement,
) -> None:
    """The interactive page."""
    page = render(
        page_records(gallery, grid),
        title="What the model attends to",
        classes=classes,
        prefix_names=prefix,
        methods=METHODS,
        summary=in_words(judgement.tables["attention_maps"]),
        facts=facts(judgement),
        start=opening(gallery, judgement),
        pairs=[*gallery.contrasts],
        kept=gallery.on_page,
    )
    path.write_text(page, encoding="utf-8")


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
        "attn": gallery.attn,
        "blocks": torch.tensor(kept.blocks),
        "rows": torch.from_numpy(gallery.rows),
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
