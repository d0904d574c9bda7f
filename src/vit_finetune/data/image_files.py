"""Image files: found in a folder, opened upright in RGB, fitted to a square."""

import os
import re
import warnings
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

PAD = (127, 127, 127)  # the colour of the bars that `pad` adds
BACKGROUND = (255, 255, 255)  # under what is transparent
DIVISOR = 257  # from 16 bits to 8
# How `open_image` and `fit_image` read an image, for files that record it.
READING = {
    "exif_orientation": "applied",
    "transparency_over": BACKGROUND,
    "grey_of_16_bits_divided_by": DIVISOR,
    "colours": "RGB",
    "fit_interpolation": "bicubic",
    "pad_colour": PAD,
}
LARGEST = "largest of 16 bits"  # key in `info` of an opened image
# Pillow knows the names and reads no pixels
NO_IMAGES = {"PDF", "PALM", "MPEG", "HDF5", "GRIB", "BUFR", "WMF"}
RGB_OF_16_BITS = re.compile(r"RGB[AXa]?;16[LBN]")
UNKNOWN_RANGE = {"I": "a signed or 32-bit integer", "F": "32-bit floating point"}
T = Image.Transpose
TURNS = (
    T.FLIP_LEFT_RIGHT,
    T.ROTATE_180,
    T.FLIP_TOP_BOTTOM,
    T.TRANSPOSE,
    T.ROTATE_270,
    T.TRANSVERSE,
    T.ROTATE_90,
)

warnings.filterwarnings("ignore", module=r"PIL\.")  # they name a line of Pillow and not the file


class UnreadableImageError(Exception):
    """A file is no image that can be read whole, or one of unknown brightness; the text is the
    reason, in one line."""


UNREADABLE = UnreadableImageError


def open_image(source: str | Path | IO[bytes]) -> Image.Image:
    """An image file as upright RGB: rotated as its EXIF says, transparency over white, 16 bits
    divided by 257.

    Of an image with 16 bits, `info[LARGEST]` is the largest of the file's values.

    Raises:
        UnreadableImageError: whatever Pillow raised for the file, except that memory ran out.
    """
    try:
        with Image.open(source) as file:
            return _upright_rgb(file)
    except MemoryError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UNREADABLE(
            reason if " " in reason else f"{type(error).__name__} {reason}".strip()
        ) from error


def _upright_rgb(file: ImageFile.ImageFile) -> Image.Image:
    # Pillow keeps the upper 8 bits of these
    coloured = any(RGB_OF_16_BITS.search(str(tile)) for tile in file.tile)
    file.load()
    image: Image.Image = file
    largest = None
    if file.mode.startswith("I;16") or (file.mode == "I" and file.format == "PPM"):
        grey = np.asarray(file).astype(np.uint32)
        largest = int(grey.max())
        grey[grey == file.info.get("transparency")] = 65535
        image = Image.fromarray(((grey + DIVISOR // 2) // DIVISOR).astype(np.uint8))
    elif file.mode in UNKNOWN_RANGE:
        raise ValueError(
            f"{UNKNOWN_RANGE[file.mode]} has no known range of brightness; convert it to 8 bits"
        )
    elif coloured:
        largest = int(np.asarray(file.convert("RGB")).max()) * 256 + 255
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, BACKGROUND), layer)
    image = image.convert("RGB")
    with suppress(Exception):  # a damaged EXIF; the pixels are whole
        if (orientation := file.getexif().get(0x0112, 1)) in range(2, 9):
            image = image.transpose(TURNS[orientation - 2])
    if largest is not None:
        image.info[LARGEST] = largest
    return image


def fit_image(image: Image.Image, size: tuple[int, int], fit: str) -> NDArray[np.uint8]:
    """An RGB image in another size (height, width), by `crop`, `pad` or `squash` -> uint8 (height,
    width, 3)."""
    target = (size[1], size[0])
    bicubic = Image.Resampling.BICUBIC
    if fit == "crop":
        fitted = ImageOps.fit(image, target, bicubic)
    else:
        fitted = (
            image.resize(target, bicubic)
            if fit == "squash"
            else ImageOps.pad(image, target, bicubic, PAD)
        )
    return np.asarray(fitted)


def around_crop(
    image: Image.Image, size: tuple[int, int]
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """The whole RGB image as large as `fit_image` has it when it crops it to a size -> uint8 (H, W,
    3).

    With it, top and left of the crop, which holds the same pixels.
    """
    scale = max(size[0] / image.height, size[1] / image.width)
    whole = max(size[1], round(image.width * scale)), max(size[0], round(image.height * scale))
    pixels = np.array(image.resize(whole, Image.Resampling.BICUBIC))
    top = (whole[1] - size[0]) // 2
    left = (whole[0] - size[1]) // 2
    pixels[top : top + size[0], left : left + size[1]] = fit_image(image, size, "crop")
    return pixels, (top, left)


def content_boxes(sizes: NDArray[Any], target: tuple[int, int], fit: str) -> NDArray[np.int32]:
    """Where images of some sizes (N, 2) lie in a square that `fit_image` makes of them -> (N, 4),
    in its pixels.

    A size is height and width, a box top, left, bottom and right. Of `pad` the rest is grey; else
    the box is all of it.
    """
    inner = np.tile(np.asarray(target), (len(sizes), 1))
    outer = np.asarray(target)
    if fit == "pad":  # as ImageOps.pad computes it
        height, width = sizes.T.astype(float)
        tall, wide = outer
        flat = width / height > wide / tall
        inner[flat, 0] = np.rint(height / width * wide)[flat]
        inner[~flat, 1] = np.rint(width / height * tall)[~flat]
    start = np.rint((outer - inner) * 0.5)
    return np.concatenate([start, start + inner], axis=1).astype(np.int32)


def image_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files below a folder whose names are those of images, and the others, each in order; hidden
    ones are neither.

    Links are followed, to a folder once, and never to one that the link lies in.
    """
    images, others = image_names(folder)
    return [folder / name for name in images], [folder / name for name in others]


def image_names(folder: Path) -> tuple[list[str], list[str]]:
    """As `image_files`, as text relative to the folder, which takes a fraction of the memory."""
    seen = {parent.resolve() for parent in folder.absolute().parents}
    shown = []
    for root, folders, names in os.walk(folder, onerror=_stop, followlinks=True):
        here = Path(root)
        if here.resolve() in seen:
            folders.clear()
            continue
        seen.add(here.resolve())
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = "" if here == folder else here.relative_to(folder).as_posix() + "/"
        shown += [
            below + name
            for name in names
            if not name.startswith(".") and _may_be_file(f"{root}/{name}")
        ]
    shown.sort(key=(lambda name: name.split("/")) if any("/" in name for name in shown) else None)
    return [name for name in shown if named_as_image(name)], [
        name for name in shown if not named_as_image(name)
    ]


def _may_be_file(path: str) -> bool:
    # As text: Python keeps a table of the names of all paths, which never shrinks. A link to
    # nothing is a broken file.
    return os.path.isfile(path) or not os.path.exists(path)  # noqa: PTH110, PTH113


def named_as_image(path: str | Path) -> bool:
    """Whether its name ends like those of images that Pillow can open."""
    return (
        Image.registered_extensions().get(os.path.splitext(path)[1].lower(), "PDF") not in NO_IMAGES
    )


def image_type(name: bytes) -> str:
    """The format that a file's name stands for: JPEG for .jpg and .jpeg."""
    ending = os.path.splitext(name)[1].decode(errors="replace")
    return Image.registered_extensions().get(ending.lower(), ending)


def _stop(error: OSError) -> None:
    raise error
