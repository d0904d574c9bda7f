"""Pictures of the images of a subset: arrays in, a matplotlib Figure out."""

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vit_finetune import style
from vit_finetune.style import Array, Names


@style.styled
def sample_grid(images: Array, labels: Array, classes: Names) -> Figure:
    """The first images of every class, as many as there is room for, under its name."""
    strips = min(12, math.ceil(len(classes) / 6))
    across, rows = 12 // strips, math.ceil(len(classes) / strips)
    figure, axes, inch = style.canvas(strips * (across + 0.1), 1.3 * rows, "Samples of each class")
    names, size = style.fit_texts(classes, 0.94 * across * inch)
    for c, name in enumerate(names):
        x, y = c % strips * (across + 0.1), 1.3 * (c // strips)
        axes.text(x, y + 0.22, name, fontsize=size)
        for i, index in enumerate(np.flatnonzero(np.asarray(labels) == c)[:across]):
            style.place(axes, images[index], x + i, y + 0.28)
    return figure


@style.styled
def class_balance(counts: Mapping[str, Mapping[str, int]]) -> Figure:
    """{split: {class: images}}: a panel per split, each with an axis of its own, for only shapes
    compare."""
    names = list(next(iter(counts.values())))
    height = min(11.0, 0.4 + 0.24 * len(names))
    figure, [panels] = style.figure_of(height + 0.8, "Images per class", len(counts))
    for axes, (split, of_class) in zip(panels, counts.items(), strict=True):
        values = [of_class[name] for name in names]
        style.class_bars(axes, values, "{:,.0f}", color=style.BLUE)
        axes.set(xlim=(0, 1.22 * max(1, *values)), title=f"{split}: {sum(values):,}")
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        style.name_ticks(axes.yaxis, names if axes is panels[0] else [""] * len(names), height)
    return figure
