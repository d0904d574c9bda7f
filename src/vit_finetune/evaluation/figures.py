"""Pictures of predicted images: arrays in, a matplotlib Figure out."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vit_finetune import style
from vit_finetune.style import Array, Names

FILE_SIZE = 5.0  # points
FILE_LETTERS = 22  # that fit under an image an eighth of the figure wide


def in_percent(probability: float) -> str:
    """Rounded down to a tenth: nothing but certainty is 100 %."""
    return f"{math.floor(1000 * probability) / 10:.1f}%"


@style.styled
def mistakes(
    images: Array, labels: Array, predicted: Array, confidence: Array, classes: Names, files: Names
) -> Figure:
    """Wrong predictions in the order given: predicted class, its confidence (N,) in [0, 1], true
    class and file."""
    title = "Most confident mistakes" if len(images) else "No mistakes"
    rows = max(1, math.ceil(len(images) / 8))
    figure, axes, inch = style.canvas(8, 1.5 * rows, title)
    predictions = [
        f"{style.shorten(classes[p], 11)} {in_percent(probability)}"
        for p, probability in zip(predicted, confidence, strict=True)
    ]
    truths = [f"is {classes[t]}" for t in labels]
    lines, size = style.fit_texts([*predictions, *truths], 0.94 * inch, em=0.7)
    for i, image in enumerate(images):
        x = i % 8
        y = 1.5 * (i // 8)
        file = style.shorten(files[i], FILE_LETTERS)
        axes.text(x, y + 0.17, lines[i], fontsize=size, weight="bold", color=style.VERMILION)
        axes.text(x, y + 0.34, lines[len(images) + i], fontsize=size)
        axes.text(x, y + 0.46, file, fontsize=FILE_SIZE, color=style.QUIET)
        style.place(axes, image, x, y + 0.5)
    return figure


@style.styled
def most_confused_pairs(
    pairs: Sequence[Mapping[str, Any]],
    images: Array,
    labels: Array,
    predicted: Array,
    classes: Names,
    files: Names,
) -> Figure:
    """Rows of `predictions.most_confused`, each with its first images and their files."""
    wide = 3.2  # cells for the text
    tall = 1.16
    title = "Most confused pairs" if pairs else "No mistakes"
    figure, axes, inch = style.canvas(wide + 8, tall * max(1, len(pairs)), title)
    names = [f"{style.shorten(p['true'])} → {style.shorten(p['predicted'])}" for p in pairs]
    lines, size = style.fit_texts(names, wide * inch, em=0.7)
    index_of = {name: index for index, name in enumerate(classes)}
    for row, (pair, line) in enumerate(zip(pairs, lines, strict=True)):
        y = tall * row
        how_many = f"{pair['count']} images, {pair['fraction']:.1%} of the class"
        axes.text(0, y + 0.42, line, fontsize=size, weight="bold")
        axes.text(0, y + 0.66, how_many, fontsize=7.5, color=style.QUIET)
        is_true = labels == index_of[pair["true"]]
        is_predicted = predicted == index_of[pair["predicted"]]
        for i, index in enumerate(np.flatnonzero(is_true & is_predicted)[:8]):
            file = style.shorten(files[index], FILE_LETTERS * 8 // 11)
            axes.text(wide + i, y + 0.1, file, fontsize=FILE_SIZE, color=style.QUIET)
            style.place(axes, images[index], wide + i, y + 0.14)
    return figure
