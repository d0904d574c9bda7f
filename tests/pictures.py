"""What the tests of figures share: small images, and what a drawn figure says and shows."""

import warnings

import numpy as np
from matplotlib.text import Text
from sklearn.datasets import load_digits

from vit_finetune.style import WIDTH

CLASSES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_DIGITS = load_digits()
# (300, 8, 8, 3)
IMAGES = np.repeat((_DIGITS.images[:300] * 15.9).astype(np.uint8)[..., None], 3, axis=3)
LABELS = _DIGITS.target[:300]


def class_names(k):
    """Names that are hard to draw: long, and with what TeX would read as its own."""
    return [f"class number {c} $x_" for c in range(k)]


def probabilities(labels, k, seed=0):
    """Random rows (N, k) in which the true class is mostly the likeliest."""
    odds = np.exp(np.random.default_rng(seed).normal(size=(len(labels), k)) + 2 * np.eye(k)[labels])
    return odds / odds.sum(axis=1, keepdims=True)


def assert_draws(figure):
    """The figure is drawn without a warning, 8 inches wide and not too high for a page."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.draw_without_rendering()
    assert figure.get_size_inches()[0] == WIDTH
    assert figure.get_size_inches()[1] < 14


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def centre(image):
    """Where the middle of a drawn image lies, (x, y) in units of its axes."""
    left, right, bottom, top = image.get_extent()
    return (left + right) / 2, (bottom + top) / 2
