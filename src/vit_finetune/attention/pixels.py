"""Where the patches of the model's input lie on the original image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vit_finetune.model.preprocessing import Preprocessing


def spotlight(
    image: npt.NDArray[np.uint8], painted: npt.NDArray[Any], top: float | None = None
) -> npt.NDArray[np.uint8]:
    """The image, bright where a map (H, W) is high and dimmed where it is low, negative or NaN ->
    (H, W, 3).

    What is `top` or more is drawn as bright as the image: by default the map's 97th percentile, so
    that a few attention sinks do not dim all others. The square root keeps the object recognisable.

    Args:
        image: (h, w, 3); its pixels are enlarged to the size of the map where that is larger.
    """
    rows, columns = (
        np.arange(size) * side // size
        for size, side in zip(painted.shape, image.shape[:2], strict=True)
    )
    values = np.nan_to_num(np.clip(painted, 0, None))
    top = bright_end(painted) if top is None else top
    share = 0.2 + 0.8 * np.sqrt(np.clip(values / (top or 1.0), 0, 1))
    return np.asarray(np.rint(image[np.ix_(rows, columns)] * share[..., None]), dtype=np.uint8)


def bright_end(painted: npt.NDArray[Any]) -> float:
    """The 97th percentile of the finite values of maps, or where that is not above 0 the
    largest."""
    values = painted[np.isfinite(painted)]
    if not len(values):
        return 0.0
    top = float(np.percentile(values, 97))
    return top if top > 0 else float(values.max())


@dataclass(frozen=True)
class PixelGrid:
    """Where the patches lie on the original: resized to `resized`, centre-cropped to `crop`, cut
    into `grid`.

    All (height, width) in pixels, the grid in patches. Offsets are those of torchvision's
    center_crop, which pads where the crop is larger. ValueError if the grid does not divide the
    crop.
    """

    image: tuple[int, int]
    resized: tuple[int, int]
    crop: tuple[int, int]
    grid: tuple[int, int]

    @classmethod
    def of(
        cls, image: tuple[int, ...], preprocess: Preprocessing, grid: tuple[int, int]
    ) -> "PixelGrid":
        """For images (height, width, ...) that reach the model by this preprocessing."""
        height, width = image[:2]
        return cls((height, width), preprocess.resized(height, width), preprocess.input_size, grid)

    def __post_init__(self) -> None:
        if any(side % count for side, count in zip(self.crop, self.grid, strict=True)):
            raise ValueError(
                f"a crop of {self.crop} pixels cannot be cut into {self.grid} equal patches"
            )

    def _offset(self, axis: int) -> int:
        spare = self.resized[axis] - self.crop[axis]
        return round(spare / 2) if spare >= 0 else -(-spare // 2)

    def boxes(self) -> npt.NDArray[np.float64]:
        """(G_h, G_w, 4): top, left, bottom, right of each patch in original pixels, edges not
        rounded."""
        edges = [
            (self._offset(i) + np.arange(self.grid[i] + 1) * (self.crop[i] // self.grid[i]))
            * (self.image[i] / self.resized[i])
            for i in (0, 1)
        ]
        top, left = np.meshgrid(edges[0][:-1], edges[1][:-1], indexing="ij")
        bottom, right = np.meshgrid(edges[0][1:], edges[1][1:], indexing="ij")
        return np.stack([top, left, bottom, right], axis=-1)

    def _patch_of_pixel(self, axis: int, size: int) -> npt.NDArray[np.int64]:
        """Row (or column) of the patch in which each pixel's centre lies, on a canvas of `size`
        pixels.

        In whole numbers: the centre (i + 1/2) * resized / size must not slip over an edge by
            rounding.
        """
        centre = (2 * np.arange(size) + 1) * self.resized[axis] - 2 * size * self._offset(axis)
        return np.asarray(
            centre // (2 * size * (self.crop[axis] // self.grid[axis])), dtype=np.int64
        )

    def paint(
        self,
        patch_map: npt.NDArray[Any],
        size: Sequence[int] | None = None,
        content: Sequence[int] | npt.NDArray[Any] | None = None,
    ) -> npt.NDArray[np.float64]:
        """(G_h, G_w) -> the whole image (height, width), each pixel its patch's value, NaN outside
        the crop.

        Nearest patch, no invented smoothness. `size` defaults to the original image; on a canvas of
        size `resized`, or a multiple of it, every patch is its exact rectangle (after 32 -> 224 a
        patch of 16 covers 2.29 original pixels). Outside `content`, a box of the original image
        (top, left, bottom, right), it is NaN as well: bars that were added are no image. ValueError
            if the map is not of the grid's shape.
        """
        if patch_map.shape != self.grid:
            raise ValueError(f"the map is {patch_map.shape}, the grid {self.grid}")
        size = self.image if size is None else size
        rows, columns = (self._patch_of_pixel(axis, size[axis]) for axis in (0, 1))
        inside = np.ix_(
            np.flatnonzero((rows >= 0) & (rows < self.grid[0])),
            np.flatnonzero((columns >= 0) & (columns < self.grid[1])),
        )
        canvas = np.full(tuple(size), np.nan)
        canvas[inside] = patch_map[np.ix_(rows[inside[0].ravel()], columns[inside[1].ravel()])]
        if content is not None:
            top, left, bottom, right = content
            down, across = (
                (np.arange(size[axis]) + 0.5) * self.image[axis] / size[axis] for axis in (0, 1)
            )
            canvas[(down < top) | (down > bottom)] = np.nan
            canvas[:, (across < left) | (across > right)] = np.nan
        return canvas
