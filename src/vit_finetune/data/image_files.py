"""Image files: found in a folder, opened upright in RGB, fitted to a square."""

from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

UNREADABLE = (OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError)  # what Pillow raises
PAD = (127, 127, 127)


def open_image(source: str | Path | IO[bytes]) -> Image.Image:
    """An image file as upright RGB: rotated as its EXIF says, transparency over white, 16 bits down to 8.

    Raises:
        OSError, SyntaxError, ValueError, RuntimeError, DecompressionBombError: it is no image that can be read whole.
    """
    with Image.open(source) as file:
        image = ImageOps.exif_transpose(file)
        if image.mode.startswith("I"):
            grey = np.asarray(image)
            image = Image.fromarray((grey >> (8 if grey.max(initial=0) > 255 else 0)).clip(0, 255).astype(np.uint8))
        if image.has_transparency_data:
            layer = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
        return image.convert("RGB")


def fit_image(image: Image.Image, size: tuple[int, int], fit: str) -> NDArray[np.uint8]:
    """An RGB image in another size (height, width), by `crop`, `pad` or `squash` -> uint8 (height, width, 3)."""
    target, bicubic = (size[1], size[0]), Image.Resampling.BICUBIC
    if fit == "crop":
        fitted = ImageOps.fit(image, target, bicubic)
    else:
        fitted = image.resize(target, bicubic) if fit == "squash" else ImageOps.pad(image, target, bicubic, PAD)
    return np.asarray(fitted)


def image_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files below a folder whose names are those of images, and the others, each in order; hidden ones are neither."""
    known = Image.registered_extensions()
    shown = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    images = [path for path in shown if path.suffix.lower() in known]
    return images, [path for path in shown if path.suffix.lower() not in known]
