"""The pictures people look at: arrays in, a matplotlib Figure out, one shared quiet style.

K classes, N images; `images` (N, H, W, 3) uint8, `labels` and `predicted` (N,) class indices, `classes` the 2 to 100
names. Every figure is 8 inches wide, the width of a README. Meaning never rests on colour alone, and the colours
(Okabe and Ito 2008; inferno) survive colour blindness and a grey printer.
"""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Array = np.ndarray[Any, Any]
Names = Sequence[str]
Rows = Sequence[Mapping[str, Any]]

WIDTH = 8.0  # inches
QUIET, FAINT, BLUE, ORANGE, VERMILION = "#767676", "#e4e4e4", "#0072b2", "#e69f00", "#d55e00"
SERIES: list[dict[str, Any]] = [
    {"color": colour, "marker": marker, "markevery": 0.12}
    for colour, marker in zip([BLUE, VERMILION, "#009e73", "#cc79a7", "#56b4e9", ORANGE], "osD^vP", strict=True)
]
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "figure.titlesize": 11,
    "lines.markersize": 4,
    "figure.titleweight": "bold",
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "text.parse_math": False,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": QUIET,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.constrained_layout.w_pad": 0.06,
    "figure.constrained_layout.h_pad": 0.06,
}
# Over matplotlib's defaults: a matplotlibrc of the user's must not change a byte.
_styled = matplotlib.rc_context({k: v for k, v in matplotlib.rcParamsDefault.items() if "backend" not in k} | STYLE)


@_styled
def png(figure: Figure) -> bytes:
    """The figure as PNG, always with the same bytes: no date, no program version."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def save_png(figure: Figure, path: str | Path) -> None:
    """Write the PNG whole or not at all."""
    partial = Path(path).with_name(f".{Path(path).name}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        partial.write_bytes(png(figure))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _figure(height: float, title: str, columns: int = 1) -> tuple[Figure, Any]:
    """A figure of one row of axes, and those axes as an array (1, columns)."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.suptitle(title, x=0.008, ha="left")
    return figure, figure.subplots(1, columns, squeeze=False)


def _short(name: str, longest: int = 16) -> str:
    """At most `longest` characters; the middle goes, for names often differ in their last word or number."""
    return name if len(name) <= longest else f"{name[: longest - longest // 3 - 1]}…{name[-(longest // 3) :]}"


def _fit(texts: Sequence[str], inches: float, em: float = 0.64) -> tuple[list[str], float]:
    """The texts, cut to what `inches` hold at 6 points, and the size in points (6 to 9) at which all fit."""
    texts = [_short(text, max(4, int(12 * inches / em))) for text in texts]
    return texts, min(9.0, 72 * inches / em / max(map(len, texts), default=1))


def _name_ticks(axis: Any, classes: Names, inches: float, **text: Any) -> None:
    """Class names along `inches` of an axis: first smaller, then every second, third, ... so that none touch."""
    room = 65 * inches / len(classes)  # points per name, a tenth left free
    step = math.ceil(6 / room)
    axis.set_ticks(
        range(0, len(classes), step), [_short(name) for name in classes[::step]], fontsize=min(9, room * step), **text
    )
    axis.grid(visible=False)


def _canvas(width: float, height: float, title: str, margin: float = 0.15) -> tuple[Figure, Axes, float]:
    """An empty axes of width x height cells, origin at the top left, and the inches that one cell measures."""
    inch = (WIDTH - margin) / width
    figure, [[axes]] = _figure(inch * height + 0.4, title)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal", xticks=[], yticks=[], frame_on=False)
    axes.grid(visible=False)
    return figure, axes, inch


def _place(axes: Axes, picture: Array, x: float, y: float, tall: float = 1, **style: Any) -> None:
    """Fit a picture into the cell (1 wide, `tall` high) at (x, y), pixels sharp: a blur would look like knowledge."""
    h, w = np.array(picture.shape[:2]) * min(0.95 / picture.shape[1], 0.95 * tall / picture.shape[0])
    x, y = x + (0.95 - w) / 2, y + (0.95 * tall - h) / 2
    method: Any = "auto" if picture.ndim == 3 and max(picture.shape) > 64 else "nearest"
    axes.imshow(picture, extent=(x, x + w, y + h, y), interpolation=method, **style)


def _heat_canvas(width: float, height: float, title: str, maps: Any, unit: str) -> tuple[Figure, Axes, dict[str, Any]]:
    """A canvas and the style to draw its maps in: one scale, which one attention sink cannot darken for the rest."""
    figure, axes, _ = _canvas(width, height, title, margin=1.25)
    values = np.concatenate([m[np.isfinite(m)] for m in maps])
    norm = Normalize(0, max(float(np.percentile(values, 99.5) or values.max()), 1e-9) if values.any() else 1)
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


@_styled
def sample_grid(images: Array, labels: Array, classes: Names) -> Figure:
    """The first images of every class, as many as there is room for, under its name."""
    strips = min(12, math.ceil(len(classes) / 6))
    across, rows = 12 // strips, math.ceil(len(classes) / strips)
    figure, axes, inch = _canvas(strips * (across + 0.1), 1.3 * rows, "Samples of each class")
    names, size = _fit(classes, 0.94 * across * inch)
    for c, name in enumerate(names):
        x, y = c % strips * (across + 0.1), 1.3 * (c // strips)
        axes.text(x, y + 0.22, name, fontsize=size)
        for i, index in enumerate(np.flatnonzero(np.asarray(labels) == c)[:across]):
            _place(axes, images[index], x + i, y + 0.28)
    return figure


@_styled
def mistakes(images: Array, labels: Array, predicted: Array, confidence: Array, classes: Names) -> Figure:
    """Wrong predictions in the order given: predicted class, its confidence (N,) in [0, 1], and the true class."""
    title, rows = "Most confident mistakes" if len(images) else "No mistakes", max(1, math.ceil(len(images) / 8))
    figure, axes, inch = _canvas(8, 1.38 * rows, title)
    said = [f"{_short(classes[p], 11)} {share:.0%}" for p, share in zip(predicted, confidence, strict=True)]
    lines, size = _fit([*said, *(f"is {classes[t]}" for t in labels)], 0.94 * inch, em=0.7)
    for i, image in enumerate(images):
        x, y = i % 8, 1.38 * (i // 8)
        axes.text(x, y + 0.17, lines[i], fontsize=size, weight="bold", color=VERMILION)
        axes.text(x, y + 0.34, lines[len(images) + i], fontsize=size)
        _place(axes, image, x, y + 0.39)
    return figure


@_styled
def most_confused_pairs(pairs: Rows, images: Array, labels: Array, predicted: Array, classes: Names) -> Figure:
    """Rows of `metrics.most_confused` (true, predicted, count, share), each with the first of its images."""
    wide, names = 3.2, list(classes)
    figure, axes, inch = _canvas(wide + 8, max(1, len(pairs)), "Most confused pairs" if pairs else "No mistakes")
    lines, size = _fit([f"{_short(p['true'])} → {_short(p['predicted'])}" for p in pairs], wide * inch, em=0.7)
    for y, (pair, line) in enumerate(zip(pairs, lines, strict=True)):
        axes.text(0, y + 0.42, line, fontsize=size, weight="bold")
        axes.text(0, y + 0.66, f"{pair['count']} images, {pair['share']:.1%} of the class", fontsize=7.5, color=QUIET)
        both = (labels == names.index(pair["true"])) & (predicted == names.index(pair["predicted"]))
        for i, index in enumerate(np.flatnonzero(both)[:8]):
            _place(axes, images[index], wide + i, y)
    return figure


@_styled
def confusion_matrix(counts: Array, classes: Names) -> Figure:
    """Counts (K, K), row = true class, shaded by their share of the row, so that the diagonal is recall."""
    counts, k = np.asarray(counts), len(classes)
    recall = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(6.0, 0.5 + 0.7 * k)
    figure, [[axes]] = _figure(side + 1.2, "Confusion matrix")
    # The square root lifts the few per cent off the diagonal, where all the news is, out of the white.
    shown = axes.imshow(recall, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest", aspect="auto")
    axes.set(xlabel="predicted class", ylabel="true class", frame_on=False)
    upright = {"rotation": 90} if k > 20 else {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    _name_ticks(axes.xaxis, classes, 6, **(upright if k > 6 else {}))
    _name_ticks(axes.yaxis, classes, side)
    size = _fit([str(counts.max())], 0.8 * 6 / k)[1]
    for t, p in np.argwhere(counts) if k <= 25 else []:
        axes.text(
            p,
            t,
            str(counts[t, p]),
            ha="center",
            va="center",
            fontsize=size,
            color="white" if recall[t, p] > 0.3 else "black",
        )
    figure.colorbar(
        shown,
        ax=axes,
        label="share of the true class (diagonal: recall)",
        format="{x:.0%}",
        shrink=0.8,
        aspect=30,
        ticks=[0, 0.02, 0.1, 0.25, 0.5, 1],
    )
    return figure


def _class_bars(axes: Axes, values: Sequence[float], form: str, offset: float = 0, **bar: Any) -> None:
    """A horizontal bar per class, the first on top, with its number behind it while there is room."""
    bars = axes.barh(np.arange(len(values)) + offset, values, **bar)
    if len(values) <= 25:
        axes.bar_label(bars, fmt=form, padding=3, fontsize=7, color=QUIET)
    axes.set_ylim(len(values) - 0.4, -0.6)


@_styled
def per_class_bars(per_class: Mapping[str, Mapping[str, float]]) -> Figure:
    """Precision and recall of each class, from 0 to 1: `metrics.classification_summary(...)["per_class"]`."""
    height = min(11.0, 0.3 + 0.4 * len(per_class))
    figure, [[axes]] = _figure(height + 1.0, "Precision and recall per class")
    for key, offset, colour in (("precision", -0.2, BLUE), ("recall", 0.2, ORANGE)):
        values = [row[key] for row in per_class.values()]
        _class_bars(axes, values, "{:.3f}", offset, height=0.36, color=colour, label=key)
    axes.set(xlim=(0, 1.06), xticks=np.linspace(0, 1, 6))
    _name_ticks(axes.yaxis, list(per_class), height)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@_styled
def class_balance(counts: Mapping[str, Mapping[str, int]]) -> Figure:
    """{split: {class: images}}: a panel per split, each with an axis of its own, for only shapes compare."""
    names = list(next(iter(counts.values())))
    height = min(11.0, 0.4 + 0.24 * len(names))
    figure, [panels] = _figure(height + 0.8, "Images per class", len(counts))
    for axes, (split, of_class) in zip(panels, counts.items(), strict=True):
        values = [of_class[name] for name in names]
        _class_bars(axes, values, "{:,.0f}", color=BLUE)
        axes.set(xlim=(0, 1.22 * max(1, *values)), title=f"{split}: {sum(values):,}")
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        _name_ticks(axes.yaxis, names if axes is panels[0] else [""] * len(names), height)
    return figure


@_styled
def reliability_diagram(rows: Rows) -> Figure:
    """Rows of `metrics.reliability`: accuracy with its interval over confidence, and how many images are there."""
    figure, [[left, right]] = _figure(4.0, "Calibration", 2)
    column = {key: np.array([row[key] for row in rows], dtype=float) for key in rows[0]}
    confidence, accuracy, lower, counts = (column[key] for key in ("confidence", "accuracy", "lower", "count"))
    error = [accuracy - column["accuracy_low"], column["accuracy_high"] - accuracy]
    left.plot([0, 1], [0, 1], linestyle="--", linewidth=1, color=QUIET, label="perfectly calibrated")
    left.errorbar(confidence, accuracy, error, fmt="o-", color=BLUE, elinewidth=1, label="model, 95 % interval")
    left.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy")
    left.legend(loc="lower right")
    right.bar(lower, counts / counts.sum(), column["upper"] - lower, align="edge", color=BLUE, edgecolor="white")
    right.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence", ylabel=f"share of {int(counts.sum()):,} images")
    return figure


@_styled
def training_curves(history: Rows) -> Figure:
    """Rows with epoch, train_loss, val_loss, train_accuracy, val_accuracy and lr: numbers, or the texts of a CSV."""
    column = {key: np.array([float(row[key]) for row in history]) for key in history[0]}
    figure, [panels] = _figure(2.9, "Training", 3)
    best = column["epoch"][column["val_accuracy"].argmax()]
    for ax, what, title in zip(panels, ("loss", "accuracy", "lr"), ("loss", "accuracy", "learning rate"), strict=True):
        keys = [key for key in (f"train_{what}", f"val_{what}", what) if key in column]
        ax.axvline(best, color=VERMILION, linewidth=1, linestyle=":", label="best epoch")
        for key, colour, marker in zip(keys, (QUIET, BLUE), "so", strict=False):
            ax.plot(column["epoch"], column[key], color=colour, marker=marker, label=key.split("_")[0])
        top = max(column[key].max() for key in keys)
        ax.set(title=title, xlabel="epoch", ylim=(None, 1) if what == "accuracy" else (0, 1.08 * top))
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    panels[2].yaxis.set_major_formatter("{x:g}")
    panels[0].legend()
    return figure


@_styled
def attention_montage(
    images: Sequence[Array],
    maps: Mapping[str, Sequence[Array]],
    labels: Array,
    predicted: Array,
    classes: Names,
    unit: str = "attention",
) -> Figure:
    """One row per image: the image, then its map by each method, all on one colour scale.

    maps: name -> N arrays (h, w), painted on the frame of their image at any resolution, NaN where the model
    saw nothing. A right prediction bears a tick, a wrong one a cross, bold, and what the image really is.
    """
    tall, across = max(image.shape[0] / image.shape[1] for image in images), 1 + len(maps)
    wide = 0.18 * across  # cells, for about an inch of text
    figure, axes, heat = _heat_canvas(
        wide + across,
        0.3 + len(images) * tall,
        "What the model attends to",
        [m for method in maps.values() for m in method],
        unit,
    )
    for column, name in enumerate(("image", *maps)):
        axes.text(wide + column + 0.47, 0.2, name, ha="center")
    for i, image in enumerate(images):
        y, right = 0.3 + i * tall, labels[i] == predicted[i]
        said, true = (_short(classes[index[i]], 12) for index in (predicted, labels))
        axes.text(
            wide - 0.1,
            y + 0.47 * tall,
            f"✓ {said}" if right else f"✗ {said}\nis {true}",
            ha="right",
            va="center",
            weight="normal" if right else "bold",
            color=BLUE if right else VERMILION,
        )
        _place(axes, image, wide, y, tall)
        grey = image.mean(axis=2, keepdims=True).repeat(3, axis=2).astype(np.uint8)
        for column, method in enumerate(maps.values(), start=1):
            _place(axes, grey, wide + column, y, tall)
            _place(axes, method[i], wide + column, y, tall, alpha=0.6, **heat)
    return figure


@_styled
def overlay(image: Array, painted: Array, title: str, unit: str = "attention") -> Figure:
    """An image (h, w, 3) and beside it, on its grey, a map painted on the same frame (h, w), NaN where none is."""
    tall = image.shape[0] / image.shape[1]
    figure, axes, heat = _heat_canvas(2, tall, title, [painted], unit)
    _place(axes, image, 0, 0, tall)
    _place(axes, image.mean(axis=2, keepdims=True).repeat(3, axis=2).astype(np.uint8), 1, 0, tall)
    _place(axes, painted, 1, 0, tall, alpha=0.6, **heat)
    return figure


@_styled
def block_head_grid(maps: Array, unit: str = "attention") -> Figure:
    """Maps (L, H, Gh, Gw) of one image: blocks from left to right, heads downwards, one colour scale."""
    blocks, heads, high, wide = maps.shape
    tall = high / wide
    figure, axes, heat = _heat_canvas(blocks, heads * tall + 0.075 * blocks, "Every block and head", maps, unit)
    for block, head in np.ndindex(blocks, heads):
        _place(axes, maps[block, head], block, head * tall, tall, **heat)
    axes.set(
        xlabel="block",
        ylabel="head",
        ylim=(heads * tall, 0),
        xticks=np.arange(blocks) + 0.475,
        yticks=(np.arange(heads) + 0.475) * tall,
        xticklabels=range(blocks),
        yticklabels=range(heads),
    )
    return figure


@_styled
def class_mean_maps(maps: Array, classes: Names, unit: str = "attention") -> Figure:
    """The mean map (K, Gh, Gw) of each class on one colour scale; a class without images is NaN and left empty."""
    columns, row = 5 if len(classes) <= 15 else 10, 0.3 + maps.shape[1] / maps.shape[2]
    height = row * math.ceil(len(classes) / columns)
    figure, axes, heat = _heat_canvas(columns, height, "Mean map of each class", maps, unit)
    names, size = _fit(classes, 0.88 * (WIDTH - 1.25) / columns)
    for c, name in enumerate(names):
        x, y = c % columns, row * (c // columns)
        axes.text(x, y + 0.2, name, fontsize=size)
        _place(axes, maps[c], x, y + 0.25, row - 0.3, **heat)
    return figure


@_styled
def distance_plot(pretrained: Array, finetuned: Array, uniform: float | None = None) -> Figure:
    """Mean attention distance in pixels of heads (L, H), before and after; `uniform`: of evenly spread attention."""
    figure, [[axes]] = _figure(3.2, "How far each head looks (lines: mean of the heads)")
    for values, shift, name, colour, marker in (
        (pretrained, -0.12, "pretrained", QUIET, "s"),
        (finetuned, 0.12, "fine-tuned", BLUE, "o"),
    ):
        at = np.arange(len(values)) + shift
        axes.plot(at, values, marker, color=colour, alpha=0.6, markeredgewidth=0)
        axes.plot(at, np.mean(values, axis=1), f"{marker}-", color=colour, markersize=6, mec="white", label=name)
    if uniform is not None:
        axes.axhline(uniform, color=VERMILION, linestyle="--", linewidth=1, label="attention spread evenly")
    axes.set(xlabel="block", ylabel="mean attention distance (pixels)", ylim=(0, None), xticks=range(len(pretrained)))
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@_styled
def curves_plot(
    fractions: Array,
    deletion: Mapping[str, Array],
    insertion: Mapping[str, Array],
    baselines: Sequence[str] = ("random", "centre"),
) -> Figure:
    """Class probability by the fraction (F,) of patches removed or shown: name -> (3, F), mean, low and high."""
    figure, [panels] = _figure(3.6, "Does the map point at what the model uses?", columns=2)
    looks = dict(zip((name for name in insertion if name not in baselines), SERIES * 4, strict=False))
    looks |= {name: {"color": QUIET, "linestyle": dash} for name, dash in zip(baselines, ["--", ":"] * 4, strict=False)}
    for axes, curves, title, done in (
        (panels[0], deletion, "deletion: lower is better", "removed"),
        (panels[1], insertion, "insertion: higher is better", "shown"),
    ):
        for name, (mean, low, high) in curves.items():
            axes.fill_between(fractions, low, high, color=looks[name]["color"], alpha=0.14, linewidth=0)
            axes.plot(fractions, mean, label=name, **looks[name])
        axes.set(
            xlim=(0, 1), ylim=(0, 1), title=title, xlabel=f"share of patches {done}", ylabel="probability of the class"
        )
    figure.legend(*panels[1].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return figure
