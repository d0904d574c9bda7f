"""Images of two parts and their features, made up."""

import numpy as np

from vit_finetune.core.arrays import encode_names
from vit_finetune.review.suspects import PARTS, Images

CLASSES = ("cat", "dog", "owl")
SIDE = 24


def textures(count, seed=0):
    """Smooth random images (N, SIDE, SIDE, 3), of which no two are alike."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return coarse.repeat(SIDE // 6, axis=1).repeat(SIDE // 6, axis=2)


def clusters(labels, seed=0, size=8, spread=0.35):
    """Features (N, size) around a direction for each class."""
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(np.random.default_rng(99).normal(size=(size, size)))[0][: len(CLASSES)]
    return (centres[labels] + spread * rng.normal(size=(len(labels), size))).astype(np.float32)


def made_up(counts=(12, 9, 30), labels=None, **replaced):
    """Images of the parts test, val and train, as many as `counts`; without anything to find but
    what is `replaced`."""
    total = sum(counts)
    if labels is None:
        labels = np.arange(total) % len(CLASSES)
    part = np.repeat(np.arange(len(PARTS)), counts)
    columns = {
        "name": "folder",
        "classes": CLASSES,
        "pixels": np.split(textures(total), np.cumsum(counts)[:-1]),
        "part": part,
        "labels": labels,
        "files": encode_names(f"{PARTS[p]}/{row}" for row, p in enumerate(part)),
        "groups": np.arange(total),
        "pretrained": clusters(labels[counts[0] :], seed=1),
        "features": clusters(labels, seed=2),
    }
    return Images(**columns | replaced)
