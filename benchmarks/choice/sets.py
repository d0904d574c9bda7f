"""The data sets of the comparison.

A seed draws the training and validation images of a set. Its test images never depend on the seed,
so that differences are paired by image; they have the class proportions of the training images.
"""

import functools
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from images import TEXTURES, glyph_images, load_fonts, texture_images
from in_process import ROOT

from vit_finetune.data.cifar import load_cifar
from vit_finetune.data.digits import load_digits
from vit_finetune.data.split import train_val_test
from vit_finetune.params import read_yaml

DEMO = read_yaml(ROOT / "profiles/demo.yaml")  # the small ViT of pretrained/glyph-vit
LETTER_FONTS = ("cmss10", "cmmi10", "cmti10")  # the small ViT was pretrained on others
SYMBOL_FONTS = (  # those that have every one of SYMBOLS
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "STIXGeneral",
)
SYMBOLS = (
    "αβγδεζηθικλμνξοπρστυφχψωΓΔΘΛΞΠΣΦΨΩбвджзийлптфцчшщъыьэюяБГДЖИЛЦЧШЭЮЯ"
    "←↑→↓↔↕⇐⇒⇑⇓∀∂∃∅∇∈∉∏∑√∞∩∪∫≈≠≤≥♠♣♥♦★"
)
CIFAR = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
UNEQUAL = (100, 85, 70, 60, 50, 40, 30, 20, 15, 10)  # training images of each class


@dataclass(frozen=True)
class DataSet:
    """Attributes:
    draw: seed -> (images (N, H, W, 3) uint8, labels (N,)) of train, val and test.
    classes: their names.
    changes: of params.yaml.
    """

    draw: Callable[[int], dict[str, Any]]
    classes: list[str]
    changes: dict[str, Any] = field(default_factory=dict)


def choose_rows(labels, counts, rng):
    """Sorted rows of so many images of each class, and the other rows."""
    order = rng.permutation(len(labels))
    by_class = [order[labels[order] == label][:count] for label, count in enumerate(counts)]
    rows = np.concatenate(by_class)
    if len(rows) != sum(counts):
        raise ValueError(f"a class has fewer images than {counts}")
    return np.sort(rows), np.setdiff1d(np.arange(len(labels)), rows)


def split(pool, test, train, val, seed):
    """`train` images of each class, and `val` others, from a pool; the test images as they are."""
    images, labels = pool
    rng = np.random.default_rng([seed, 77])
    rows, others = choose_rows(labels, train, rng)
    val_rows = others[choose_rows(labels[others], val, rng)[0]]
    return {
        "train": (images[rows], labels[rows]),
        "val": (images[val_rows], labels[val_rows]),
        "test": test,
    }


def demo(seed):
    """As `make demo` draws them."""
    data = load_digits()
    drawn = train_val_test(data.labels, train_size=700, val_size=200, test_size="all", seed=seed)
    splits = {}
    for name, rows in drawn.items():
        part = "test" if name == "test" else "train"
        splits[name] = data.images[part][rows], data.labels[part][rows]
    return splits


def digits(train, val, seed):
    data = load_digits()
    pool = data.images["train"], data.labels["train"]
    test = data.images["test"], data.labels["test"]
    return split(pool, test, train, val, seed)


def digits_unequal(seed):
    """Three classes of 80, 60 and 20 training images: 0 6 8 9, 2 3 5, and 1."""
    data = load_digits()
    class_of = np.array([0, 2, 1, 1, -1, 1, 0, -1, 0, 0])
    parts = {}
    for name, images in data.images.items():
        labels = class_of[data.labels[name]]
        parts[name] = images[labels >= 0], labels[labels >= 0]
    return split(parts["train"], parts["test"], [80, 60, 20], [40, 30, 10], seed)


@functools.cache
def letter_images():
    fonts = load_fonts(LETTER_FONTS)
    pool = glyph_images(string.ascii_lowercase, fonts, 80, seed=11)
    return pool, glyph_images(string.ascii_lowercase, fonts, 31, seed=12)


@functools.cache
def symbol_images():
    fonts = load_fonts(SYMBOL_FONTS)
    pool = glyph_images(SYMBOLS, fonts, 40, seed=13)
    return pool, glyph_images(SYMBOLS, fonts, 8, seed=14)


@functools.cache
def made_textures():
    return texture_images(100, seed=21), texture_images(60, seed=22)


def letters(seed):
    return split(*letter_images(), [10] * 26, [4] * 26, seed)


def symbols(seed):
    return split(*symbol_images(), [10] * 100, [3] * 100, seed)


def textures(seed):
    return split(*made_textures(), [20] * 10, [8] * 10, seed)


@functools.cache
def cifar10():
    return load_cifar("cifar10")


def cifar(train, val, test, seed, classes=range(10)):
    """So many images of each class, or of some classes, of CIFAR-10."""
    data = cifar10()
    parts = {}
    for name, labels in data.labels.items():
        rows = np.flatnonzero(np.isin(labels, classes))
        parts[name] = data.images[name][rows], np.searchsorted(classes, labels[rows])
    images, labels = parts["test"]
    rows, _ = choose_rows(labels, test, np.random.default_rng(0))
    return split(parts["train"], (images[rows], labels[rows]), train, val, seed)


def cifar_equal(train, val, seed):
    return cifar([train] * 10, [val] * 10, [100] * 10, seed)


def cifar_unequal(seed):
    val = [max(2, count // 4) for count in UNEQUAL]
    test = [2 * count for count in UNEQUAL]
    return cifar(UNEQUAL, val, test, seed)


def cat_dog(seed):
    return cifar([100] * 2, [40] * 2, [500] * 2, seed, classes=[3, 5])


DIGITS = list(string.digits)

SETS = {  # in the order in which they run: the small ViT first, which takes a tenth of the time
    "demo": DataSet(demo, DIGITS, DEMO),
    "digits-60": DataSet(lambda seed: digits([6] * 10, [3] * 10, seed), DIGITS, DEMO),
    "digits-unequal": DataSet(digits_unequal, ["round", "bent", "one"], DEMO),
    "letters-26": DataSet(letters, list(string.ascii_lowercase), DEMO),
    "symbols-100": DataSet(symbols, list(SYMBOLS), DEMO),
    "cifar-100-images": DataSet(lambda seed: cifar_equal(10, 5, seed), list(CIFAR)),
    "textures-10": DataSet(textures, list(TEXTURES)),
    "digits-vit-ti": DataSet(lambda seed: digits([30] * 10, [10] * 10, seed), DIGITS),
    "cat-dog": DataSet(cat_dog, ["cat", "dog"]),
    "cifar-500-images": DataSet(lambda seed: cifar_equal(50, 20, seed), list(CIFAR)),
    "cifar-unequal": DataSet(cifar_unequal, list(CIFAR)),
    "cifar-1000-images": DataSet(lambda seed: cifar_equal(100, 30, seed), list(CIFAR)),
}
