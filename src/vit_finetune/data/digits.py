"""scikit-learn's handwritten digits."""

import numpy as np

from vit_finetune.data.source import ArraySource


def load_digits() -> ArraySource:
    """scikit-learn's handwritten digits (UCI, Alpaydin & Kaynak 1998): 8x8 grey images in 17
    levels.

    They come as one set. Every second image of a class is the test part, so both parts hold the
    classes in proportion and neither depends on a seed.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    labels = bunch.target.astype(np.int64)
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=-1)
    rank = np.empty_like(labels)  # position of an image within its class
    for label in np.unique(labels):
        rank[labels == label] = np.arange((labels == label).sum())
    part = {"train": rank % 2 == 0, "test": rank % 2 == 1}
    return ArraySource(
        classes=[str(name) for name in bunch.target_names],
        images={split: images[chosen] for split, chosen in part.items()},
        labels={split: labels[chosen] for split, chosen in part.items()},
    )
