"""Pictures of training: arrays in, a matplotlib Figure out."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vit_finetune import style
from vit_finetune.style import Rows


@style.styled
def training_curves(history: Rows, title: str) -> Figure:
    """Rows with epoch, train_loss, val_loss, train_accuracy, val_accuracy and lr: numbers, or the
    texts of a CSV."""
    column = {key: np.array([float(row[key]) for row in history]) for key in history[0]}
    figure, [panels] = style.figure_of(2.9, title, 3)
    best = column["epoch"][np.lexsort((-column["val_loss"], column["val_accuracy"]))[-1]]
    for ax, what, title in zip(
        panels, ("loss", "accuracy", "lr"), ("loss", "accuracy", "learning rate"), strict=True
    ):
        keys = [key for key in (f"train_{what}", f"val_{what}", what) if key in column]
        ax.axvline(best, color=style.VERMILION, linewidth=1, linestyle=":", label="best epoch")
        for key, colour, marker in zip(keys, (style.QUIET, style.BLUE), "so", strict=False):
            ax.plot(
                column["epoch"], column[key], color=colour, marker=marker, label=key.split("_")[0]
            )
        top = max(column[key].max() for key in keys)
        ax.set(
            title=title, xlabel="epoch", ylim=(None, 1) if what == "accuracy" else (0, 1.08 * top)
        )
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    panels[2].yaxis.set_major_formatter("{x:g}")
    panels[0].legend()
    return figure
