"""Pictures of attention: arrays in, a matplotlib Figure out."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vit_finetune import style
from vit_finetune.attention.gallery import ClassMean, Shown, map_of, painted
from vit_finetune.attention.judge import Judgement
from vit_finetune.attention.page import Common, opening
from vit_finetune.attention.pixels import bright_end, spotlight
from vit_finetune.style import Array

MONTAGE_NOTE = (
    "Bright where the map is high, each scaled for itself. Under its name: its score beside a "
    "centred Gaussian's."
)


def heat_canvas(
    width: float, height: float, title: str, maps: Any, unit: str
) -> tuple[Figure, Axes, dict[str, Any]]:
    """A canvas, and the style to draw its maps in: a common scale that a single attention sink
    cannot set."""
    figure, axes, _ = style.canvas(width, height, title, margin=1.25)
    values = np.concatenate([m[np.isfinite(m)] for m in maps])
    brightest = 1.0
    if values.any():
        brightest = max(float(np.percentile(values, 99.5) or values.max()), 1e-9)
    norm = Normalize(0, brightest)
    figure.colorbar(
        ScalarMappable(norm, "inferno"),
        ax=axes,
        label=unit,
        extend="max",
        panchor=(0, 1),
        pad=0.015,
        shrink=0.8,
        aspect=30,
        ticks=MaxNLocator(5, steps=[1, 2, 5, 10]),
    )
    return figure, axes, {"cmap": "inferno", "norm": norm}


@style.styled
def attention_montage(images: Sequence[Shown], common: Common) -> Figure:
    """One row per image: the image, then the image in the spotlight of each map of its predicted
    class, each scaled for itself.

    A right prediction has a tick. A wrong one has a cross, is bold, and names the true class.
    """
    methods = common.methods
    tall = max(shown.image.shape[0] / shown.image.shape[1] for shown in images)
    across = 1 + len(methods)
    wide = 0.18 * across  # cells, for about an inch of text
    height = 0.5 + len(images) * tall
    figure, canvas, _ = style.canvas(
        wide + across, height + 0.25, "What speaks for the predicted class, by each map"
    )
    canvas.text(wide + 0.47, 0.25, "image", ha="center")
    for column, method in enumerate(methods, start=1):
        x = wide + column + 0.47
        canvas.text(x, 0.25, method.name.replace(" ", "\n"), ha="center")
        canvas.text(x, 0.4, method.verdict, ha="center", fontsize=7, color=style.QUIET)
    for i, shown in enumerate(images):
        y = 0.5 + i * tall
        right = shown.label == shown.predicted
        prediction = f"{style.shorten(common.classes[shown.predicted], 12)} {shown.confidence:.2f}"
        true = style.shorten(common.classes[shown.label], 12)
        canvas.text(
            wide - 0.1,
            y + 0.47 * tall,
            f"✓ {prediction}" if right else f"✗ {prediction}\nis {true}",
            ha="right",
            va="center",
            weight="normal" if right else "bold",
            color=style.BLUE if right else style.VERMILION,
        )
        style.place(canvas, shown.image, wide, y, tall)
        for column, method in enumerate(methods, start=1):
            of_map = painted(shown, map_of(shown, method.name, shown.predicted), common.grid)
            style.place(canvas, spotlight(shown.image, of_map), wide + column, y, tall)
    canvas.text(0, height + 0.2, MONTAGE_NOTE, fontsize=7, color=style.QUIET)
    return figure


@style.styled
def contrast(image: Array, painted: Array, label: str, against: str) -> Figure:
    """An image (h, w, 3) and, on its grey, a signed map (h, w): light for one class, dark for the
    other, NaN for none.

    Cividis is grey in its middle, and its ends differ on a grey printer too. As in `heat_canvas`,
    the scale is one that a single attention sink cannot set.
    """
    title = f"Yellow speaks for {style.shorten(label, 24)}, blue for {style.shorten(against, 24)}"
    tall = image.shape[0] / image.shape[1]
    figure, axes, _ = style.canvas(2, tall, title, margin=1.25)
    sizes = np.abs(painted[np.isfinite(painted)])
    largest = max(float(np.percentile(sizes, 99.5) or sizes.max()), 1e-12)
    scale = ScalarMappable(Normalize(-1, 1), "cividis")
    bar = figure.colorbar(
        scale, ax=axes, extend="both", panchor=(0, 1), pad=0.015, shrink=0.8, aspect=30
    )
    bar.set_ticks(
        [-1, 0, 1], labels=[style.shorten(against, 12), "neither", style.shorten(label, 12)]
    )
    grey = image.mean(axis=2, keepdims=True).repeat(3, axis=2).astype(np.uint8)
    style.place(axes, image, 0, 0, tall)
    style.place(axes, grey, 1, 0, tall)
    style.place(axes, painted / largest, 1, 0, tall, alpha=0.6, cmap=scale.cmap, norm=scale.norm)
    return figure


@style.styled
def overlay(image: Array, painted: Array, title: str) -> Figure:
    """An image (h, w, 3), and beside it the image in the spotlight of a map painted on the same
    frame (h, w)."""
    tall = image.shape[0] / image.shape[1]
    figure, axes, _ = style.canvas(2, tall, title)
    style.place(axes, image, 0, 0, tall)
    style.place(axes, spotlight(image, painted), 1, 0, tall)
    return figure


@style.styled
def block_head_grid(image: Array, maps: Array, title: str) -> Figure:
    """An image (h, w, 3) in the spotlight of each head: blocks from left to right, heads down, a
    scale for each block.

    Args:
        maps: (L, H, h, w), painted on the frame of the image, NaN where the model saw nothing.
    """
    blocks, heads, high, wide = maps.shape
    tall = high / wide
    first = max(2.0, blocks / 6)  # columns of the image alone, on top
    top = first * tall + 0.15 * blocks / 6
    figure, axes, _ = style.canvas(blocks, top + heads * tall + 0.075 * blocks, title)
    axes.imshow(image, extent=(0, 0.95 * first, 0.95 * first * tall, 0), interpolation="nearest")
    note = (
        "Bright: where the head looks for\n"
        "what the classifier reads.\n"
        "Each block is scaled for itself."
    )
    axes.text(first + 0.1, 0.5 * first * tall, note, va="center", fontsize=8, color=style.QUIET)
    ends = [bright_end(of_block) for of_block in maps]
    for block, head in np.ndindex(blocks, heads):
        lit = spotlight(image, maps[block, head], ends[block])
        style.place(axes, lit, block, top + head * tall, tall)
    axes.set(
        xlabel="block",
        ylabel="head",
        xlim=(0, blocks),
        ylim=(top + heads * tall, 0),
        xticks=np.arange(blocks) + 0.475,
        yticks=top + (np.arange(heads) + 0.475) * tall,
        xticklabels=range(blocks),
        yticklabels=range(heads),
    )
    return figure


@style.styled
def class_mean_maps(means: Sequence[ClassMean]) -> Figure:
    """Each mean map (Gh, Gw), scaled for itself, under its name and number of images; one of no
    images stays empty."""
    maps = np.stack([mean.map / max(mean.map.max(), 1e-12) for mean in means])
    columns = 5 if len(means) <= 15 else 10
    row = 0.3 + maps.shape[1] / maps.shape[2]
    height = row * math.ceil(len(means) / columns)
    figure, axes, heat = heat_canvas(
        columns,
        height,
        "Mean map of each predicted class, each scaled for itself",
        maps,
        "share of its maximum",
    )
    labels = [f"{style.shorten(mean.name, 18)} (n = {mean.n})" for mean in means]
    names, size = style.fit_texts(labels, 0.88 * (style.WIDTH - 1.25) / columns)
    for c, name in enumerate(names):
        x = c % columns
        y = row * (c // columns)
        axes.text(x, y + 0.2, name, fontsize=size)
        style.place(axes, maps[c], x, y + 0.25, row - 0.3, **heat)
    return figure


def draw_all(
    images: Sequence[Shown],
    judgement: Judgement,
    means: Sequence[ClassMean],
    common: Common,
) -> dict[str, Figure]:
    """Every picture of the stage by the name of its file."""
    grid = common.grid
    first = images[opening(images, judgement)[0]]
    heads = np.stack([[painted(first, head, grid) for head in block] for block in first.heads])
    prediction = f"{common.classes[first.predicted]} {first.confidence:.2f}"
    return {
        "attention_montage": attention_montage(images, common),
        "attention_blocks": block_head_grid(
            first.image, heads, f"Every block and head: {prediction}"
        ),
        "attention_classes": class_mean_maps(means),
    }
