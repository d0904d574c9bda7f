"""Nearest images by features, and which of them are near-copies by their pixels.

N images of all parts, D features.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Resampling
from sklearn.neighbors import NearestNeighbors

Floats = NDArray[np.float32]
Rows = NDArray[np.intp]
Pixels = NDArray[np.uint8]

NEAREST = 5  # images of each part that are compared by their pixels
SIDE = 16  # pixels of the thumbnails that are compared
SHIFT = 1  # pixels by which one of them may be moved: a cut of 6 % at a border
COARSE = 8  # pixels of smaller thumbnails, which tell what is worth a look
ALIKE = 0.5  # the smallest correlation of near-copies
GAIN = 0.25  # correlation that shifts and larger thumbnails can add to that of these
AT_ONCE = 4096  # pairs in memory
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
        score: 1 minus the geometric mean of two distances, (P,); 1 for a copy. That of the features
            is relative to `typical_distance`, that of the pixels is 1 - correlation where they fit
            best.
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


def typical_distance(nearest: Nearest) -> float:
    """Median distance of an image to the last of its nearest: how far apart features are that are
    merely alike."""
    return float(np.median(nearest.distance[:, -1])) + 1e-12


def find_copies(
    images: Sequence[Pixels], nearest: Sequence[Nearest], typical: float, least: float
) -> Copies:
    """The pairs of nearest images whose score is at least `least`.

    Args:
        images: of each part, (N_part, H, W, 3), in the order of the rows.
        nearest: of all images, among each part.
        typical: `typical_distance`.
    """
    small = thumbnails(images)
    first, second, distance = _pairs(nearest)
    with np.errstate(divide="ignore"):
        needed = np.maximum(ALIKE, 1 - (1 - least) ** 2 * typical / distance)
    promising = coarse_correlation(small, first, second) >= needed - GAIN
    first, second, distance = first[promising], second[promising], distance[promising]
    correlation = np.empty(len(first), dtype=np.float32)
    mirrored = np.empty(len(first), dtype=bool)
    for start in range(0, len(first), AT_ONCE):
        chunk = slice(start, start + AT_ONCE)
        a = small[first[chunk]]
        b = small[second[chunk]]
        plain = best_correlation(a, b)
        flipped = best_correlation(a, b[:, :, ::-1])
        mirrored[chunk] = flipped > plain
        correlation[chunk] = np.maximum(plain, flipped)
    score = 1 - np.sqrt(np.clip(distance / typical * (1 - correlation), 0, None))
    alike = (score >= least) & (correlation >= ALIKE)
    return Copies(
        first=first[alike],
        second=second[alike],
        distance=distance[alike],
        score=score[alike],
        mirrored=mirrored[alike],
    )


def coarse_correlation(small: Pixels, first: Rows, second: Rows) -> Floats:
    """Correlation of pairs of thumbnails (N, SIDE, SIDE, 3), reduced and in place, as they are or
    mirrored, (P,)."""
    step = SIDE // COARSE
    coarse = small.reshape(-1, COARSE, step, COARSE, step, 3).mean(axis=(2, 4), dtype=np.float32)
    plain = _normalised(coarse)
    flipped = _normalised(coarse[:, :, ::-1])
    correlation = np.empty(len(first), dtype=np.float32)
    for start in range(0, len(first), AT_ONCE):
        chunk = slice(start, start + AT_ONCE)
        a = plain[first[chunk]]
        as_it_is = np.einsum("ni,ni->n", a, plain[second[chunk]])
        mirrored = np.einsum("ni,ni->n", a, flipped[second[chunk]])
        correlation[chunk] = np.maximum(as_it_is, mirrored)
    return correlation


def _pairs(nearest: Sequence[Nearest]) -> tuple[Rows, Rows, Floats]:
    """Rows of images of which one is near the other, each pair once, and the distance of their
    features."""
    rows = np.concatenate([found.rows for found in nearest], axis=1)
    distance = np.concatenate([found.distance for found in nearest], axis=1)
    image = np.arange(len(rows))[:, None]
    # a pair as one number, which sorts faster than two
    numbers = np.minimum(image, rows) * len(rows) + np.maximum(image, rows)
    unique, place = np.unique(numbers, return_index=True)
    return unique // len(rows), unique % len(rows), distance.ravel()[place]


def thumbnails(images: Sequence[Pixels]) -> Pixels:
    """All images (N_part, H, W, 3) of the parts, reduced: (N, SIDE, SIDE, 3)."""
    small = np.empty((sum(map(len, images)), SIDE, SIDE, 3), dtype=np.uint8)
    row = 0
    for part in images:
        for image in part:
            reduced = Image.fromarray(np.asarray(image)).resize((SIDE, SIDE), Resampling.BOX)
            small[row] = np.asarray(reduced)
            row += 1
    return small


def best_correlation(a: Pixels, b: Pixels) -> Floats:
    """Largest correlation of two thumbnails (n, SIDE, SIDE, 3) over small shifts, (n,).

    Brightness and colour cast do not count: each channel is centred.
    """
    best = np.full(len(a), -1, dtype=np.float32)
    shifts = range(-SHIFT, SHIFT + 1)
    for down, right in itertools.product(shifts, shifts):
        moved = _normalised(a[:, _inside(down), _inside(right)])
        other = _normalised(b[:, _inside(-down), _inside(-right)])
        best = np.maximum(best, np.einsum("ni,ni->n", moved, other))
    return best


def _inside(shift: int) -> slice:
    """What stays of a side when it is moved by a shift."""
    return slice(max(0, shift), SIDE + min(0, shift))


def _normalised(pixels: NDArray[Any]) -> Floats:
    """Each image (n, h, w, 3) as a vector of length 1 whose channels have the mean 0, so that
    products are correlations. All images without contrast are alike."""
    values = pixels.astype(np.float32)
    values -= values.mean(axis=(1, 2), keepdims=True)
    vectors = values.reshape(len(values), -1)
    vectors = np.concatenate([vectors, np.full((len(vectors), 1), 1e-3)], axis=1, dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def is_far(distance: Floats) -> NDArray[np.bool_]:
    """Which distances (N,) are much larger than most."""
    lower, upper = np.quantile(distance, [0.25, 0.75])
    return distance > upper + FAR * (upper - lower)
