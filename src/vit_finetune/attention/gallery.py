"""A few images with every matrix and every map of them: for the interactive page, the montage, other tools."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from vit_finetune.attention.judge import Judgement
from vit_finetune.attention.maps import CLASS_AGNOSTIC, METHODS, MapMaker, Maps, readout_maps
from vit_finetune.attention.page import Record, render
from vit_finetune.attention.pixels import PixelGrid
from vit_finetune.attention.sample import PredictedImages
from vit_finetune.verdict import verdict


@dataclass(frozen=True)
class Gallery:
    """Images (N, H, W, 3) uint8 with what was computed on them.

    Attributes:
        rows: (N,), their places in the test split.
        attn: (N, L, H, T, T).
        heads: (N, L, H, G_h, G_w), where each head looks for what the model's head reads.
        probabilities: (N, K).
        class_maps: for each of the K classes, every method's map.
    """

    rows: NDArray[np.intp]
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    attn: Tensor
    heads: Tensor
    probabilities: NDArray[np.float32]
    class_maps: list[Maps]


def fill_gallery(
    maker: MapMaker, pixels: Tensor, rows: NDArray[np.intp], shown: PredictedImages, classes: int
) -> Gallery:
    """Matrices, maps for each of the classes, and probabilities of the images shown, (N, 3, h, w) as `pixels`."""
    attn, heads, logits = [], [], []
    class_maps: list[Maps] = [{} for _ in range(classes)]
    for batch in pixels.split(maker.batch_size):
        for k, maps in enumerate(class_maps):
            gradients = maker.gradients(batch, torch.full((len(batch),), k))
            for name, part in maker.maps_of(gradients).items():
                maps[name] = torch.cat([maps[name], part]) if name in maps else part
        attn.append(gradients.attn)  # the same for every class
        heads.append(readout_maps(gradients.attn, maker.layout, maker.readout(gradients)))
        logits.append(gradients.logits)
    probabilities = torch.cat(logits).softmax(dim=1).numpy()
    return Gallery(
        rows, shown.images, shown.labels, shown.predicted, torch.cat(attn), torch.cat(heads), probabilities, class_maps
    )


def page_records(gallery: Gallery, grid: PixelGrid) -> list[Record]:
    """What the interactive page takes."""
    boxes = grid.boxes()
    top, left, bottom, right = *boxes[0, 0, :2], *boxes[-1, -1, 2:]
    return [
        Record(
            image=gallery.images[i],
            attn=gallery.attn[i].numpy(),
            maps={
                name: torch.stack(
                    [maps[name][i] for maps in gallery.class_maps[: 1 if name in CLASS_AGNOSTIC else None]]
                ).numpy()
                for name in METHODS
            },
            label=int(gallery.labels[i]),
            predicted=int(gallery.predicted[i]),
            probabilities=gallery.probabilities[i],
            box=(float(left), float(top), float(right), float(bottom)),
        )
        for i in range(len(gallery.rows))
    ]


def painted_maps(gallery: Gallery, grid: PixelGrid) -> dict[str, list[NDArray[Any]]]:
    """Every method's map for the predicted class on the pixels of the resized image, as a share of its largest."""
    maps = {name: [gallery.class_maps[k][name][i] for i, k in enumerate(gallery.predicted)] for name in METHODS}
    return {name: [painted_share(one, grid) for one in of_images] for name, of_images in maps.items()}


def painted_share(relevance: Tensor, grid: PixelGrid) -> NDArray[Any]:
    """A map (G_h, G_w) on the pixels of the resized image, as a share of its largest value."""
    return grid.paint((relevance / relevance.max().clamp_min(1e-12)).cpu().numpy(), size=grid.resized)


def class_means(maps: Tensor, predicted: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Mean map (K, G_h, G_w) of the images predicted as each class; NaN for a class that never is."""
    means = np.full((classes, *maps.shape[1:]), np.nan)
    for k in np.unique(predicted):
        means[k] = maps[torch.from_numpy(predicted == k)].mean(dim=0).numpy()
    return means


def facts(judgement: Judgement) -> list[tuple[str, str]]:
    """Numbers of the page: the margins that the verdict rests on, and the proof of the capture."""
    rows = [row for row in judgement.tables["attention_maps"] if row["verdict"]]
    return [
        *(
            (
                f"{row['map']}: score minus that of a centred Gaussian",
                f"{row['minus_centre']:+.3f} [{row['minus_centre_low']:+.3f}, {row['minus_centre_high']:+.3f}]",
            )
            for row in rows
        ),
        ("self-check of every block, largest relative error", f"{judgement.metrics['selfcheck_max_rel_err']:.1e}"),
    ]


def opening(gallery: Gallery, judgement: Judgement) -> tuple[int, str]:
    """What the page opens on: the image that is right with most confidence, and the map that deserves most trust."""
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
        summary=verdict(judgement.tables["attention_maps"]),
        facts=facts(judgement),
        start=opening(gallery, judgement),
    )
    path.write_text(page, encoding="utf-8")


def write_tensors(
    folder: Path, gallery: Gallery, maps: Maps, sample: NDArray[np.intp], prefix: tuple[str, ...]
) -> None:
    """`gallery.safetensors`: all matrices (float16); `maps.safetensors`: every map of the sample.

    `rows` in both are the images' places in the test split.
    """
    # One key only: safetensors writes several in an order that changes from run to run.
    metadata = {"attn": f"images, blocks, heads, queries, keys; prefix tokens: {' '.join(prefix) or 'none'}"}
    tensors = {"attn": gallery.attn.half(), "rows": torch.from_numpy(gallery.rows)}
    (folder / "gallery.safetensors").write_bytes(save(tensors, metadata))
    by_name = {name.replace(" ", "_"): values.contiguous() for name, values in maps.items()}
    (folder / "maps.safetensors").write_bytes(save({**by_name, "rows": torch.from_numpy(sample)}))


def distance_rows(distances: Tensor) -> list[dict[str, Any]]:
    """(2, L, H) mean attention distances, pretrained and fine-tuned, as one row per block and head."""
    before, after = distances.double().round(decimals=3).tolist()
    return [
        {"block": block, "head": head, "pretrained": old, "finetuned": new}
        for block, pairs in enumerate(zip(before, after, strict=True))
        for head, (old, new) in enumerate(zip(*pairs, strict=True))
    ]
