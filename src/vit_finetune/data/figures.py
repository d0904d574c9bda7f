"""Pictures of the images of a subset: arrays in, a matplotlib Figure out."""

import math

import numpy as np
from matplotlib.figure import Figure

from vit_finetune import style
from vit_finetune.style import Array, Names


@style.styled
def sample_grid(images: Array, labels: Array, classes: Names) -> Figure:
    """The first images of every class, as many as there is room for, under its name."""
    strips = min(12, math.ceil(len(classes) / 6))
    across = 12 // strips
    rows = math.ceil(len(classes) / strips)
    figure, axes, inch = style.canvas(strips * (across + 0.1), 1.3 * rows, "Samples of each class")
    names, size = style.fit_texts(classes, 0.94 * across * inch)
    for c, name in enumerate(names):
        x = c % strips * (across + 0.1)
        y = 1.3 * (c // strips)
        axes.text(x, y + 0.22, name, fontsize=size)
        of_class = np.flatnonzero(np.asarray(labels) == c)
        for i, index in enumerate(of_class[:across]):
            style.place(axes, images[index], x + i, y + 0.28)
    return figure
