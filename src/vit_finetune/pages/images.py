"""Images as files that a page holds."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def jpeg(image: Pixels) -> bytes:
    """An image (H, W, 3) as a file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=88)
    return buffer.getvalue()


def thumbnail(image: Pixels, longest: int) -> bytes:
    """An image (H, W, 3) as a file, reduced if a side is longer than so many pixels."""
    reduced = Image.fromarray(image)
    reduced.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return jpeg(np.asarray(reduced))
