"""Pictures of predictions: arrays in, a matplotlib Figure out."""

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from vit_finetune import style
from vit_finetune.style import Array, Names, Rows

# points; letters that fit under an image an eighth of the figure wide
FILE_SIZE, FILE_LETTERS = 5.0, 22


@style.styled
def mistakes(
    images: Array, labels: Array, predicted: Array, confidence: Array, classes: Names, files: Names
) -> Figure:
    """Wrong predictions in the order given: predicted class, its confidence (N,) in [0, 1], true
    class and file."""
    title, rows = (
        "Most confident mistakes" if len(images) else "No mistakes",
        max(1, math.ceil(len(images) / 8)),
    )
    figure, axes, inch = style.canvas(8, 1.5 * rows, title)
    said = [
        f"{style.shorten(classes[p], 11)} {share:.0%}"
        for p, share in zip(predicted, confidence, strict=True)
    ]
    lines, size = style.fit_texts(
        [*said, *(f"is {classes[t]}" for t in labels)], 0.94 * inch, em=0.7
    )
    for i, image in enumerate(images):
        x, y = i % 8, 1.5 * (i // 8)
        axes.text(x, y + 0.17, lines[i], fontsize=size, weight="bold", color=style.VERMILION)
        axes.text(x, y + 0.34, lines[len(images) + i], fontsize=size)
        axes.text(
            x,
            y + 0.46,
            style.shorten(files[i], FILE_LETTERS),
            fontsize=FILE_SIZE,
            color=style.QUIET,
        )
        style.place(axes, image, x, y + 0.5)
    return figure


@style.styled
def most_confused_pairs(
    pairs: Rows, images: Array, labels: Array, predicted: Array, classes: Names, files: Names
) -> Figure:
    """Rows of `predictions.most_confused` (true, predicted, count, fraction), each with its first
    images and files."""
    wide, tall, names, title = (
        3.2,
        1.16,
        list(classes),
        "Most confused pairs" if pairs else "No mistakes",
    )
    figure, axes, inch = style.canvas(wide + 8, tall * max(1, len(pairs)), title)
    lines, size = style.fit_texts(
        [f"{style.shorten(p['true'])} → {style.shorten(p['predicted'])}" for p in pairs],
        wide * inch,
        em=0.7,
    )
    for row, (pair, line) in enumerate(zip(pairs, lines, strict=True)):
        y = tall * row
        axes.text(0, y + 0.42, line, fontsize=size, weight="bold")
        axes.text(
            0,
            y + 0.66,
            f"{pair['count']} images, {pair['fraction']:.1%} of the class",
            fontsize=7.5,
            color=style.QUIET,
        )
        both = (labels == names.index(pair["true"])) & (predicted == names.index(pair["predicted"]))
        for i, index in enumerate(np.flatnonzero(both)[:8]):
            file = style.shorten(files[index], FILE_LETTERS * 8 // 11)
            axes.text(wide + i, y + 0.1, file, fontsize=FILE_SIZE, color=style.QUIET)
            style.place(axes, images[index], wide + i, y + 0.14)
    return figure


@style.styled
def confusion_matrix(counts: Array, classes: Names) -> Figure:
    """Counts (K, K), row = true class, shaded by their share of the row, so that the diagonal is
    recall."""
    counts, k = np.asarray(counts), len(classes)
    recall = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(6.0, 0.5 + 0.7 * k)
    figure, [[axes]] = style.figure_of(side + 1.2, "Confusion matrix")
    # The square root lifts the few per cent off the diagonal, where all the news is, out of the
    # white.
    shown = axes.imshow(
        recall, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest", aspect="auto"
    )
    axes.set(xlabel="predicted class", ylabel="true class", frame_on=False)
    upright = (
        {"rotation": 90} if k > 20 else {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    )
    style.name_ticks(axes.xaxis, classes, 6, **(upright if k > 6 else {}))
    style.name_ticks(axes.yaxis, classes, side)
    size = style.fit_texts([str(counts.max())], 0.8 * 6 / k)[1]
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


@style.styled
def per_class_bars(per_class: Mapping[str, Mapping[str, float]]) -> Figure:
    """Precision and recall of each class, from 0 to 1: {class: row of `measures.per_class`}."""
    height = min(11.0, 0.3 + 0.4 * len(per_class))
    figure, [[axes]] = style.figure_of(height + 1.0, "Precision and recall per class")
    for key, offset, colour in (("precision", -0.2, style.BLUE), ("recall", 0.2, style.ORANGE)):
        values = [row[key] for row in per_class.values()]
        style.class_bars(axes, values, "{:.3f}", offset, height=0.36, color=colour, label=key)
    axes.set(xlim=(0, 1.06), xticks=np.linspace(0, 1, 6))
    style.name_ticks(axes.yaxis, list(per_class), height)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@style.styled
def reliability_diagram(rows: Rows) -> Figure:
    """Rows of `measures.reliability`: accuracy with its interval over confidence, and how many
    images are there."""
    figure, [[left, right]] = style.figure_of(4.0, "Calibration", 2)
    column = {key: np.array([row[key] for row in rows], dtype=float) for key in rows[0]}
    confidence, accuracy, lower, counts = (
        column[key] for key in ("confidence", "accuracy", "lower", "count")
    )
    error = [accuracy - column["accuracy_low"], column["accuracy_high"] - accuracy]
    left.plot(
        [0, 1], [0, 1], linestyle="--", linewidth=1, color=style.QUIET, label="perfectly calibrated"
    )
    left.errorbar(
        confidence,
        accuracy,
        error,
        fmt="o-",
        color=style.BLUE,
        elinewidth=1,
        label="model, 95 % interval",
    )
    left.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy")
    left.legend(loc="lower right")
    right.bar(
        lower,
        counts / counts.sum(),
        column["upper"] - lower,
        align="edge",
        color=style.BLUE,
        edgecolor="white",
    )
    right.set(
        xlim=(0, 1.02),
        ylim=(0, 1.02),
        xlabel="confidence",
        ylabel=f"share of {int(counts.sum()):,} images",
    )
    return figure
