"""Nearest images by features, and which of them are near-copies by their pixels.

N images of all parts, D features.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.neighbors import NearestNeighbors

Floats = NDArray[np.float32]
Rows = NDArray[np.intp]
Pixels = NDArray[np.uint8]

NEAREST = 5  # images of each part that are compared by their pixels
SIDE = 16  # pixels of the thumbnails that are compared
SHIFT = 1  # pixels by which one of them may be moved: a cut of 6 % at a border
DISTANCE_WEIGHT = 4.0  # of the features against the pixels: docs/benchmarks.md
AT_ONCE = 4096  # pairs of thumbnails in memory
FAR = 1.5  # interquartile ranges above the upper quartile (Tukey 1977)


class Nearest(NamedTuple):
    """The nearest images of each image, the nearest first.

    Attributes:
        rows: (N, n).
        distance: of the features, 1 - cosine, (N, n).
    """

    rows: Rows
    distance: Floats


class Copies(NamedTuple):
    """Pairs of near-copies, each once.

    Attributes:
        first, second: rows of the images, first < second, (P,).
        distance: of their features, 1 - cosine, (P,).
        score: correlation of the pixels, where they fit best, minus DISTANCE_WEIGHT times the
            distance, (P,); 1 for a copy.
        mirrored: whether they fit best when one is mirrored, (P,).
    """

    first: Rows
    second: Rows
    distance: Floats
    score: Floats
    mirrored: NDArray[np.bool_]


def directions(features: Floats, centre: Floats) -> Floats:
    """Features (N, D) from a centre (D,), with length 1."""
    moved = features - centre
    return moved / (np.linalg.norm(moved, axis=1, keepdims=True) + 1e-12)


def nearest_images(vectors: Floats, among: range, count: int) -> Nearest:
    """The nearest images of one part; no image is its own neighbour.

    Args:
        vectors: of all images, of length 1, (N, D).
        among: rows of the part.
        count: at most so many of them.
    """
    part = vectors[among.start : among.stop]
    count = min(count, len(part) - 1)
    # one more, for an image of the part is the nearest of itself
    search = NearestNeighbors(n_neighbors=count + 1, algorithm="brute").fit(part)
    distances, rows = search.kneighbors(vectors)
    rows = rows + among.start
    is_other = rows != np.arange(len(vectors))[:, None]
    # of an image outside of the part, or with more copies than neighbours, the last is too many
    is_other[is_other.all(axis=1), -1] = False
    shape = (len(vectors), count)
    # of vectors of length 1, from their Euclidean distance
    distance = (np.square(distances[is_other]) / 2).astype(np.float32)
    return Nearest(rows[is_other].reshape(shape), distance.reshape(shape))


def find_copies(images: Sequence[Pixels], nearest: Sequence[Nearest], least: float) -> Copies:
    """The pairs of nearest images whose score is at least `least`.

    Args:
        images: of each part, (N_part, H, W, 3), in the order of the rows.
        nearest: of all images, among each part.
    """
    first, second, distance = _near_pairs(nearest, (1 - least) / DISTANCE_WEIGHT)
    needed, place = np.unique(np.concatenate([first, second]), return_inverse=True)
    small = thumbnails(images, needed)
    correlation = np.empty(len(first), dtype=np.float32)
    mirrored = np.empty(len(first), dtype=bool)
    for start in range(0, len(first), AT_ONCE):
        chunk = slice(start, min(start + AT_ONCE, len(first)))
        a = small[place[: len(first)][chunk]]
        b = small[place[len(first) :][chunk]]
        plain = best_correlation(a, b)
        flipped = best_correlation(a, b[:, :, ::-1])
        mirrored[chunk] = flipped > plain
        correlation[chunk] = np.maximum(plain, flipped)
    score = correlation - np.float32(DISTANCE_WEIGHT) * distance
    alike = score >= least
    return Copies(*(column[alike] for column in (first, second, distance, score, mirrored)))


def _near_pairs(nearest: Sequence[Nearest], farthest: float) -> tuple[Rows, Rows, Floats]:
    """Rows of pairs of images, each pair once, and the distance of their features."""
    rows = np.concatenate([found.rows for found in nearest], axis=1)
    distance = np.concatenate([found.distance for found in nearest], axis=1)
    image, place = np.nonzero(distance <= farthest)
    pairs = np.sort(np.stack([image, rows[image, place]]), axis=0)
    unique, where = np.unique(pairs, axis=1, return_index=True)
    return unique[0], unique[1], distance[image, place][where]


def thumbnails(images: Sequence[Pixels], rows: Rows) -> Pixels:
    """The images of some rows, (n, SIDE, SIDE, 3)."""
    ends = np.cumsum([len(part) for part in images])
    small = np.empty((len(rows), SIDE, SIDE, 3), dtype=np.uint8)
    for place, row in enumerate(rows):
        part = int(np.searchsorted(ends, row, side="right"))
        image = images[part][row - ends[part]]  # from the end of its part
        reduced = Image.fromarray(np.asarray(image)).resize((SIDE, SIDE), Image.Resampling.BOX)
        small[place] = np.asarray(reduced)
    return small


def best_correlation(a: Pixels, b: Pixels) -> Floats:
    """Largest correlation of two thumbnails (n, SIDE, SIDE, 3) over small shifts, (n,).

    Brightness and colour cast do not count: each channel is centred.
    """
    best = np.full(len(a), -1, dtype=np.float32)
    shifts = range(-SHIFT, SHIFT + 1)
    for down in shifts:
        for right in shifts:
            moved = _centred(a[:, _inside(down), _inside(right)])
            other = _centred(b[:, _inside(-down), _inside(-right)])
            product = np.einsum("ni,ni->n", moved, other)
            lengths = np.linalg.norm(moved, axis=1) * np.linalg.norm(other, axis=1)
            best = np.maximum(best, (product + 1e-6) / (lengths + 1e-6))
    return best


def _inside(shift: int) -> slice:
    """What stays of a side when it is moved by a shift."""
    return slice(max(0, shift), SIDE + min(0, shift))


def _centred(pixels: Pixels) -> Floats:
    values = pixels.astype(np.float32)
    return (values - values.mean(axis=(1, 2), keepdims=True)).reshape(len(values), -1)


def is_far(distance: Floats) -> NDArray[np.bool_]:
    """Which distances (N,) are much larger than most."""
    lower, upper = np.quantile(distance, [0.25, 0.75])
    return distance > upper + FAR * (upper - lower)
