"""A trained model that reads images as it was trained on them, predicts, and draws maps."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vit_finetune.core.device import set_up_torch
from vit_finetune.core.errors import UserError
from vit_finetune.data.image_files import around_crop, content_boxes, fit_image, open_image
from vit_finetune.model.build import preprocessing
from vit_finetune.model.saved import load_model, trained_config

DEFAULT_MAP = "relevance"

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Photograph:
    """An image that was read.

    Attributes:
        pixels: (H, W, 3), in the size of the training images.
        shown: (H', W', 3), the larger image on which a map is drawn, with what a crop cuts away;
            None if no map is drawn.
        crop: top and left in `shown` of what the model gets.
        content: top, left, bottom and right in what the model gets, without bars.
        actual: the class whose folder it lies in, where there is one.
    """

    name: str
    pixels: Pixels
    shown: Pixels | None
    crop: tuple[int, int] = (0, 0)
    content: NDArray[np.int32] | None = None
    actual: str | None = None


class Predictor:
    """A fine-tuned model, and what its folder records of its classes and training images."""

    def __init__(self, folder: Path, device: str) -> None:
        self.device = set_up_torch(device, None, key="--device")
        config = trained_config(folder)
        self.classes: list[str] = config["label_names"]
        self.source: dict[str, Any] = config["trained_on"]
        self.model = load_model(folder).to(self.device)
        self.preprocess = preprocessing(self.model, None)

    def read(self, name: str, source: Path | io.BytesIO, draw: bool) -> Photograph:
        """One image, reduced at once to the sizes that are needed: whole photographs are a hundred
        times as large."""
        image = open_image(source)
        size = self.source["image_size"]
        fit = self.source["fit"]
        larger = self.preprocess.resized(*size)
        shown = None
        crop = (0, 0)
        if draw and fit == "crop":
            shown, crop = around_crop(image, larger)
        elif draw:
            shown = fit_image(image, larger, fit)
        content = content_boxes(np.array([image.size[::-1]]), larger, fit)[0]
        return Photograph(name, fit_image(image, size, fit), shown, crop, content)

    def pixels(self, images: Sequence[Pixels]) -> torch.Tensor:
        """Images (H, W, 3) in the size of the training images -> the model's input (B, 3, h, w)."""
        return self.preprocess(torch.from_numpy(np.stack(images)).to(self.device))

    @torch.inference_mode()
    def probabilities(self, images: Sequence[Pixels]) -> torch.Tensor:
        """(B, K), on the CPU."""
        return self.model(self.pixels(images)).softmax(dim=1).cpu()

    def class_index(self, option: str, name: str | None) -> int | None:
        """The index of a class; None for None. UserError, with the option, for an unknown name."""
        if name is None:
            return None
        if name not in self.classes:
            raise UserError(
                f"{option} is {name}, which is no class of the model; use one of: "
                f"{', '.join(self.classes)}"
            )
        return self.classes.index(name)

    def paint_map(
        self, photograph: Photograph, method: str, label: int, against: int | None
    ) -> NDArray[np.float64]:
        """A map on the pixels of `photograph.shown`, (H', W'): how much each speaks for the class
        `label`. NaN on what was cut away and on bars.

        With `against`, a second class, values are signed: above 0 speaks for the first, below 0 for
        the second.
        """
        from vit_finetune.attention.maps import MapMaker
        from vit_finetune.attention.pixels import PixelGrid

        assert photograph.shown is not None
        maker = MapMaker(self.model)
        pixels = self.pixels([photograph.pixels])
        other = None if against is None else torch.tensor([against])
        patch_map = maker.maps(pixels, torch.tensor([label]), other, methods=[method])[method][0]

        size = self.preprocess.resized(*photograph.pixels.shape[:2])
        grid = PixelGrid(size, size, self.preprocess.input_size, maker.layout.grid)
        top, left = photograph.crop
        height, width = size
        painted = np.full(photograph.shown.shape[:2], np.nan)
        painted[top : top + height, left : left + width] = grid.paint(
            patch_map.numpy(), content=photograph.content
        )
        return painted

    def draw_map(
        self,
        photograph: Photograph,
        painted: NDArray[np.float64],
        label: int,
        against: int | None,
        title: str,
    ) -> bytes:
        """A PNG of the image and of a map of it, from `paint_map`. The title is for one class; two
        are named in the picture."""
        from vit_finetune.attention.figures import contrast, overlay
        from vit_finetune.style import png

        assert photograph.shown is not None
        if against is None:
            return png(overlay(photograph.shown, painted, title))
        return png(contrast(photograph.shown, painted, self.classes[label], self.classes[against]))
