"""Nearest images by features, and which of them are near-copies by their pixels.

N images of all parts, D features.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
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
FARTHER = 20  # rank of a neighbour that is no copy, where the fifth is one
SAMPLE = 5000  # images that tell how alike images of a data set are
LEAST_SPREAD = 0.5  # so that few images cannot seem to be all equally alike
SIDE = 16  # pixels of the thumbnails that are compared
SHIFT = 1  # pixels by which one of them may be moved: a cut of 6 % at a border
COARSE = 8  # pixels of smaller thumbnails, which tell what is worth a look
ALIKE = 0.5  # the smallest correlation of near-copies
GAIN = 0.25  # correlation that shifts and larger thumbnails can add to that of these
AT_ONCE = 4096  # pairs in memory
FAR = 1.5  # interquartile ranges above the upper quartile (Tukey 1977)
MOST_FAR = 0.01  # of the images: where most are very alike, many are far by Tukey's rule


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
        score: `Typical.score`, (P,); 1 for a copy.
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


@dataclass(frozen=True)
class Typical:
    """How far apart images of a data set are that are merely alike.

    The distance of two images is the product of that of their features, 1 - cosine, and that of
    their pixels, 1 - correlation where they fit best.

    Attributes:
        distance: of an image and one of its nearest, the median.
        spread: twice the distance from the median to the upper quartile of its logarithm. Copies,
            and few images that are very alike, are in the lower half.
    """

    distance: float
    spread: float

    @classmethod
    def of(cls, distances: Floats) -> "Typical":
        logarithms = np.log(distances + 1e-12)
        middle, upper = np.quantile(logarithms, [0.5, 0.75])
        return cls(float(np.exp(middle)), max(LEAST_SPREAD, 2 * float(upper - middle)))

    def score(self, distance: Floats | float) -> Any:
        """1 for a copy, 0 for an image that is merely alike. The farther apart the distances of a
        data set are, the smaller must one be to mean a copy."""
        return 1 - (distance / self.distance) ** (0.5 / self.spread)

    def largest(self, score: float) -> float:
        """The largest distance with at least this score."""
        return self.distance * (1 - score) ** (2 * self.spread)


def typical_of(vectors: Floats, small: Pixels, least: float) -> Typical:
    """From images (N, ...) of one part: the distance to the fifth neighbour.

    Where the fifth neighbour is mostly a near-copy, with a score of at least `least` against the
    20th, the images come in sets of copies, such as frames of films. Then the 20th counts.

    Args:
        vectors: as of `nearest_images`, (N, D).
        small: `thumbnails`, (N, SIDE, SIDE, 3).
    """
    last = len(vectors) - 1
    sample = np.unique(np.linspace(0, last, SAMPLE).astype(int))
    # one more, for each image is the nearest of itself
    count = min(FARTHER, last) + 1
    search = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(vectors)
    distances, rows = search.kneighbors(vectors[sample])
    typical = []
    for rank in (min(NEAREST, last), min(FARTHER, last)):
        of_features = np.square(distances[:, rank]) / 2
        correlation, _ = similarity(small[sample], small[rows[:, rank]])
        typical.append(Typical.of(of_features * (1 - correlation)))
    near, farther = typical
    return farther if farther.score(near.distance) >= least else near


def find_copies(
    small: Pixels, nearest: Sequence[Nearest], typical: Typical, least: float
) -> Copies:
    """The pairs of nearest images whose score is at least `least`.

    Args:
        small: `thumbnails` of all images.
        nearest: of all images, among each part.
    """
    first, second, distance = _pairs(nearest)
    with np.errstate(divide="ignore", invalid="ignore"):
        needed = np.fmax(ALIKE, 1 - typical.largest(least) / distance)  # 0 / 0 is no obstacle
    promising = coarse_correlation(small, first, second) >= needed - GAIN
    first = first[promising]
    second = second[promising]
    distance = distance[promising]
    correlation = np.empty(len(first), dtype=np.float32)
    mirrored = np.empty(len(first), dtype=bool)
    for start in range(0, len(first), AT_ONCE):
        chunk = slice(start, start + AT_ONCE)
        correlation[chunk], mirrored[chunk] = similarity(small[first[chunk]], small[second[chunk]])
    score = typical.score(np.clip(distance * (1 - correlation), 0, None))
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


def similarity(a: Pixels, b: Pixels) -> tuple[Floats, NDArray[np.bool_]]:
    """`best_correlation` of two thumbnails (n, SIDE, SIDE, 3), as they are or with one mirrored,
    and whether that is the better, (n,)."""
    plain = best_correlation(a, b)
    flipped = best_correlation(a, b[:, :, ::-1])
    return np.maximum(plain, flipped), flipped > plain


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
    """Which distances (N,) are much larger than most: at most MOST_FAR of them."""
    lower, upper, largest = np.quantile(distance, [0.25, 0.75, 1 - MOST_FAR])
    return distance > max(upper + FAR * (upper - lower), largest)
